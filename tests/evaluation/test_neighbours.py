import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from sklearn.datasets import load_digits

from jaxcl.evaluation import neighbour_sheet
from jaxcl.evaluation.neighbours import _RIGHT, _WRONG

IMAGES = load_digits().images[:40] / 16
PIXELS = IMAGES.reshape(40, -1)
LABELS = load_digits().target[:40]


def pixels_of(path, colour):
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int(np.all(np.abs(picture - 255 * np.array(to_rgb(colour))) < 2, axis=-1).sum())


def draw(path, **changes):
    arguments = {
        "images": IMAGES,
        "features": PIXELS,
        "query_images": IMAGES[:3],
        "query_features": PIXELS[:3],
        "k": 4,
        **changes,
    }
    neighbour_sheet(path=path, **arguments)
    return path


@pytest.mark.slow
def test_frames_say_right_and_wrong(tmp_path):
    same = {"labels": np.zeros(40, int), "query_labels": np.zeros(3, int)}
    right = draw(tmp_path / "right.png", **same)
    assert pixels_of(right, _RIGHT) > 1000
    assert pixels_of(right, _WRONG) == 0
    wrong = draw(tmp_path / "wrong.png", **{**same, "query_labels": np.ones(3, int)})
    assert pixels_of(wrong, _WRONG) > 1000
    assert pixels_of(wrong, _RIGHT) == 0
    plain = draw(tmp_path / "plain.png")
    assert pixels_of(plain, _RIGHT) == pixels_of(plain, _WRONG) == 0


def test_the_neighbours_pictures_are_shown(tmp_path):
    # Each image one colour, each query most like one known image: its colour fills one cell.
    colours = np.random.default_rng(0).integers(0, 200, (10, 3)).astype(np.uint8)
    images = np.broadcast_to(colours[:, None, None], (10, 4, 4, 3))
    path = draw(
        tmp_path / "sheet.png",
        images=images,
        features=np.eye(10),
        query_images=np.full((1, 4, 4, 3), 255, np.uint8),
        query_features=np.eye(10)[[7]],
        k=1,
    )
    assert pixels_of(path, colours[7] / 255) > 10_000
    assert pixels_of(path, colours[3] / 255) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "convert",
    [
        lambda images: images[..., None],
        lambda images: (255 * images).round().astype(np.uint8),
        lambda images: np.repeat(images[..., None], 3, axis=-1),
        lambda images: np.repeat((255 * images).round().astype(np.uint8)[..., None], 3, axis=-1),
    ],
    ids=["grey channel", "uint8", "RGB", "RGB uint8"],
)
def test_formats_of_one_picture_look_the_same(tmp_path, convert):
    plain = np.asarray(Image.open(draw(tmp_path / "plain.png"))).astype(int)
    converted = draw(
        tmp_path / "other.png", images=convert(IMAGES), query_images=convert(IMAGES[:3])
    )
    difference = np.abs(plain - np.asarray(Image.open(converted)).astype(int))
    assert difference.max() <= 1  # rounding to 256 levels


def test_equal_sheets_are_equal_bytes(tmp_path):
    first, second = draw(tmp_path / "a.png"), draw(tmp_path / "b.png")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
def test_importing_evaluation_imports_neither_matplotlib_nor_scikit_learn_nor_rich():
    program = (
        "import sys; import jaxcl.evaluation; "
        "print(sorted({'matplotlib', 'sklearn', 'rich', 'flax', 'orbax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": IMAGES[:5]}, "features has 40 rows for 5 images"),
        ({"images": IMAGES * 3}, "expected uint8 or floats in"),
        ({"images": np.full((40, 8, 8), np.nan)}, "expected uint8 or floats in"),
        ({"images": np.zeros((40, 8, 8, 4))}, r"\(40, 8, 8, 4\), expected"),
        ({"labels": LABELS}, "labels and query_labels belong together"),
        ({"k": 41}, "k is 41"),
        (
            {"labels": LABELS, "query_labels": LABELS[:3], "class_names": ["zero"]},
            "class_names has 1 names, but a label is 9",
        ),
        ({"query_images": np.zeros((51, 8, 8)), "query_features": np.ones((51, 64))}, "is 51"),
    ],
)
def test_bad_input_is_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        draw(tmp_path / "sheet.png", **change)
    assert not (tmp_path / "sheet.png").exists()
