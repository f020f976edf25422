"""Argument checks made while tracing: errors name the argument, what came and what was expected."""

import difflib
import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

Scalar = float | jax.Array
"""A Python float, or a scalar array that may be traced."""


def check_shape(name: str, value: jax.Array, axes: str, sizes: dict[str, int]) -> None:
    """Compares a shape with named axes, and remembers the size of each name that is new.

    Args:
      name: the argument's name, for the message.
      value: the array.
      axes: the axes' names, as in "N D".
      sizes: sizes already bound to names; the new ones are added.

    Raises:
      ValueError: if the rank differs, or an axis differs from the size its name is bound to.
    """
    names = axes.split()
    bound = {axis: sizes[axis] for axis in names if axis in sizes}
    shape = dict(zip(names, value.shape, strict=False))
    if value.ndim != len(names) or any(shape[axis] != size for axis, size in bound.items()):
        wanted = " and ".join(f"{axis} = {size}" for axis, size in bound.items())
        raise ValueError(
            f"{name} has shape {value.shape}, expected [{', '.join(names)}]"
            + (f" with {wanted} as in the arguments before it" if wanted else "")
        )
    sizes.update(shape)


def check_embeddings(name: str, value: jax.Array, axes: str, sizes: dict[str, int]) -> jax.Array:
    """Returns `value` as an array, known to be floating point and of the named axes.

    Args:
      name: the argument's name, for the message.
      value: the embeddings.
      axes: the axes' names, as in "N D".
      sizes: as in `check_shape`.

    Returns:
      `value` as a jax array.

    Raises:
      TypeError: if it holds anything but real floating point numbers.
      ValueError: as `check_shape`.
    """
    value = jnp.asarray(value)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(
            f"{name} has dtype {value.dtype}, expected floating point: convert it, for example "
            "with .astype(jnp.float32)"
        )
    check_shape(name, value, axes, sizes)
    return value


def check_integers(name: str, value: jax.Array, axes: str, sizes: dict[str, int]) -> jax.Array:
    """Returns `value` as an array, known to hold integers and to be of the named axes.

    Args:
      name: the argument's name, for the message.
      value: labels, ids or row numbers.
      axes: the axes' names, as in "N".
      sizes: as in `check_shape`.

    Returns:
      `value` as a jax array.

    Raises:
      TypeError: if it holds anything but integers.
      ValueError: as `check_shape`.
    """
    value = jnp.asarray(value)
    if not jnp.issubdtype(value.dtype, jnp.integer):
        raise TypeError(f"{name} has dtype {value.dtype}, expected integers")
    check_shape(name, value, axes, sizes)
    return value


def check_known_rows(name: str, indices: ArrayLike, size: int) -> None:
    """Checks row numbers that are known: NumPy's; to look at a jax array's would wait for it.

    Args:
      name: the argument's name, for the message.
      indices: row numbers; -1 is a padded row's.
      size: rows that there are.

    Raises:
      ValueError: if one is outside.
    """
    if not isinstance(indices, np.ndarray | list | tuple):
        return
    known = np.asarray(indices)
    outside = (known < -1) | (known >= size)
    if known.dtype.kind in "iu" and outside.any():
        raise ValueError(
            f"{name} has {known[outside][0]}, expected 0 to {size - 1}, a row of the bank for each "
            "example, or -1 for a padded one"
        )


def check_where(value: jax.Array | None, sizes: dict[str, int]) -> jax.Array | None:
    """Returns `where` as a boolean array `[N]`, or None.

    Args:
      value: the `where` argument of a loss.
      sizes: as in `check_shape`; holds N.

    Returns:
      `value` as a jax array, or None.

    Raises:
      TypeError: if it is not boolean.
      ValueError: as `check_shape`.
    """
    return None if value is None else check_mask("where", value, "N", sizes)


def check_mask(name: str, value: jax.Array, axes: str, sizes: dict[str, int]) -> jax.Array:
    """Returns `value` as an array, known to be boolean and of the named axes.

    Args:
      name: the argument's name, for the message.
      value: the mask.
      axes: the axes' names, as in "N".
      sizes: as in `check_shape`.

    Returns:
      `value` as a jax array.

    Raises:
      TypeError: if it is not boolean.
      ValueError: as `check_shape`.
    """
    value = jnp.asarray(value)
    if value.dtype != jnp.bool_:
        raise TypeError(f"{name} has dtype {value.dtype}, expected bool: what counts is True")
    check_shape(name, value, axes, sizes)
    return value


def check_scalar(
    name: str,
    value: Scalar,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
) -> None:
    """Checks a hyper-parameter: a scalar, and within bounds where its value is known while tracing.

    Args:
      name: the argument's name, for the message.
      value: a number, or a scalar array, traced or not. Only the value of Python and NumPy numbers
        is looked at: to look at an array's would wait for the device.
      above: bound that it must exceed.
      at_least: bound that it may equal.
      at_most: bound that it may equal.
      below: bound that it must not reach.

    Raises:
      ValueError: if it has axes, or its value is known and outside the bounds.
    """
    if jnp.ndim(value) != 0:
        raise ValueError(f"{name} has shape {jnp.shape(value)}, expected a scalar")
    known = isinstance(value, int | float | np.generic | np.ndarray)
    if known and not (above < value < below and at_least <= value <= at_most):
        bounds = {"above": above, "at least": at_least, "at most": at_most, "below": below}
        wanted = [f"{word} {bound:g}" for word, bound in bounds.items() if math.isfinite(bound)]
        raise ValueError(f"{name} is {value}, expected {' and '.join(wanted) or 'a number'}")


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Checks that an option is one of those there are.

    Args:
      name: the argument's name, for the message.
      value: the option given.
      choices: those there are.

    Raises:
      ValueError: if it is not among them; the nearest is suggested.
    """
    choices = list(choices)
    if value in choices:
        return
    nearest = difflib.get_close_matches(str(value), choices, n=1)
    raise ValueError(
        f"{name} is {value!r}, expected one of {', '.join(map(repr, choices))}"
        + (f": did you mean {nearest[0]!r}?" if nearest else "")
    )


def check_count(name: str, value: int, *, at_least: int = 1) -> None:
    """Checks how often something is done.

    Raises:
      ValueError: if it is no integer, or too few.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise ValueError(f"{name} is {value!r}, expected an integer of at least {at_least}")


def check_at_least_one(**values: int) -> None:
    """Checks sizes and counts, given by name.

    Raises:
      ValueError: if one is below 1.
    """
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")


def check_key(key: jax.Array) -> None:
    """Checks an argument called `key`: as `jax.random.key` makes it, or two uint32, as of old.

    Args:
      key: the key.

    Raises:
      TypeError: if it is not one key.
    """
    dtype, shape = jnp.asarray(key).dtype, jnp.shape(key)
    is_key = jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ()
    if not is_key and not (dtype == jnp.uint32 and len(shape) == 1):
        raise TypeError(
            f"key has dtype {dtype} and shape {shape}, expected one key, as jax.random.key(0) makes"
        )
