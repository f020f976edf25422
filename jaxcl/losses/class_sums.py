"""Sums over classes, of any number, without a matrix of who shares one."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxcl.similarity import row_similarity


def class_numbers(labels: jax.Array) -> jax.Array:
    """Numbers classes from 0, in the order of their labels: [G] int32 for labels [G]."""
    order = jnp.argsort(labels)
    in_order = labels[order]
    starts = jnp.concatenate([jnp.zeros(1, bool), in_order[1:] != in_order[:-1]])
    return jnp.zeros(len(labels), jnp.int32).at[order].set(jnp.cumsum(starts, dtype=jnp.int32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def similarity_to_class(
    count: int, rows: jax.Array, class_of: jax.Array, first: jax.Array
) -> jax.Array:
    """For `count` rows from number `first` on: similarities to all others of their class, summed.

    Sums of classes are as large as all rows, and the gradient takes several of them: they are
    formed for a few columns at a time, and anew in the backward pass.

    Args:
      count: how many rows.
      rows: [G, D].
      class_of: [G] int32, numbers of the rows' classes.
      first: the first row's number.

    Returns:
      [count].
    """

    def step(start: jax.Array, total: jax.Array) -> jax.Array:
        return total + _of_columns(count, _columns(rows, start), class_of, first)

    return _over_columns(rows, step, jnp.zeros(count, rows.dtype))


def _forward(count: int, *arguments: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return similarity_to_class(count, *arguments), arguments


def _backward(
    count: int, arguments: tuple[jax.Array, ...], cotangent: jax.Array
) -> tuple[jax.Array, None, None]:
    rows, *rest = arguments

    def step(start: jax.Array, found: jax.Array) -> jax.Array:
        _, pull = jax.vjp(lambda part: _of_columns(count, part, *rest), _columns(rows, start))
        [part] = pull(cotangent)
        return jax.lax.dynamic_update_slice_in_dim(found, part, start, axis=1)

    return _over_columns(rows, step, jnp.zeros_like(rows)), None, None


similarity_to_class.defvjp(_forward, _backward)


def _of_columns(count: int, rows: jax.Array, class_of: jax.Array, first: jax.Array) -> jax.Array:
    totals = jax.ops.segment_sum(rows, class_of, len(rows))
    own, own_class = (
        jax.lax.dynamic_slice_in_dim(array, first, count) for array in (rows, class_of)
    )
    return row_similarity(own, totals[own_class] - own)


def _over_columns(
    rows: jax.Array, step: Callable[[jax.Array, jax.Array], jax.Array], carry: jax.Array
) -> jax.Array:
    width = _width(rows)
    return jax.lax.fori_loop(
        0, rows.shape[1] // width, lambda number, carry: step(number * width, carry), carry
    )


def _columns(rows: jax.Array, start: jax.Array) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(rows, start, _width(rows), axis=1)


def _width(rows: jax.Array) -> int:
    """Columns at a time."""
    return next((width for width in (32, 16) if rows.shape[1] % width == 0), rows.shape[1])
