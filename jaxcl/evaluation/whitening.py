"""PCA whitening: features along their principal directions, each at the same variance.

Cosine similarity is ruled by the few directions along which features vary most; whitening lets
finer ones have their say (Jégou & Chum, 2012).
"""

import dataclasses

import numpy as np
from jax.typing import ArrayLike

from jaxcl.evaluation.validation import as_features, check_count

_ROUNDING = float(np.finfo(np.float32).eps)


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
    """Principal directions by the eigenvectors of the covariance, in float64.

    Args:
      features: [N, D], N >= 2, and many more than `dims`: N rows whitened to N - 1 dimensions are
        all equally far from one another.
      dims: how many directions of most variance to keep; those that vary by no more than rounding
        are left out, so that K may be less. Features that are all equal become one zero.

    Returns:
      What whitens these features, and others of the same encoder.

    Raises:
      ValueError: if there is one example only, or `dims` is not positive.

    Example:
      >>> features = np.array([[9.0, 0.0], [-9.0, 0.0], [0.0, 0.1], [0.0, -0.1]])
      >>> fit_whitening(features, 2)(features).std(axis=0, ddof=1).round(3)
      array([1., 1.], dtype=float32)
    """
    from scipy.linalg import eigh

    rows = as_features("features", features)
    check_count("dims", dims)
    count, width = rows.shape
    if count < 2:
        raise ValueError("one example cannot be whitened, expected at least 2")
    covariance = np.atleast_2d(np.cov(rows, rowvar=False, dtype=np.float64))
    first = width - min(dims, width, count - 1)
    variances, vectors = eigh(covariance, subset_by_index=(first, width - 1))  # ascending
    kept = np.flatnonzero(variances > (_ROUNDING * np.abs(rows).max()) ** 2)[::-1]
    mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    if not kept.size:
        return Whitening(mean, np.zeros((width, 1), np.float32))
    return Whitening(mean, (vectors[:, kept] / np.sqrt(variances[kept])).astype(np.float32))
