"""scikit-learn's digits."""

import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxcl.data import Digits


def test_all_are_scikit_learns():
    source = Digits(split="all").open()
    levels, labels = load_digits(return_X_y=True)
    assert source.image_shape == (8, 8, 1)
    assert source.label_names == tuple("0123456789")
    np.testing.assert_array_equal(source.labels, labels)
    images = np.stack([source[record]["image"] for record in range(1797)])
    assert images.dtype == np.uint8
    # 17 levels from black to white
    np.testing.assert_array_equal(np.rint(images.reshape(1797, 64) / 255 * 16), levels)
    assert (images.min(), images.max()) == (0, 255)


def test_split_is_whole_stratified_and_fixed():
    parts = {split: Digits(split=split).open() for split in ("train", "test", "all")}
    records = {split: np.array(source.names, int) for split, source in parts.items()}
    assert [len(part) for part in parts.values()] == [1500, 297, 1797]
    together = np.concatenate([records["train"], records["test"]])
    np.testing.assert_array_equal(np.sort(together), records["all"])
    for split in ("train", "test"):
        expected = np.bincount(parts["all"].labels) * len(parts[split]) / 1797
        assert np.abs(np.bincount(parts[split].labels) - expected).max() < 1
        for place in (0, 7, 296):  # the name leads back to the same digit
            original = parts["all"][records[split][place]]
            np.testing.assert_array_equal(parts[split][place]["image"], original["image"])
            assert parts[split][place]["label"] == original["label"]
    # The same digits in every version and on every machine, or published scores lose their meaning.
    digest = hashlib.sha256(records["test"].astype("<i4").tobytes()).hexdigest()
    assert digest[:16] == "ab0d2e656f57c819"


def test_size():
    assert Digits(split="test", size=16).open().image_shape == (16, 16, 1)


def test_unknown_split():
    with pytest.raises(ValueError, match="'valid' is none of train, test, all"):
        Digits(split="valid").open()
