import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from jaxcl.evaluation import fit_linear, linear_probe
from jaxcl.evaluation.linear import stratified_split

DIGITS = load_digits()
TRAIN, TEST = DIGITS.data[:1400], DIGITS.data[1400:]
TRAIN_LABELS, TEST_LABELS = DIGITS.target[:1400], DIGITS.target[1400:]


@pytest.mark.slow
@pytest.mark.parametrize("l2", [1.0, 1e-2])
def test_fit_is_scikit_learns(l2):
    ours = fit_linear(TRAIN, TRAIN_LABELS, l2=l2, tolerance=1e-6)
    assert ours.converged
    deviation = np.where(TRAIN.std(axis=0) == 0, 1, TRAIN.std(axis=0))
    rows, probes = (TRAIN - TRAIN.mean(axis=0)) / deviation, (TEST - TRAIN.mean(axis=0)) / deviation
    theirs = LogisticRegression(C=1 / (l2 * len(rows)), tol=1e-10, max_iter=5000)
    theirs.fit(rows, TRAIN_LABELS)
    # A strongly convex objective: the distance to its minimum is at most |gradient| / l2.
    np.testing.assert_allclose(ours.weights, theirs.coef_.T, atol=25 * 1e-6 / l2)
    np.testing.assert_array_equal(ours.predict(TEST), theirs.predict(probes))
    logits = ours.logits(TEST) - ours.logits(TEST).mean(axis=1, keepdims=True)
    expected = theirs.decision_function(probes)
    expected -= expected.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(logits, expected, atol=5e-3)


@pytest.mark.slow
def test_gradient_norm_is_the_objectives():
    l2, count = 1e-2, len(TRAIN)
    fit = fit_linear(TRAIN, TRAIN_LABELS, l2=l2)
    rows = (TRAIN - fit.mean) / fit.scale
    logits = rows @ fit.weights + fit.bias
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    errors = shares - np.eye(10)[TRAIN_LABELS]
    gradient = np.abs(rows.T @ errors / count + l2 * fit.weights).max()
    bias_gradient = np.abs(errors.mean(axis=0)).max()
    assert max(gradient, bias_gradient) < 1.1e-5  # the default tolerance, float32 rounding
    assert fit.gradient_norm == pytest.approx(max(gradient, bias_gradient), abs=1e-6)


def test_units_of_the_features_do_not_matter():
    scales, offsets = np.geomspace(1e-3, 1e3, 64), np.linspace(-5, 5, 64)
    plain = linear_probe(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, l2=1e-2)
    moved = linear_probe(
        TRAIN * scales + offsets * scales,
        TRAIN_LABELS,
        TEST * scales + offsets * scales,
        TEST_LABELS,
        l2=1e-2,
    )
    assert moved.accuracy == pytest.approx(plain.accuracy, abs=1.5 / len(TEST))


@pytest.mark.slow
def test_sweep_chooses_on_the_split_and_refits_on_everything():
    probe = linear_probe(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, l2=(1e-3, 1e3, 1e-1), seed=3)
    assert list(probe.validation_accuracy) == [1e3, 1e-1, 1e-3]
    assert probe.l2 == 1e-3
    assert probe.converged
    # Each validation accuracy is that of a classifier that never saw the held-out examples.
    held_out = stratified_split(TRAIN_LABELS, 0.1, seed=3)
    for l2 in (1e3, 1e-1):
        alone = fit_linear(TRAIN[~held_out], TRAIN_LABELS[~held_out], l2=l2)
        expected = np.mean(alone.predict(TRAIN[held_out]) == TRAIN_LABELS[held_out])
        # Standardized with all of the training part, with a wider tolerance: two examples' worth.
        assert probe.validation_accuracy[l2] == pytest.approx(expected, abs=2.5 / held_out.sum())
    final = fit_linear(TRAIN, TRAIN_LABELS, l2=1e-3)
    # The same minimum from another start: an example on the border may fall to either side.
    assert probe.accuracy == pytest.approx(
        np.mean(final.predict(TEST) == TEST_LABELS), abs=1.5 / len(TEST)
    )
    again = linear_probe(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, l2=(1e-3, 1e3, 1e-1), seed=3)
    assert again == probe


def test_class_accuracy_adds_up_and_strange_class_numbers_work():
    numbers = np.array([3, 14, 15, 92, 65, 35, 89, 79, 32, 38])
    probe = linear_probe(TRAIN, numbers[TRAIN_LABELS], TEST, numbers[TEST_LABELS], l2=1e-2)
    plain = linear_probe(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, l2=1e-2)
    assert probe.accuracy == pytest.approx(plain.accuracy, abs=1.5 / len(TEST))
    shares = np.array([np.mean(c == TEST_LABELS) for c in range(10)])
    by_class = np.array([probe.class_accuracy[n] for n in numbers])
    assert shares @ by_class == pytest.approx(probe.accuracy)


def test_a_stop_before_convergence_is_said():
    probe = linear_probe(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, l2=1e-2, max_steps=3)
    assert not probe.converged
    assert probe.steps == 3
    assert probe.gradient_norm > 1e-5


def test_a_constant_dimension_and_equal_features_are_harmless():
    constant = np.full((1400, 64), 0.1)
    probe = linear_probe(constant, TRAIN_LABELS, constant[:397], TEST_LABELS, l2=1e-2)
    most_frequent = np.bincount(TRAIN_LABELS).argmax()
    assert probe.accuracy == np.mean(most_frequent == TEST_LABELS)


def test_split_is_stratified_and_seeded():
    labels = np.repeat([0, 1, 2, 3], [100, 10, 2, 1])
    marked = stratified_split(labels, 0.1, seed=0)
    assert [int(marked[labels == c].sum()) for c in range(4)] == [10, 1, 1, 0]
    np.testing.assert_array_equal(marked, stratified_split(labels, 0.1, seed=0))
    assert (marked != stratified_split(labels, 0.1, seed=1)).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": [4] * 6}, "class 4 alone"),
        ({"l2": 0.0}, "l2 is 0.0"),
        ({"l2": ()}, "l2 is empty"),
        ({"l2": (0.1, -1.0)}, "l2 is -1.0"),
        ({"train_labels": [0, 1, 2, 3, 4, 5]}, "no class has two training examples"),
        ({"validation_share": 1.0}, "validation_share is 1.0"),
        ({"test_labels": None}, "test_labels is None"),
        ({"test_features": np.full((2, 3), np.inf)}, "test_features holds NaN or infinity"),
        ({"tolerance": 0.0}, "tolerance is 0.0"),
        ({"max_steps": 0}, "max_steps is 0"),
    ],
)
def test_bad_input_is_named(change, message):
    generator = np.random.default_rng(0)
    arguments = {
        "train_features": generator.standard_normal((6, 3)),
        "train_labels": [0, 0, 0, 1, 1, 1],
        "test_features": generator.standard_normal((2, 3)),
        "test_labels": [0, 1],
        **change,
    }
    with pytest.raises(ValueError, match=message):
        linear_probe(**arguments)
