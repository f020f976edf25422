import numpy as np
import pytest

from jaxcl.evaluation import fit_whitening

RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((300, 6)) * [5, 4, 3, 2, 1.5, 1] + RNG.standard_normal((300, 1)) + 4


def test_whitened_features_are_uncorrelated_with_variance_one():
    whitened = fit_whitening(FEATURES, 6)(FEATURES)
    np.testing.assert_allclose(whitened.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.cov(whitened.T), np.eye(6), atol=1e-5)


def test_the_directions_of_most_variance_are_kept():
    values, vectors = np.linalg.eigh(np.cov(FEATURES.T))
    expected = (FEATURES - FEATURES.mean(axis=0)) @ vectors[:, :-3:-1] / np.sqrt(values[:-3:-1])
    others = FEATURES[:5] + 1.0
    whitening = fit_whitening(FEATURES, 2)
    # The sign of a direction is nobody's.
    np.testing.assert_allclose(np.abs(whitening(FEATURES)), np.abs(expected), atol=1e-4)
    shift = whitening(others) - whitening(FEATURES[:5])
    np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape), atol=1e-4)


def test_directions_without_variance_are_left_out():
    flat = np.concatenate([FEATURES, FEATURES[:, :2], np.ones((300, 1))], axis=1)
    whitening = fit_whitening(flat, 9)
    assert whitening.directions.shape == (9, 6)
    np.testing.assert_allclose(np.cov(whitening(flat).T), np.eye(6), atol=1e-4)
    equal = np.ones((20, 3))
    np.testing.assert_array_equal(fit_whitening(equal, 2)(equal), np.zeros((20, 1)))


@pytest.mark.parametrize(
    ("features", "dims", "message"),
    [
        (FEATURES, 0, "dims is 0, expected at least 1"),
        (FEATURES[:1], 2, "features hold one example"),
        (FEATURES[0], 2, "features has shape"),
    ],
)
def test_bad_input_is_named(features, dims, message):
    with pytest.raises(ValueError, match=message):
        fit_whitening(features, dims)


def test_features_of_another_width_are_refused():
    with pytest.raises(ValueError, match="features has width 5, expected 6"):
        fit_whitening(FEATURES, 2)(FEATURES[:, :5])
