"""PCA whitening against the covariance that it promises, and where features hardly vary."""

import numpy as np
import pytest

from jaxcl.evaluation import fit_whitening

RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((300, 6)) @ RNG.standard_normal((6, 6)) + 4.0


def test_whitened_features_are_uncorrelated_with_variance_one():
    whitened = fit_whitening(FEATURES, 6)(FEATURES)
    np.testing.assert_allclose(whitened.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.cov(whitened.T), np.eye(6), atol=1e-4)


def test_the_directions_of_most_variance_are_kept():
    left, singular, right = np.linalg.svd(FEATURES - FEATURES.mean(axis=0), full_matrices=False)
    whitening = fit_whitening(FEATURES, 2)
    found = whitening(FEATURES)
    signs = np.sign((found * left[:, :2]).sum(axis=0))  # of a direction it is nobody's
    np.testing.assert_allclose(found * signs, left[:, :2] * 299**0.5, atol=1e-4)
    moved = whitening(FEATURES + np.arange(6)) - found
    step = right[:2] @ np.arange(6) / singular[:2] * 299**0.5 * signs
    np.testing.assert_allclose(moved, np.broadcast_to(step, moved.shape), atol=1e-4)


def test_a_large_mean_costs_no_accuracy():
    nearly_collapsed = 0.7 + 1e-3 * RNG.standard_normal((2000, 64))
    whitened = fit_whitening(nearly_collapsed, 64)(nearly_collapsed)
    np.testing.assert_allclose(whitened.var(axis=0, ddof=1), np.ones(64), atol=1e-3)


def test_directions_that_do_not_vary_are_left_out():
    repeated = np.concatenate([FEATURES, FEATURES[:, :2], np.ones((300, 1))], axis=1)
    whitening = fit_whitening(repeated, 9)
    assert whitening.directions.shape == (9, 6)
    np.testing.assert_allclose(np.cov(whitening(repeated).T), np.eye(6), atol=1e-4)
    assert fit_whitening(FEATURES[:4], 6).directions.shape == (6, 3)


@pytest.mark.parametrize("value", [0.0, 0.7, 1e6])
def test_equal_features_become_one_zero(value):
    equal = np.full((20, 3), value)
    np.testing.assert_array_equal(fit_whitening(equal, 2)(equal), np.zeros((20, 1)))


@pytest.mark.parametrize(
    ("features", "dims", "message"),
    [
        (FEATURES, 0, "dims is 0, expected at least 1"),
        (FEATURES[:1], 2, "one example cannot be whitened"),
        (FEATURES[0], 2, "features has shape"),
    ],
)
def test_bad_input_is_named(features, dims, message):
    with pytest.raises(ValueError, match=message):
        fit_whitening(features, dims)


def test_features_of_another_width_are_refused():
    with pytest.raises(ValueError, match="features has width 5, expected 6"):
        fit_whitening(FEATURES, 2)(FEATURES[:, :5])
