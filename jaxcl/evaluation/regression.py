"""What a linear map of frozen features tells of numbers."""

import numpy as np
from jax.typing import ArrayLike

from jaxcl.evaluation.validation import as_features

L2_GRID = tuple(10.0**power for power in range(-3, 7))


def linear_regression(
    train_features: ArrayLike,
    train_targets: ArrayLike,
    test_features: ArrayLike,
    test_targets: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    validation_share: float = 0.2,
    seed: int = 0,
) -> np.ndarray:
    """R² of ridge regression on frozen features.

    Minimizes squared error + l2 ||weights||^2 on standardized features, the bias free. Each is
    divided by its deviation in the training part, by a tenth of the mean deviation at least: so
    what hardly varied there, such as a unit that was nearly always off, is not blown up where it
    does. The strength, one of `L2_GRID`, leaves the least error, in units of each target's
    variance, on a part of the training rows that is held out, whole groups of them: moments of one
    episode are nearly alike, and would tell one another.

    Args:
      train_features: [N, D].
      train_targets: [N, K] numbers.
      test_features: [M, D].
      test_targets: [M, K].
      groups: [N] integers, equal for rows that are held out together; None: each by itself.
      validation_share: of the groups, above 0 and below 1.
      seed: of the draw.

    Returns:
      [K], 1 - squared error / squared distance from the test part's mean: 1 at most; 0 where a
      target does not vary.

    Raises:
      ValueError: if shapes do not fit, a number is not finite, or there are not two groups.
    """
    rows = as_features("train_features", train_features).astype(np.float64)
    probes = as_features("test_features", test_features, width=rows.shape[1]).astype(np.float64)
    targets = as_features("train_targets", train_targets).astype(np.float64)
    truth = as_features("test_targets", test_targets, width=targets.shape[1]).astype(np.float64)
    for name, one, other in (("train", rows, targets), ("test", probes, truth)):
        if len(one) != len(other):
            raise ValueError(f"{name}: {len(one)} rows of features and {len(other)} of targets")
    numbers = np.arange(len(rows)) if groups is None else np.asarray(groups)
    different = np.unique(numbers)
    if numbers.shape != (len(rows),) or len(different) < 2 or not 0 < validation_share < 1:
        raise ValueError(
            f"groups of shape {numbers.shape}, {len(different)} different, and validation_share "
            f"{validation_share}: expected one for each of {len(rows)} rows, two different at "
            "least, and a share above 0 and below 1"
        )
    count = min(max(round(validation_share * len(different)), 1), len(different) - 1)
    drawn = np.random.default_rng(seed).permutation(different)[:count]
    held_out = np.isin(numbers, drawn)

    tried = _Ridge(rows[~held_out], targets[~held_out])
    scale = np.maximum(targets.var(0), 1e-12)
    errors = [
        np.mean(np.square(tried.told(rows[held_out], l2) - targets[held_out]) / scale)
        for l2 in L2_GRID
    ]
    told = _Ridge(rows, targets).told(probes, L2_GRID[int(np.argmin(errors))])
    squared = np.square(truth - told).sum(0)
    around_mean = np.square(truth - truth.mean(0)).sum(0)
    return np.where(around_mean > 0, 1 - squared / np.where(around_mean > 0, around_mean, 1), 0.0)


class _Ridge:
    """Ridge regression at any strength, by one decomposition: of features or of rows, whichever are
    fewer."""

    def __init__(self, rows: np.ndarray, targets: np.ndarray):
        self._mean, self._offset = rows.mean(0), targets.mean(0)
        deviation = rows.std(0)
        least = 0.1 * deviation.mean()
        self._scale = np.maximum(deviation, least if least > 0 else 1)
        self._rows, self._targets = self._standard(rows), targets - self._offset
        self._by_rows = len(rows) < rows.shape[1]
        gram = self._rows @ self._rows.T if self._by_rows else self._rows.T @ self._rows
        self._values, self._vectors = np.linalg.eigh(gram)

    def told(self, rows: np.ndarray, l2: float) -> np.ndarray:
        """[M, K] of features [M, D]."""
        shrunk = self._vectors / (np.maximum(self._values, 0) + l2)
        rows, moments = self._standard(rows), self._targets
        if not self._by_rows:
            return rows @ (shrunk @ (self._vectors.T @ (self._rows.T @ moments))) + self._offset
        return rows @ (self._rows.T @ (shrunk @ (self._vectors.T @ moments))) + self._offset

    def _standard(self, rows: np.ndarray) -> np.ndarray:
        return (rows - self._mean) / self._scale
