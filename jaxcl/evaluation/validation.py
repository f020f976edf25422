"""What every evaluation asks of its arrays, checked before anything is computed."""

import numpy as np
from jax.typing import ArrayLike


def as_features(name: str, features: ArrayLike, *, width: int | None = None) -> np.ndarray:
    """`features` as a float32 array [N, D] on the host, checked.

    Args:
      name: what the caller calls the array, for the message.
      features: [N, D] numbers, NumPy or JAX, any real dtype.
      width: D that is expected, or None for any.

    Returns:
      [N, D] float32.

    Raises:
      ValueError: if it is not a matrix, is empty, holds NaN or infinity, or has another width.
    """
    array = np.asarray(features)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(
            f"{name} has shape {array.shape}, expected [examples, width] with neither 0: "
            "flatten images with reshape(len(images), -1)"
        )
    if width is not None and array.shape[1] != width:
        raise ValueError(
            f"{name} has width {array.shape[1]}, expected {width}, that of the other features: "
            "both must come from the same encoder"
        )
    array = array.astype(np.float32, copy=False)
    # Largest and smallest entries instead of all: no array of the features' size beside them.
    finite = np.isfinite(array.max(axis=1)) & np.isfinite(array.min(axis=1))
    if not finite.all():
        raise ValueError(
            f"{name} holds NaN or infinity in {np.sum(~finite)} of {len(array)} rows, the first "
            f"is row {np.argmin(finite)}: drop these rows, or look for what made training diverge"
        )
    return array


def as_labels(name: str, labels: ArrayLike | None, count: int) -> np.ndarray:
    """`labels` as an int64 array [N] on the host, checked.

    Args:
      name: what the caller calls the array, for the message.
      labels: [N] integers >= 0.
      count: N that is expected.

    Returns:
      [N] int64.

    Raises:
      ValueError: if it is None, has another shape or a negative entry.
      TypeError: if it holds anything but integers.
    """
    if labels is None:
        raise ValueError(f"{name} is None: this measure needs one class label for each example")
    array = np.asarray(labels)
    if array.shape != (count,):
        raise ValueError(f"{name} has shape {array.shape}, expected ({count},): one a feature row")
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(
            f"{name} holds {array.dtype}, expected integers: "
            "np.unique(labels, return_inverse=True)[1] numbers them"
        )
    if array.min() < 0:
        raise ValueError(f"{name} holds {array.min()}, expected classes numbered from 0")
    return array.astype(np.int64)


def check_count(name: str, value: int, *, most: int | None = None, of: str = "") -> None:
    """Raises ValueError unless 1 <= value <= most (`of` names what there are `most` of)."""
    if value < 1:
        raise ValueError(f"{name} is {value}, expected at least 1")
    if most is not None and value > most:
        raise ValueError(f"{name} is {value}, but there are only {most} {of}: use at most {most}")
