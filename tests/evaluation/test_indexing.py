"""Indexes: every format finds what an exhaustive search finds; interrupted ones go on."""

import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from short_runs import quickstart

from jaxcl.cli import main
from jaxcl.evaluation import indexing
from jaxcl.evaluation.index_files import SUFFIXES, Rows, open_index, write_index
from jaxcl.training import UserError

WIDTH, COUNT = 16, 300


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(0).normal(size=(COUNT, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(23):
        picture = Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8))
        picture.save(folder / f"{number:02d}.png")
    return folder


def rows_of(features):
    def parts():
        for start in range(0, len(features), 70):
            yield features[start : start + 70]

    names = np.array([f"picture {row}" for row in range(len(features))])
    return Rows(parts, *features.shape, {"names": names}, {"source": "folder", "array": "image"})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_finds_the_nearest(features, tmp_path, suffix):
    path = tmp_path / f"index{suffix}"
    write_index(path, rows_of(features))
    index = open_index(path)
    assert (len(index), index.width) == (COUNT, WIDTH)
    assert index.about["source"] == "folder"
    query = np.random.default_rng(1).normal(size=WIDTH).astype(np.float32)
    cosines = features @ query / np.linalg.norm(features, axis=1) / np.linalg.norm(query)
    expected = np.argsort(-cosines)[:5]
    rows, similarities = index.search(query, 5)
    assert rows.tolist() == expected.tolist()  # usearch's graph is exact for so few
    np.testing.assert_allclose(similarities, cosines[expected], atol=1e-5)
    assert index.names(rows) == [f"picture {row}" for row in expected]


def test_others_read_the_formats(features, tmp_path):
    for suffix in (".npz", ".parquet"):
        write_index(tmp_path / f"index{suffix}", rows_of(features))
    with np.load(tmp_path / "index.npz") as file:
        np.testing.assert_array_equal(file["features"], features)
        assert str(file["source"]) == "folder"
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(tmp_path / "index.parquet")
    np.testing.assert_array_equal(np.stack(table["features"].to_numpy()), features)
    assert table["names"][7].as_py() == "picture 7"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_index_is_said(features, tmp_path, suffix):
    path = tmp_path / f"index{suffix}"
    write_index(path, rows_of(features))
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"hello" * 100):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"is no index.*damaged"):
            open_index(path)


@pytest.mark.parametrize("suffix", [".faiss", ".usearch"])
def test_an_index_without_its_names_or_with_others(features, tmp_path, suffix):
    path = tmp_path / f"index{suffix}"
    write_index(path, rows_of(features[:20]))
    shutil.copy(tmp_path / f"index{suffix}.npz", tmp_path / "other.npz")
    write_index(path, rows_of(features))
    shutil.copy(tmp_path / "other.npz", tmp_path / f"index{suffix}.npz")
    with pytest.raises(ValueError, match=r"is no index that .* has the names of"):
        open_index(path)
    (tmp_path / f"index{suffix}.npz").unlink()
    with pytest.raises(FileNotFoundError, match="holds the names of"):
        open_index(path)


@pytest.mark.parametrize("suffix", [".faiss", ".usearch"])
def test_names_of_another_index_are_refused(features, tmp_path, suffix):
    path = tmp_path / f"index{suffix}"
    write_index(path, rows_of(features))
    before = path.read_bytes()
    write_index(path, rows_of(features[::-1].copy()))
    path.write_bytes(before)  # as many, in another order
    with pytest.raises(ValueError, match="is no index that"):
        open_index(path)


def test_one_call_at_a_time_writes_an_index(tmp_path):
    parts = indexing._Parts(tmp_path / "i.npz", "digest", 3)
    words = "is being written by another call"
    with parts.alone(), pytest.raises(UserError, match=words), parts.alone():
        pass
    with parts.alone():
        pass
    assert not list(tmp_path.iterdir())


