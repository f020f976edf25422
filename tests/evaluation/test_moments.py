"""Measures of time, of verification and of regression against loops and scikit-learn."""

import itertools

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler

from jaxcl.evaluation import (
    alignment_error,
    equal_error_rate,
    kendalls_tau,
    linear_regression,
    min_dcf,
)

RANDOM = np.random.default_rng(0)


def test_alignment_is_how_far_the_nearest_is():
    first, second = RANDOM.normal(size=(2, 15, 3))
    apart = [
        abs(t - np.argmin([np.linalg.norm(row - other) for other in second]))
        for t, row in enumerate(first)
    ]
    np.testing.assert_allclose(alignment_error(first, second), np.mean(apart) / 15)
    assert alignment_error(first, first) == 0
    # Of features that are all the same none is nearest: as by chance.
    by_chance = np.mean([abs(i - j) for i, j in itertools.product(range(15), repeat=2)]) / 15
    np.testing.assert_allclose(alignment_error(np.ones((15, 2)), np.ones((15, 2))), by_chance)


def test_kendalls_tau_counts_pairs_in_order():
    first, second = RANDOM.normal(size=(12, 3)), RANDOM.normal(size=(9, 3))
    nearest = [np.argmin([np.linalg.norm(row - other) for other in second]) for row in first]
    signs = [np.sign(nearest[j] - nearest[i]) for i, j in itertools.combinations(range(12), 2)]
    np.testing.assert_allclose(kendalls_tau(first, second), np.mean(signs))
    line = np.arange(6.0)[:, None]
    assert kendalls_tau(line, line) == 1
    assert kendalls_tau(line, line[::-1]) == -1
    assert kendalls_tau(np.ones((6, 1)), np.ones((6, 1))) == 0


def test_rates_are_those_of_every_threshold():
    same = RANDOM.random(200) < 0.3
    scores = np.round(RANDOM.normal(size=200) + 1.3 * same, 1)  # with equal ones
    thresholds = [*np.unique(scores), np.inf]
    misses = np.array([np.mean(scores[same] < t) for t in thresholds])
    alarms = np.array([np.mean(scores[~same] >= t) for t in thresholds])
    costs = 2 * 0.05 * misses + 0.95 * alarms
    found = min_dcf(scores, same, target_prior=0.05, miss_cost=2)
    np.testing.assert_allclose(found, costs.min() / 0.1)
    # Where the two lines between thresholds cross.
    fine = np.linspace(0, len(thresholds) - 1, 200_001)
    places = np.arange(len(thresholds))
    missing, alarming = np.interp(fine, places, misses), np.interp(fine, places, alarms)
    cross = np.argmin(np.abs(missing - alarming))
    np.testing.assert_allclose(equal_error_rate(scores, same), missing[cross], atol=1e-4)


def test_scores_that_tell_all_or_nothing():
    same = np.arange(10) < 4
    assert equal_error_rate(same.astype(float), same) == 0
    assert min_dcf(same.astype(float), same) == 0
    assert equal_error_rate(-same.astype(float), same) == 1
    assert equal_error_rate(np.zeros(10), same) == 0.5
    assert min_dcf(np.zeros(10), same) == 1


@pytest.mark.parametrize("width", [5, 90], ids=["tall", "wide"])
def test_regression_is_ridge_of_the_strength_that_holds_for_other_groups(width):
    rows, probes = RANDOM.normal(size=(60, width)), RANDOM.normal(size=(30, width))
    rows[:, 1] *= 10
    weights = RANDOM.normal(size=(width, 2))
    targets = rows @ weights + RANDOM.normal(size=(60, 2)) * [0.1, 3]
    truth = probes @ weights + RANDOM.normal(size=(30, 2)) * [0.1, 3]
    groups = np.repeat(np.arange(12), 5)
    found = linear_regression(rows, targets, probes, truth, groups=groups, seed=4)
    held_out = np.isin(groups, np.random.default_rng(4).permutation(12)[:2])
    errors = {}
    for strength in 10.0 ** np.arange(-3, 7):
        told = of_scikit_learn(rows[~held_out], targets[~held_out], rows[held_out], strength)
        errors[strength] = np.mean((told - targets[held_out]) ** 2 / targets.var(0))
    told = of_scikit_learn(rows, targets, probes, min(errors, key=errors.get))
    np.testing.assert_allclose(found, r2_score(truth, told, multioutput="raw_values"), atol=1e-4)
    constant = linear_regression(rows, targets, probes, np.ones((30, 2)))
    assert (constant == 0).all()


def of_scikit_learn(rows, targets, probes, strength):
    """Ridge regression on standardized features."""
    rows, probes = rows.astype(np.float32), probes.astype(np.float32)
    scaler = StandardScaler().fit(rows)
    return Ridge(strength).fit(scaler.transform(rows), targets).predict(scaler.transform(probes))


def test_a_feature_that_hardly_varied_is_not_blown_up():
    rows, probes = RANDOM.normal(size=(60, 5)), RANDOM.normal(size=(30, 5))
    targets, truth = rows[:, :1], probes[:, :1]
    rows[:, 4] = 0
    rows[7, 4] = 1e-3
    assert linear_regression(rows, targets, probes, truth)[0] > 0.9


def test_rows_that_are_nearly_alike_do_not_choose_the_strength():
    """Episodes of one moment, forty times over: of noise nothing can be told, and little is lost by
    trying."""
    episodes = RANDOM.normal(size=(20, 60))
    rows = np.repeat(episodes, 40, axis=0) + 0.01 * RANDOM.normal(size=(800, 60))
    targets = np.repeat(RANDOM.normal(size=(20, 1)), 40, axis=0)
    groups = np.repeat(np.arange(20), 40)
    probes, truth = RANDOM.normal(size=(400, 60)), RANDOM.normal(size=(400, 1))
    assert linear_regression(rows, targets, probes, truth, groups=groups)[0] > -0.3
    assert linear_regression(rows, targets, probes, truth)[0] < -0.3


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        (lambda: alignment_error(np.ones((3, 2)), np.ones((4, 2))), "both have to be of the same"),
        (lambda: kendalls_tau(np.ones((1, 2)), np.ones((4, 2))), "one time"),
        (lambda: kendalls_tau(np.ones((3, 2)), np.ones((4, 3))), "width 3"),
        (lambda: equal_error_rate([0.1, 0.2], [True, True]), "of one kind"),
        (lambda: equal_error_rate([0.1, np.nan], [True, False]), "no finite"),
        (lambda: equal_error_rate([0.1, 0.2], [1, 0]), "bool"),
        (lambda: min_dcf([0.1, 0.2], [True, False], target_prior=1.0), "target_prior"),
        (
            lambda: linear_regression(
                np.ones((3, 2)), np.ones((4, 1)), np.ones((3, 2)), np.ones((3, 1))
            ),
            "3 rows of features",
        ),
    ],
)
def test_what_does_not_fit_is_said(measure, words):
    with pytest.raises(ValueError, match=words):
        measure()
