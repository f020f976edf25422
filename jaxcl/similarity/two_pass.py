"""Reductions in two passes, on one device or with the keys of all devices handed round a ring.

In a ring no device ever holds the keys of all: each reduces its queries against the keys at hand,
then hands those to its neighbour, as often as there are devices. The backward pass goes round once
more, and the keys' gradients travel with them, collecting each device's part. What is kept between
the passes is one number a row.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcl.similarity.gather import AxisName, axis_size
from jaxcl.similarity.platform import best_gradients, best_values
from jaxcl.similarity.rows import Pairs, Reduction, logaddexp
from jaxcl.similarity.tiled import Gradients


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def two_pass_rows(
    reduction: Reduction,
    rows: int,
    axis_name: AxisName | None,
    queries: jax.Array,
    keys: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
    pairs: Pairs,
) -> jax.Array:
    """Reduces the rows of `scale * queries @ keys.T - shift`.

    Args:
      reduction: how.
      rows: of a block, >= 1.
      axis_name: the mapped axis that the keys go round; None: these keys are all there are.
      queries: [N, D] float32 or bfloat16, this device's.
      keys: [M, D], likewise.
      scale: scalar that multiplies the products.
      shift: [N], subtracted from each row.
      pairs: which pairs count; the keys' side is of this device's keys.

    Returns:
      [N] values.
    """
    return _values(reduction, rows, axis_name, queries, keys, scale, shift, pairs)[0]


def _values(
    reduction: Reduction,
    rows: int,
    axis_name: AxisName | None,
    queries: jax.Array,
    keys: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
    pairs: Pairs,
) -> tuple[jax.Array, jax.Array]:
    """Values and normalizers [N], as of `reduce_rows`."""
    part: Reduction = "sum_softplus" if reduction == "sum_softplus" else "logsumexp"

    def step(so_far: jax.Array, keys: jax.Array, pairs: Pairs, _: None) -> tuple[jax.Array, None]:
        value = best_values(part, rows, queries, keys, scale, shift, pairs)[0]
        return so_far + value if part == "sum_softplus" else logaddexp(so_far, value), None

    start = jnp.full_like(shift, 0 if part == "sum_softplus" else -jnp.inf)
    found, _ = _round(axis_name, step, start, keys, pairs, None)
    if reduction == "sum_softplus":
        return found, jnp.zeros_like(found)
    if reduction == "log1p_sumexp":
        found = jax.nn.softplus(found)
        return found, found
    return found, jnp.where(jnp.isneginf(found), 0, found)


def _forward(
    reduction: Reduction, rows: int, axis_name: AxisName | None, queries: Any, keys: Any, *rest: Any
) -> Any:
    arguments = jax.tree.map(
        lambda leaf: leaf.value, (queries, keys, *rest), is_leaf=lambda leaf: hasattr(leaf, "value")
    )
    values, normalizer = _values(reduction, rows, axis_name, *arguments)
    # Whether keys need a gradient is known now only; a residual's structure can say it.
    return values, (*arguments, normalizer, () if keys.perturbed else None)


def _backward(
    reduction: Reduction,
    rows: int,
    axis_name: AxisName | None,
    residuals: Any,
    cotangent: jax.Array,
) -> Any:
    queries, keys, scale, shift, pairs, normalizer, for_keys = residuals

    def step(
        so_far: Gradients, keys: jax.Array, pairs: Pairs, d_keys: Any
    ) -> tuple[Gradients, Any]:
        more = best_gradients(
            reduction,
            rows,
            *(queries, keys, scale, shift, pairs, normalizer, cotangent),
            for_keys=for_keys is not None,
        )
        d_keys = jax.tree.map(jnp.add, d_keys, more.keys)
        return jax.tree.map(jnp.add, so_far, more._replace(keys=None)), d_keys

    start = Gradients(
        jnp.zeros(queries.shape, shift.dtype), jnp.zeros_like(shift), jnp.zeros_like(scale), None
    )
    d_keys = None if for_keys is None else jnp.zeros(keys.shape, shift.dtype)
    found, d_keys = _round(axis_name, step, start, keys, pairs, d_keys)
    d_keys = None if d_keys is None else d_keys.astype(keys.dtype)
    return found.queries.astype(queries.dtype), d_keys, found.scale, found.shift, None


two_pass_rows.defvjp(_forward, _backward, symbolic_zeros=True)


def _round(
    axis_name: AxisName | None,
    step: Callable[[Any, jax.Array, Pairs, Any], tuple[Any, Any]],
    staying: Any,
    keys: jax.Array,
    pairs: Pairs,
    travelling: Any,
) -> tuple[Any, Any]:
    """`step(staying, keys, pairs, travelling)` where the keys are, device after device.

    What stays, and what travels with the keys and is home again at the end.
    """
    size = axis_size(axis_name)
    if axis_name is None or size == 1:
        return step(staying, keys, pairs, travelling)
    to_next = [(device, (device + 1) % size) for device in range(size)]

    def step_and_hand_on(_: int, carry: Any) -> Any:
        staying, *moving = carry
        keys, key_ids, key_where, travelling = moving
        staying, travelling = step(
            staying, keys, pairs._replace(key_ids=key_ids, key_where=key_where), travelling
        )
        moving = (keys, key_ids, key_where, travelling)
        return staying, *jax.lax.ppermute(moving, axis_name, to_next)

    start = (staying, keys, pairs.key_ids, pairs.key_where, travelling)
    staying, *_, travelling = jax.lax.fori_loop(0, size, step_and_hand_on, start)
    return staying, travelling