def test_features_that_are_not_finite_leave_what_was_there(features, tmp_path):
    path = tmp_path / "index.npz"
    write_index(path, rows_of(features))
    before = path.read_bytes()
    bad = features.copy()
    bad[71, 3] = np.nan
    with pytest.raises(ValueError, match=r"not finite \(row 1 of a part\)"):
        write_index(path, rows_of(bad))
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["index.npz"]


@pytest.mark.parametrize(
    ("suffix", "module", "extra"),
    [
        (".parquet", "pyarrow.parquet", "parquet"),
        (".faiss", "faiss", "faiss"),
        (".usearch", "usearch.index", "usearch"),
    ],
)
def test_a_missing_extra_is_named(suffix, module, extra, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["embed", "run", str(tmp_path), "--out", str(tmp_path / f"i{suffix}")]) == 2
    assert f'pip install "jaxcl[{extra}]"' in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return quickstart(tmp_path_factory)


@pytest.mark.slow
def test_an_interrupted_one_goes_on(run, pictures, tmp_path, monkeypatch, capsys):
    command = ["embed", str(run), str(pictures), "--batch-size", "4"]
    assert main([*command, "--out", str(tmp_path / "whole.npz")]) == 0
    read, interrupted = indexing.read_batches, []

    def interrupt(*arguments, **options):
        for number, batch in enumerate(read(*arguments, **options)):
            if number == 3:
                interrupted.append(True)
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(indexing, "_PART_ROWS", 8)
    monkeypatch.setattr(indexing, "read_batches", interrupt)
    out = tmp_path / "parts.npz"
    assert main([*command, "--out", str(out)]) == 130
    assert interrupted
    assert not out.exists()
    assert (tmp_path / "parts.npz.parts").is_dir()
    monkeypatch.setattr(indexing, "read_batches", read)
    capsys.readouterr()
    assert main([*command, "--out", str(out)]) == 0
    assert "(8 rows were there from before)" in capsys.readouterr().out
    assert not (tmp_path / "parts.npz.parts").exists()
    whole, parts = np.load(tmp_path / "whole.npz"), np.load(out)
    assert set(whole.files) == set(parts.files)
    for name in whole.files:
        np.testing.assert_array_equal(whole[name], parts[name])


@pytest.mark.slow
def test_parts_of_other_pictures_are_not_taken(run, pictures, tmp_path, monkeypatch, capsys):
    out, others = tmp_path / "i.npz", tmp_path / "others"
    command = ["embed", str(run), str(pictures), "--out", str(out)]
    monkeypatch.setattr(indexing, "write_index", _fail)
    assert main(command) == 2
    assert (tmp_path / "i.npz.parts").is_dir()
    monkeypatch.undo()
    shutil.copytree(pictures, others)
    shutil.copy(others / "06.png", others / "05.png")
    command[2] = str(others)
    capsys.readouterr()
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "23 x" in said
    assert "from before" not in said


def _fail(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_embedded_pictures_are_found_by_themselves(run, pictures, tmp_path, capsys, suffix):
    out, sheet = str(tmp_path / f"i{suffix}"), tmp_path / "found.png"
    assert main(["embed", str(run), str(pictures), "--out", out]) == 0
    capsys.readouterr()
    query = ["--image", str(pictures / "07.png"), "--count", "3", "--out", str(sheet)]
    assert main(["search", str(run), "--index", out, *query]) == 0
    found = capsys.readouterr().out.splitlines()
    assert found[0] == "1.000  07.png"
    assert len(found) == 4
    assert Image.open(sheet).size[0] > 300


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_index_of_another_width_is_refused(run, features, pictures, tmp_path, capsys, suffix):
    path = tmp_path / f"i{suffix}"
    write_index(path, rows_of(features))
    query = ["--image", str(pictures / "07.png")]
    assert main(["search", str(run), "--index", str(path), *query]) == 2
    assert "holds features of width 16, the query's are" in capsys.readouterr().err
