"""Whether two recordings of the same go together in time, moment by moment."""

import numpy as np
from jax.typing import ArrayLike

from jaxcl.evaluation.validation import as_features


def alignment_error(first: ArrayLike, second: ArrayLike) -> float:
    """How far from its own time the nearest frame of another recording is (Sermanet et al., 2018,
    section 4.1).

    Args:
      first: [T, D] features of each time in one recording.
      second: [T, D] of the same times in another, such as another camera's.

    Returns:
      The mean of |t - time of the nearest of `second`| over the times, as a share of T: 0 if all
      are found; by chance some 1/3. Nearest by Euclidean distance; of equally near ones the mean
      counts, so that collapsed features are at chance.

    Raises:
      ValueError: if shapes do not fit or a feature is not finite.

    Example:
      >>> alignment_error([[0.0], [1.0], [2.0], [3.0]], [[0.1], [1.1], [2.9], [2.7]])  # 2 off by 1
      0.125
    """
    nearest = _nearest(first, second)  # [T, T] shares
    apart = np.abs(np.arange(len(nearest))[:, None] - np.arange(len(nearest)))
    return float((nearest * apart).sum(1).mean() / len(nearest))


def kendalls_tau(first: ArrayLike, second: ArrayLike) -> float:
    """Whether nearest frames in another recording come in the same order (Dwibedi et al., 2019,
    section 4.2).

    Args:
      first: [T, D] features of each time in one recording, T at least 2.
      second: [S, D] of another recording of the same course.

    Returns:
      (pairs in order - pairs out of order) / all pairs of times, -1 to 1; a pair whose nearest
      frames are the same counts as neither.

    Raises:
      ValueError: if shapes do not fit, there is one time, or a feature is not finite.

    Example:
      >>> kendalls_tau([[0.0], [1.0], [2.0]], [[0.1], [2.1], [1.1]])  # two of three in order
      0.3333333333333333
    """
    rows = as_features("first", first)
    others = as_features("second", second, width=rows.shape[1])
    if len(rows) < 2:
        raise ValueError("first has one time, expected two or more, to be in an order")
    nearest = _squared(rows, others).argmin(1)
    signs = np.sign(nearest[None] - nearest[:, None])[np.triu_indices(len(nearest), 1)]
    return float(signs.mean())


def _nearest(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """[T, T]: which of `second` is nearest to each of `first`, 1 in all, shared by equals."""
    rows = as_features("first", first)
    others = as_features("second", second, width=rows.shape[1])
    if len(rows) != len(others):
        raise ValueError(
            f"first has {len(rows)} times and second {len(others)}: both have to be of the same"
        )
    squared = _squared(rows, others)
    is_least = squared == squared.min(1, keepdims=True)
    return is_least / is_least.sum(1, keepdims=True)


def _squared(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Squared distances [T, S], by differences: equal ones stay equal."""
    return np.stack([np.square(row - second.astype(np.float64)).sum(1) for row in first])
