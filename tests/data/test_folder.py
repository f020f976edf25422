"""Folders of image files."""

import os
import pickle

import numpy as np
import pytest
from PIL import Image

from jaxcl.data import Folder


def save(path, value=0, size=(6, 4)):
    """Writes a picture of one grey value; size is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value,) * 3).save(path)


def values(source):
    return [int(source[record]["image"][0, 0, 0]) for record in range(len(source))]


def test_finds_images_by_ending_ordered_by_path(tmp_path):
    for value, name in enumerate(["a/2.png", "a/10.PNG", "b.jpg", "ä/日本.png", "c/d/e.bmp"]):
        save(tmp_path / name, 10 * value)
    for name in ("notes.txt", "labels.json", ".DS_Store", "a/._2.png", ".cache/x.png", "noending"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no image")
    (tmp_path / "folder.png").mkdir()
    source = Folder(str(tmp_path)).open()
    assert source.names == ["a/10.PNG", "a/2.png", "b.jpg", "c/d/e.bmp", "ä/日本.png"]
    assert values(source) == [10, 0, 20, 40, 30]
    assert source.image_shape == (4, 6, 3)
    assert source.labels is None
    assert "label" not in source[0]
    assert not any(source[record]["replaced"] for record in range(5))


def test_labels_are_the_folders_directly_below(tmp_path):
    for name in ("dog/1.png", "cat/deep/1.png", "cat/2.png"):
        save(tmp_path / name)
    source = Folder(str(tmp_path), labels="subfolders").open()
    assert source.names == ["cat/2.png", "cat/deep/1.png", "dog/1.png"]
    assert source.label_names == ("cat", "dog")
    assert source.labels.tolist() == [0, 0, 1]
    assert [int(source[record]["label"]) for record in range(3)] == [0, 0, 1]


def test_labels_refuse_images_outside_subfolders(tmp_path):
    save(tmp_path / "dog/1.png")
    save(tmp_path / "loose.png")
    with pytest.raises(ValueError, match=r"1 files lie directly in .* as loose\.png"):
        Folder(str(tmp_path), labels="subfolders").open()


def test_size_and_channels(tmp_path):
    save(tmp_path / "wide.png", 50, size=(9, 4))
    save(tmp_path / "tall.png", 60, size=(30, 40))
    source = Folder(str(tmp_path), size=5, channels=1).open()
    assert source.image_shape == (5, 5, 1)
    assert values(source) == [60, 50]
    assert all(source[record]["image"].shape == (5, 5, 1) for record in range(2))


def test_one_size_expected_another_comes(tmp_path):
    save(tmp_path / "a.png", size=(6, 4))
    save(tmp_path / "b.png", size=(8, 5))
    with pytest.raises(ValueError, match=r"b\.png is 8x5 pixels, expected 6x4 .*: set size"):
        Folder(str(tmp_path)).open()


def test_one_size_is_that_of_the_upright_picture(tmp_path):
    save(tmp_path / "a.png", size=(6, 4))
    orientation = Image.Exif()
    orientation[0x0112] = 6  # a quarter turn
    Image.new("RGB", (4, 6)).save(tmp_path / "b.png", exif=orientation)
    (tmp_path / "c.png").write_bytes(b"damaged")
    source = Folder(str(tmp_path)).open()
    assert source[1]["image"].shape == source.image_shape == (4, 6, 3)
    Image.new("RGB", (6, 4)).save(tmp_path / "b.png", exif=orientation)
    with pytest.raises(ValueError, match=r"b\.png is 4x6 pixels, expected 6x4"):
        Folder(str(tmp_path)).open()


def test_a_size_that_was_not_looked_at_is_seen_when_read(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxcl.data.folder._HEADERS_READ", 2)  # the first and the last
    for name, size in [("a", (6, 4)), ("b", (8, 5)), ("c", (6, 4))]:
        save(tmp_path / f"{name}.png", size=size)
    source = Folder(str(tmp_path)).open()
    with pytest.raises(ValueError, match=r"b\.png is 8x5 pixels, expected 6x4 .*: set size"):
        source[1]


def test_damaged_files_are_replaced_by_the_next(tmp_path):
    for value, name in enumerate(["a/0.png", "a/1.png", "b/2.png", "b/3.png"]):
        save(tmp_path / name, value)
    whole = (tmp_path / "a/1.png").read_bytes()
    (tmp_path / "a/1.png").write_bytes(whole[:-30])
    (tmp_path / "b/3.png").write_bytes(b"")
    source = Folder(str(tmp_path), labels="subfolders").open()
    assert values(source) == [0, 2, 2, 0]  # after the last comes the first
    assert [source[record]["replaced"] for record in range(4)] == [False, True, False, True]
    # The label is that of the picture seen.
    assert [int(source[record]["label"]) for record in range(4)] == [0, 1, 1, 0]
    copy = pickle.loads(pickle.dumps(source))  # as in another process
    np.testing.assert_array_equal(copy[1]["image"], source[1]["image"])


def test_first_file_damaged(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    save(tmp_path / "b.png", 7)
    source = Folder(str(tmp_path)).open()
    assert source.image_shape == (4, 6, 3)
    assert values(source) == [7, 7]


def test_file_that_went_away_and_dangling_link(tmp_path):
    save(tmp_path / "a.png", 1)
    save(tmp_path / "b.png", 2)
    (tmp_path / "c.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "d.png").symlink_to(tmp_path / "d.png")
    source = Folder(str(tmp_path)).open()
    (tmp_path / "b.png").unlink()
    assert [source[record]["replaced"] for record in range(4)] == [False, True, True, True]
    assert values(source) == [1, 1, 1, 1]


def test_link_loops_end_and_each_folder_is_read_once(tmp_path):
    outside = tmp_path / "outside"
    save(outside / "far.png", 9)
    root = tmp_path / "root"
    save(root / "a/1.png", 1)
    (root / "a/up").symlink_to(root)
    (root / "a/self").symlink_to(root / "a")
    (root / "linked").symlink_to(outside)
    (root / "again").symlink_to(outside)
    (outside / "back").symlink_to(root)
    (root / "file.png").symlink_to(outside / "far.png")
    assert Folder(str(root)).open().names == ["a/1.png", "again/far.png", "file.png"]


@pytest.mark.timeout(20)
def test_pipes_are_passed_over(tmp_path):
    save(tmp_path / "b.png", 1)
    os.mkfifo(tmp_path / "a.png")
    assert Folder(str(tmp_path)).open().names == ["b.png"]


def test_missing_empty_and_unreadable_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="none is not a folder"):
        Folder(str(tmp_path / "none")).open()
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(ValueError, match="holds no image files"):
        Folder(str(tmp_path)).open()
    for number in range(70):
        (tmp_path / f"{number:02}.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"64 records in a row; the first: .*00\.png"):
        Folder(str(tmp_path)).open()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size 0"),
        ({"channels": 4}, "channels 4 is neither 1"),
        ({"labels": "files"}, "labels 'files' is none of none, subfolders"),
    ],
)
def test_refuses_options(tmp_path, options, message):
    save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=message):
        Folder(str(tmp_path), **options).open()


def test_opening_decodes_one_image_only(tmp_path):
    save(tmp_path / "a.png")
    for number in range(20):
        (tmp_path / f"b{number}.png").write_bytes(b"would raise if read without replacement")
    source = Folder(str(tmp_path)).open()
    for path in tmp_path.glob("b*.png"):  # what is read is what lies there now, not at opening
        save(path, 5)
    assert values(source)[1:] == [5] * 20
