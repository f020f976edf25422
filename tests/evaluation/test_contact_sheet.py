"""The sheet of views: every tile is the picture that it should be, where it should be."""

import jax
import numpy as np
import pytest
from PIL import Image

from jaxcl import augment, data
from jaxcl.cli import main
from jaxcl.evaluation.contact_sheet import contact_sheet


def tile(sheet, left, top, side):
    return np.asarray(sheet)[top : top + side, left : left + side]


@pytest.mark.slow
def test_tiles_are_pictures_and_their_views_unnormalized():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    source = [{"image": image} for image in images]
    views = augment.multi_crop(augment.simclr(64), 32, crops=1)
    sheet = contact_sheet(source, views, examples=2, seed=5)
    assert sheet.size == (6 + 4 * 70, 36 + 2 * 70)
    drawn = augment.batch_views(views, jax.random.key(5), images[:2], np.arange(2))
    mean, std = augment.IMAGENET_MEAN, augment.IMAGENET_STD
    for row in range(2):
        top = 36 + 70 * row
        np.testing.assert_array_equal(tile(sheet, 6, top, 64), images[row])
        for column, side in ((1, 64), (2, 64), (3, 32)):
            found = tile(sheet, 6 + 70 * column, top, side)
            wanted = np.clip(np.asarray(drawn[column - 1][row]) * std + mean, 0, 1) * 255
            assert np.abs(found - wanted).max() <= 0.51  # rounded
        assert np.all(tile(sheet, 6 + 70 * 3 + 32, top, 32) == 255)  # beside the small crop


@pytest.mark.slow
def test_small_grey_pictures_are_enlarged():
    source = data.Digits("test").open()
    sheet = contact_sheet(source, augment.crops(8), examples=3)
    assert sheet.size == (6 + 3 * 70, 36 + 3 * 70)
    assert len(source) == 297  # the examples lie a third apart
    wanted = source[99]["image"].repeat(8, axis=0).repeat(8, axis=1)
    np.testing.assert_array_equal(tile(sheet, 6, 36 + 70, 64), np.repeat(wanted, 3, axis=2))


def test_normalization_within_a_part_of_the_recipe_is_undone():
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    normalize = augment.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    inner = augment.Compose((augment.Compose((normalize,)),))
    sheet = contact_sheet([{"image": images[0]}], augment.Views((inner,)), examples=1)
    found = tile(sheet, 6 + 70, 36, 64)
    assert np.abs(found.astype(int) - images[0]).max() <= 1


CONFIG = """
from jaxcl import augment, data, encoders, methods, training
def config():
    return training.Experiment(data.Digits(), augment.crops(8), methods.SimCLR(encoders.MLP((8,))))
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    return str(path)


@pytest.mark.slow
def test_the_command_draws_and_prints_the_recipe(config, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    assert main(["views", config, "--out", str(out), "--examples", "2", "--seed", "3"]) == 0
    assert Image.open(out).size == (6 + 3 * 70, 36 + 2 * 70)
    printed = capsys.readouterr().out
    assert printed.startswith(str(augment.crops(8)))
    assert "2 examples" in printed


@pytest.mark.slow
def test_dotted_options_change_what_is_drawn(config, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    command = ["views", config, "--out", str(out), "--examples"]
    assert main([*command, "298", "--data.split", "test"]) == 2
    assert "expected 1 to 297" in capsys.readouterr().err
    assert main([*command, "297", "--data.split", "test"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "s.png", "--data.splt", "test"], "--data.split"),
        (["--out", "sheet.jpg"], "--out is sheet.jpg, expected a file that ends in .png"),
        (["--out", "s.png", "--examples", "0"], "examples is 0, expected 1 to 1500"),
        (["--out", "s.png", "--examples", "1501"], "examples is 1501, expected 1 to 1500"),
        (["--out", "no/such/folder/s.png"], "no/such/folder"),
    ],
)
def test_wrong_input_is_one_line(config, options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["views", config, *options]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("jaxcl: error: ")
    assert message in line
    assert not list(tmp_path.glob("*.png"))
