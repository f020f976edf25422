"""Arrays in memory and in .npz files."""

import numpy as np
import pytest

from jaxcl.data import Arrays, ArraySource


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def save(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def test_reads_images_and_labels(tmp_path, rng):
    images = rng.integers(0, 256, (5, 6, 7, 3), np.uint8)
    labels = np.array([3, 1, 4, 1, 5])
    source = Arrays(save(tmp_path / "a.npz", x=images, y=labels), image="x", label="y").open()
    assert len(source) == 5
    assert source.image_shape == (6, 7, 3)
    assert source.names == ["0", "1", "2", "3", "4"]
    assert source.labels.dtype == np.int32
    np.testing.assert_array_equal(source.labels, labels)
    for record in range(5):
        np.testing.assert_array_equal(source[record]["image"], images[record])
        assert source[record]["label"] == labels[record]
        assert source[record]["replaced"] is False


def test_grey_gets_a_channel_and_no_labels_give_none(tmp_path, rng):
    images = rng.integers(0, 256, (5, 6, 7), np.uint8)
    source = Arrays(save(tmp_path / "a.npz", image=images)).open()
    assert source.labels is None
    assert source.label_names is None
    assert "label" not in source[0]
    np.testing.assert_array_equal(source[2]["image"], images[2, ..., None])


def test_several_arrays_follow_one_another(tmp_path, rng):
    google, twitter = rng.integers(0, 256, (2, 3, 4, 4, 3), np.uint8)
    path = save(tmp_path / "a.npz", google=google, twitter=twitter, kind=["b", "a", "b"])
    source = Arrays(path, image=("google", "twitter"), label="kind").open()
    assert source.names == [
        "google/0",
        "google/1",
        "google/2",
        "twitter/0",
        "twitter/1",
        "twitter/2",
    ]
    np.testing.assert_array_equal(source[4]["image"], twitter[1])
    assert source.labels.tolist() == [1, 0, 1, 1, 0, 1]
    assert source.label_names == ("a", "b")


def test_one_label_for_each_of_all_images(tmp_path):
    path = save(
        tmp_path / "a.npz", a=np.zeros((2, 4, 4)), b=np.zeros((1, 4, 4)), y=np.array([7, 8, 9])
    )
    assert Arrays(path, image=("a", "b"), label="y").open().labels.tolist() == [7, 8, 9]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (np.uint8, np.uint8),
        (np.int64, np.uint8),
        (np.float64, np.float32),
        (np.float16, np.float32),
    ],
)
def test_dtypes(given, kept):
    values = (np.arange(16).reshape(1, 4, 4) / (16 if kept == np.float32 else 1)).astype(given)
    source = ArraySource(values)
    assert source[0]["image"].dtype == kept
    np.testing.assert_array_equal(source[0]["image"][..., 0], values[0])


@pytest.mark.parametrize("wrong", [-0.1, 1.5, np.nan])
def test_floats_out_of_range_are_refused(wrong):
    images = np.full((2, 4, 4), 0.5)
    images[1, 2, 3] = wrong
    with pytest.raises(ValueError, match="expected 0 to 1"):
        ArraySource(images)


def test_size_resizes_every_image_once(rng):
    flat = np.repeat(np.arange(3, dtype=np.uint8), 6 * 8).reshape(3, 6, 8)
    source = ArraySource(flat, size=4)
    assert source.image_shape == (4, 4, 1)
    for record in range(3):
        assert np.unique(source[record]["image"]).tolist() == [record]


@pytest.mark.parametrize(
    ("arrays", "config", "message"),
    [
        ({"x": np.zeros((2, 4, 4))}, {}, "holds no array 'image': it has x"),
        ({"image": np.zeros((2, 4, 4))}, {"label": "y"}, "holds no array 'y': it has image"),
        ({"image": np.zeros((2, 4))}, {}, r"have shape \(2, 4\)"),
        ({"image": np.zeros((0, 4, 4))}, {}, r"have shape \(0, 4, 4, 1\)"),
        ({"image": np.zeros((2, 3, 16, 16))}, {}, "channels first"),
        ({"image": np.full((2, 4, 4), 300)}, {}, "integers from 300 to 300"),
        ({"image": np.full((2, 4, 4), "a")}, {}, "dtype <U1"),
        (
            {"image": np.zeros((2, 4, 4)), "y": np.zeros(3, int)},
            {"label": "y"},
            r"labels have shape \(3,\), expected \(2,\)",
        ),
        (
            {"image": np.zeros((2, 4, 4)), "y": np.zeros(2)},
            {"label": "y"},
            "labels have dtype float64",
        ),
        (
            {"a": np.zeros((2, 4, 4)), "b": np.zeros((2, 5, 5))},
            {"image": ("a", "b")},
            "need one size and type: a float32",
        ),
        ({"image": np.zeros((2, 4, 4))}, {"size": 0}, "size 0 is not"),
        ({"image": np.array([{}, 1])}, {}, "pickled Python objects"),
    ],
)
def test_refuses(tmp_path, arrays, config, message):
    path = save(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        Arrays(path, **config).open()


def test_refuses_what_is_no_npz(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npz is not a file"):
        Arrays(str(tmp_path / "none.npz")).open()
    for name, content in (("text.npz", b"hello"), ("empty.npz", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"no \.npz file, or is cut short"):
            Arrays(str(tmp_path / name)).open()
    np.save(tmp_path / "a.npy", np.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match=r"no \.npz file"):
        Arrays(str(tmp_path / "a.npy")).open()


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_refuses_damaged_npz(tmp_path, rng, write):
    path = tmp_path / "a.npz"
    write(path, image=rng.integers(0, 256, (20, 8, 8), np.uint8))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut short"):
        Arrays(str(path)).open()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    path.write_bytes(flipped)
    with pytest.raises(ValueError, match="damaged"):
        Arrays(str(path)).open()
