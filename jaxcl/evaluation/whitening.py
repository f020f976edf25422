"""PCA whitening: features along their principal directions, each at the same variance.

Cosine similarity is ruled by the few directions along which features vary most; whitening lets
finer ones have their say (Jégou & Chum, 2012).
"""

import dataclasses

import numpy as np
from jax.typing import ArrayLike

from jaxcl.evaluation.validation import as_features, check_count

_NO_VARIANCE = 1e-6  # of the largest; less is rounding in float32


@dataclasses.dataclass(frozen=True)
class Whitening:
    """Whitens features as those that it was fitted on."""

    mean: np.ndarray  # [D]
    directions: np.ndarray  # [D, K], divided by their standard deviations

    def __call__(self, features: ArrayLike) -> np.ndarray:
        """[M, K] float32 of features [M, D]."""
        rows = as_features("features", features, width=len(self.mean))
        return (rows - self.mean) @ self.directions


def fit_whitening(features: ArrayLike, dims: int) -> Whitening:
    """Fits scikit-learn's PCA.

    Args:
      features: [N, D], N >= 2.
      dims: principal directions to keep; those without variance are left out, so that K may be
        less. Features that are all equal become one zero.

    Returns:
      What whitens these features, and others of the same encoder.

    Raises:
      ValueError: if there is one example only, or `dims` is not positive.

    Example:
      >>> features = np.array([[9.0, 0.0], [-9.0, 0.0], [0.0, 0.1], [0.0, -0.1]])
      >>> fit_whitening(features, 2)(features).std(axis=0, ddof=1).round(3)
      array([1., 1.], dtype=float32)
    """
    from sklearn.decomposition import PCA

    rows = as_features("features", features)
    check_count("dims", dims)
    if len(rows) < 2:
        raise ValueError("features hold one example, expected at least 2 to whiten them")
    if not np.ptp(rows, axis=0).any():
        return Whitening(rows[0], np.zeros((rows.shape[1], 1), np.float32))
    fitted = PCA(min(dims, *rows.shape), random_state=0).fit(rows)
    variances = fitted.explained_variance_
    kept = variances > _NO_VARIANCE * variances[0]
    directions = fitted.components_[kept] / np.sqrt(variances[kept])[:, None]
    return Whitening(fitted.mean_.astype(np.float32), directions.T.astype(np.float32))
