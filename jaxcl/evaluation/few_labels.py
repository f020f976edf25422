"""Label efficiency: what a representation is worth when only a few examples are labelled."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike

from jaxcl.evaluation.blocks import normalized_rows
from jaxcl.evaluation.validation import as_features, as_labels, check_count


@dataclasses.dataclass(frozen=True)
class FewLabels:
    """Accuracy with a given number of labels a class, over several draws of them."""

    labels_per_class: int
    mean: float  # accuracy on the test part, 0 to 1
    std: float  # between draws (n - 1 in the denominator); 0.0 of one draw
    accuracies: tuple[float, ...]  # one a draw
    short_classes: int  # classes with fewer examples than asked, which gave all they have


def label_efficiency(
    features: ArrayLike,
    labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    *,
    labels_per_class: Sequence[int] = (1, 5, 10),
    draws: int = 10,
    seed: int = 0,
) -> tuple[FewLabels, ...]:
    """Accuracy of the nearest class mean when each class has only a few labelled examples.

    The classifier is `nearest_class_mean`: it has nothing to tune, which with one label a class
    nothing could be tuned on, and its answer is exact. Examples are drawn without replacement by
    (seed, count, draw) and the labels alone, so two representations are compared on the same
    draws. A class with fewer examples than asked gives all that it has.

    Args:
      features: [N, D] to draw labelled examples from.
      labels: [N] int >= 0.
      test_features: [M, D].
      test_labels: [M] int >= 0; a class that `labels` lack counts as errors.
      labels_per_class: counts to try, each >= 1.
      draws: how often, >= 1.
      seed: of the draws, >= 0.

    Returns:
      One `FewLabels` a count.

    Raises:
      ValueError: if shapes do not fit, a count is out of range, or a feature is not finite.
    """
    rows = as_features("features", features)
    classes = as_labels("labels", labels, len(rows))
    probes = as_features("test_features", test_features, width=rows.shape[1])
    truth = as_labels("test_labels", test_labels, len(probes))
    check_count("draws", draws)
    if not labels_per_class:
        raise ValueError("labels_per_class is empty, expected at least one count")
    members = [np.flatnonzero(classes == label) for label in np.unique(classes)]
    results = []
    for count in labels_per_class:
        check_count("labels_per_class", count)
        accuracies = []
        for draw in range(draws):
            generator = np.random.default_rng([seed, count, draw])
            chosen = np.concatenate([generator.permutation(m)[:count] for m in members])
            predictions = nearest_class_mean(rows[chosen], classes[chosen], probes)
            accuracies.append(float(np.mean(predictions == truth)))
        results.append(
            FewLabels(
                labels_per_class=int(count),
                mean=float(np.mean(accuracies)),
                std=float(np.std(accuracies, ddof=1)) if draws > 1 else 0.0,
                accuracies=tuple(accuracies),
                short_classes=sum(len(m) < count for m in members),
            )
        )
    return tuple(results)


def nearest_class_mean(features: ArrayLike, labels: ArrayLike, queries: ArrayLike) -> np.ndarray:
    """Class whose mean direction is most alike each query, by cosine similarity.

    The mean is of normalized features, as the prototypes of Snell et al. (2017, eq. 1) with the
    cosine for distance; with one example a class it is the nearest neighbour.

    Args:
      features: [N, D] of the labelled examples.
      labels: [N] int >= 0.
      queries: [M, D].

    Returns:
      [M] int64 classes; of equal similarities the lower class.

    Raises:
      ValueError: if shapes do not fit or a feature is not finite.

    Example:
      >>> nearest_class_mean([[1.0, 0.0], [0.0, 1.0]], [3, 5], [[0.1, 0.9]])
      array([5])
    """
    rows = as_features("features", features)
    probes = as_features("queries", queries, width=rows.shape[1])
    classes, targets = np.unique(as_labels("labels", labels, len(rows)), return_inverse=True)
    sums = np.zeros((len(classes), rows.shape[1]), np.float32)
    np.add.at(sums, targets, normalized_rows(rows))
    return classes[(normalized_rows(probes) @ normalized_rows(sums).T).argmax(axis=1)]
