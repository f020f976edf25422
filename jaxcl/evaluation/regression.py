"""What a linear map of frozen features tells of numbers."""

import numpy as np
from jax.typing import ArrayLike

from jaxcl.evaluation.validation import as_features

L2_GRID = tuple(10.0**power for power in range(-3, 6))


def linear_regression(
    train_features: ArrayLike,
    train_targets: ArrayLike,
    test_features: ArrayLike,
    test_targets: ArrayLike,
) -> np.ndarray:
    """R² of ridge regression on frozen features.

    Features are standardized by the training part; the strength is that of `L2_GRID` which leaves
    the least error when each training row is told from all others (scikit-learn's `RidgeCV`), for
    each target by itself.

    Args:
      train_features: [N, D].
      train_targets: [N, K] numbers.
      test_features: [M, D].
      test_targets: [M, K].

    Returns:
      [K], 1 - squared error / squared distance from the test part's mean: 1 at most; 0 where a
      target does not vary.

    Raises:
      ValueError: if shapes do not fit or a number is not finite.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.metrics import r2_score
    from sklearn.preprocessing import StandardScaler

    rows = as_features("train_features", train_features)
    probes = as_features("test_features", test_features, width=rows.shape[1])
    targets = as_features("train_targets", train_targets)
    truth = as_features("test_targets", test_targets, width=targets.shape[1])
    for name, one, other in (("train", rows, targets), ("test", probes, truth)):
        if len(one) != len(other):
            raise ValueError(f"{name}: {len(one)} rows of features and {len(other)} of targets")
    scaler = StandardScaler().fit(rows)
    fitted = RidgeCV(L2_GRID, alpha_per_target=True).fit(scaler.transform(rows), targets)
    told = r2_score(truth, fitted.predict(scaler.transform(probes)), multioutput="raw_values")
    return np.where(truth.std(0) > 0, told, 0.0)
