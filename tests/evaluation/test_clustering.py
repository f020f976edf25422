"""Clusters against classes: known partitions, and the digits."""

import numpy as np
import pytest

from jaxcl import data
from jaxcl.evaluation import clustering


def blobs(classes, members, noise):
    generator = np.random.default_rng(0)
    centres = np.eye(classes)
    rows = np.repeat(centres, members, axis=0)
    return rows + noise * generator.standard_normal(rows.shape), np.repeat(
        np.arange(classes), members
    )


def test_separate_blobs_are_the_classes_and_length_does_not_matter():
    features, labels = blobs(5, 20, 0.1)
    features *= np.linspace(0.1, 10, 100)[:, None]
    found = clustering(features, labels)
    assert (found.nmi, found.ari) == (1.0, 1.0)
    assert len(np.unique(found.assignments)) == 5


def test_labels_at_random_agree_by_chance_only():
    features, labels = blobs(4, 100, 0.1)
    found = clustering(features, np.random.default_rng(1).permutation(labels))
    assert abs(found.ari) < 0.02
    assert found.nmi < 0.03


def test_halves_of_a_class_cost_half_a_bit():
    """Two classes in four clusters: MI log 2, entropies log 2 and log 4, so NMI 2 / 3."""
    features, labels = blobs(4, 30, 0.05)
    found = clustering(features, labels // 2, clusters=4)
    np.testing.assert_allclose(found.nmi, 2 / 3, rtol=1e-6)


def test_digits_cluster_by_their_pixels():
    source = data.Digits(split="test").open()
    pixels = np.stack([source[i]["image"].reshape(-1) for i in range(len(source))])
    assert 0.5 < clustering(pixels, source.labels).nmi < 0.9


def test_errors():
    with pytest.raises(ValueError, match="clusters is 5, but there are only 3 rows"):
        clustering(np.eye(3), [0, 1, 2], clusters=5)
