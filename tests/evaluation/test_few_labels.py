import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from jaxcl.evaluation import label_efficiency, nearest_class_mean

DIGITS = load_digits()
TRAIN, TEST = DIGITS.data[:1400], DIGITS.data[1400:]
TRAIN_LABELS, TEST_LABELS = DIGITS.target[:1400], DIGITS.target[1400:]


def test_nearest_class_mean_is_the_equation():
    classes = np.unique(TRAIN_LABELS)
    expected = []
    means = []
    for c in classes:
        rows = TRAIN[c == TRAIN_LABELS]
        means.append(np.mean([row / np.linalg.norm(row) for row in rows], axis=0))
    for query in TEST:
        cosines = [query @ m / np.linalg.norm(query) / np.linalg.norm(m) for m in means]
        expected.append(classes[np.argmax(cosines)])
    np.testing.assert_array_equal(nearest_class_mean(TRAIN, TRAIN_LABELS, TEST), expected)


def test_with_one_label_it_is_the_nearest_neighbour():
    chosen = [np.flatnonzero(c == TRAIN_LABELS)[3] for c in range(10)]
    neighbour = KNeighborsClassifier(1, metric="cosine").fit(TRAIN[chosen], np.arange(10))
    found = nearest_class_mean(TRAIN[chosen], np.arange(10), TEST)
    np.testing.assert_array_equal(found, neighbour.predict(TEST))


def test_more_labels_help_and_spread_less():
    results = label_efficiency(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, draws=20)
    one, five, ten = results
    assert [r.labels_per_class for r in results] == [1, 5, 10]
    assert one.mean + 0.1 < five.mean < ten.mean
    assert one.std > 1.5 * ten.std
    assert [len(r.accuracies) for r in results] == [20, 20, 20]
    np.testing.assert_allclose(one.mean, np.mean(one.accuracies))
    np.testing.assert_allclose(one.std, np.std(one.accuracies, ddof=1))
    assert one.short_classes == 0


def test_all_labels_are_the_whole_training_part():
    (result,) = label_efficiency(
        TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, labels_per_class=(1400,), draws=2
    )
    everything = np.mean(nearest_class_mean(TRAIN, TRAIN_LABELS, TEST) == TEST_LABELS)
    np.testing.assert_allclose(result.accuracies, everything, atol=1.5 / len(TEST))  # order of sums
    assert result.short_classes == 10


def test_draws_hang_on_seed_and_labels_not_on_features_or_other_counts():
    def accuracies(features, counts, seed):
        results = label_efficiency(
            features[:1400],
            TRAIN_LABELS,
            features[1400:],
            TEST_LABELS,
            labels_per_class=counts,
            draws=4,
            seed=seed,
        )
        return {r.labels_per_class: r.accuracies for r in results}

    plain = accuracies(DIGITS.data, (1, 5), 0)
    assert accuracies(DIGITS.data * 8, (5,), 0)[5] == plain[5]
    assert accuracies(DIGITS.data, (1, 5), 1) != plain


def test_a_short_class_gives_what_it_has():
    features = np.eye(4)[[0, 0, 0, 1]]
    (result,) = label_efficiency(
        features, [0, 0, 0, 1], np.eye(4)[:2], [0, 1], labels_per_class=(3,), draws=1
    )
    assert (result.mean, result.std, result.short_classes) == (1.0, 0.0, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels_per_class": (0,)}, "labels_per_class is 0"),
        ({"labels_per_class": ()}, "labels_per_class is empty"),
        ({"draws": 0}, "draws is 0"),
        ({"labels": None}, "labels is None"),
        ({"test_features": np.zeros((2, 5))}, "width 5, expected 2"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {
        "features": np.eye(2),
        "labels": [0, 1],
        "test_features": np.eye(2),
        "test_labels": [0, 1],
        **change,
    }
    with pytest.raises(ValueError, match=message):
        label_efficiency(**arguments)
