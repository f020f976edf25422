"""Reductions over the rows of all devices' similarities, the keys handed round a ring.

No device ever holds the keys of all: each reduces its queries against the keys at hand, then hands
those to its neighbour, as often as there are devices. The backward pass goes round once more, and
the keys' gradients travel with them, collecting each device's part.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxcl.similarity.gather import AxisName, axis_size
from jaxcl.similarity.rows import Pairs, Reduction, logaddexp
from jaxcl.similarity.tiled import Gradients, row_gradients, row_values


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def ring_rows(
    reduction: Reduction,
    rows: int,
    axis_name: AxisName,
    queries: jax.Array,
    keys: jax.Array,
    shift: jax.Array,
    pairs: Pairs,
) -> jax.Array:
    """Reduces the rows of `queries @ everyone's keys.T - shift`.

    Args:
      reduction: how.
      rows: of a block, >= 1.
      axis_name: the mapped axis, which the ring goes round.
      queries: [N, D] float32, this device's.
      keys: [M, D] float32, this device's.
      shift: [N], subtracted from each row.
      pairs: which pairs count; the keys' side is of this device's keys.

    Returns:
      [N] values.
    """
    return _values(reduction, rows, axis_name, queries, keys, shift, pairs)[0]


def _values(
    reduction: Reduction,
    rows: int,
    axis_name: AxisName,
    queries: jax.Array,
    keys: jax.Array,
    shift: jax.Array,
    pairs: Pairs,
) -> tuple[jax.Array, jax.Array]:
    """Values and normalizers [N], as of `reduce_rows`."""
    part: Reduction = "sum_softplus" if reduction == "sum_softplus" else "logsumexp"

    def step(_: int, carry: Any) -> Any:
        so_far, keys, seen = carry
        value = row_values(part, rows, queries, keys, shift, seen)[0]
        together = so_far + value if part == "sum_softplus" else logaddexp(so_far, value)
        return together, *_hand_on((keys, seen), axis_name)

    start = jnp.full_like(shift, 0 if part == "sum_softplus" else -jnp.inf)
    found: jax.Array = _round(step, (start, keys, pairs), axis_name)[0]
    if reduction == "sum_softplus":
        return found, jnp.zeros_like(found)
    if reduction == "log1p_sumexp":
        found = jax.nn.softplus(found)
        return found, found
    return found, jnp.where(jnp.isneginf(found), 0, found)


def _forward(reduction: Reduction, rows: int, axis_name: AxisName, *arguments: Any) -> Any:
    values, normalizer = _values(reduction, rows, axis_name, *arguments)
    return values, (*arguments, normalizer)


def _backward(
    reduction: Reduction, rows: int, axis_name: AxisName, residuals: Any, cotangent: jax.Array
) -> Any:
    queries, keys, shift, pairs, normalizer = residuals

    def step(_: int, carry: Any) -> Any:
        found, keys, seen = carry
        more = row_gradients(reduction, rows, queries, keys, shift, seen, normalizer, cotangent)
        found = jax.tree.map(jnp.add, found, more)
        keys, seen, d_keys = _hand_on((keys, seen, found.keys), axis_name)
        return found._replace(keys=d_keys), keys, seen

    start = Gradients(*map(jnp.zeros_like, (queries, shift, keys)))
    found, _, _ = _round(step, (start, keys, pairs), axis_name)
    return found.queries, found.keys, found.shift, None


ring_rows.defvjp(_forward, _backward)


def _round(step: Any, carry: Any, axis_name: AxisName) -> Any:
    return jax.lax.fori_loop(0, axis_size(axis_name), step, carry)


def _hand_on(arrays: tuple[Any, ...], axis_name: AxisName) -> tuple[Any, ...]:
    """What the neighbour before held; of a `Pairs` only the keys' side travels."""
    size = axis_size(axis_name)
    to_next = [(device, (device + 1) % size) for device in range(size)]

    def hand_on(array: Any) -> Any:
        if isinstance(array, Pairs):
            key_ids, key_where = hand_on((array.key_ids, array.key_where))
            return array._replace(key_ids=key_ids, key_where=key_where)
        return jax.tree.map(lambda leaf: jax.lax.ppermute(leaf, axis_name, to_next), array)

    return tuple(map(hand_on, arrays))
