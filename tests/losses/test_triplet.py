"""triplet and distance_difference against their equations."""

import jax
import numpy as np
import pytest

from jaxcl import losses

triplet = jax.jit(losses.triplet, static_argnames="distance")
distance_difference = jax.jit(losses.distance_difference, static_argnames="distance")

N, K, D = 5, 3, 4
WHERE = np.array([True, False, True, True, True])


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(N, D)), rng.normal(size=(N, D)), rng.normal(size=(N, K, D))


def distance_of(name, x, y):
    if name == "cosine":
        return 1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    return np.sum((x - y) ** 2) ** (0.5 if name == "euclidean" else 1)


@pytest.mark.parametrize("distance", ["euclidean", "squared_euclidean", "cosine"])
def test_equations(rows, distance):
    differences = np.array(
        [
            [distance_of(distance, a, p) - distance_of(distance, a, n) for n in negatives]
            for a, p, negatives in zip(*rows, strict=True)
        ]
    )  # [N, K]
    hinged = np.maximum(differences + 0.5, 0)
    assert np.any(hinged == 0)
    assert np.any(hinged > 0)
    anchor, positive, negatives = rows
    check = np.testing.assert_allclose
    found = triplet(*rows, margin=0.5, distance=distance)
    check(found, hinged.mean(1), rtol=1e-5, atol=1e-6)
    found = distance_difference(*rows, distance=distance)
    check(found, differences.mean(1), rtol=1e-5, atol=1e-6)

    one = anchor, positive, negatives[:, 0]
    check(triplet(*one, margin=0.5, distance=distance), hinged[:, 0], rtol=1e-5, atol=1e-6)
    check(
        distance_difference(*one, distance=distance, where=WHERE),
        np.where(WHERE, differences[:, 0], 0),
        rtol=1e-5,
        atol=1e-6,
    )


def test_defaults(rows):
    np.testing.assert_array_equal(
        triplet(*rows, margin=0.5), triplet(*rows, margin=0.5, distance="euclidean")
    )
    np.testing.assert_array_equal(
        distance_difference(*rows), distance_difference(*rows, distance="cosine")
    )
