"""Reductions whose forward pass leaves the gradient: a block's softmax is known at once."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcl.similarity.blocks import Block, over_blocks
from jaxcl.similarity.measures import at_least_float32
from jaxcl.similarity.platform import best_values, by_platform
from jaxcl.similarity.rows import (
    Pairs,
    Reduction,
    product,
    reduce_with_weights,
    similarity_logits,
    weights,
)
from jaxcl.similarity.tiled import add_product, of_pairs


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def one_pass_rows(
    reduction: Reduction,
    rows: int,
    queries: jax.Array,
    keys: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
    pairs: Pairs,
) -> jax.Array:
    """Reduces the rows of `scale * queries @ keys.T - shift` in one pass.

    A block of rows is a matrix of rows x M; its softmax is known at once, so the forward pass
    leaves the gradient of the sum of all values. Where the cotangent is the same for all rows that
    count, as under a mean, the backward pass only scales it; else it forms the keys' gradient anew.

    Args:
      reduction: how.
      rows: of a block, >= 1.
      queries: [N, D] float32, or bfloat16, which is widened but on TPU.
      keys: [M, D], likewise.
      scale: scalar that multiplies the products; not 0.
      shift: [N], subtracted from each row.
      pairs: which pairs count.

    Returns:
      [N] values.
    """
    return best_values(reduction, rows, queries, keys, scale, shift, pairs)[0]


def _forward(
    reduction: Reduction, rows: int, queries: Any, keys: Any, scale: Any, shift: Any, pairs: Any
) -> tuple[jax.Array, Any]:
    """The values, and what the backward pass needs; inputs say whether they need a gradient."""
    pairs = jax.tree.map(
        lambda leaf: leaf.value, pairs, is_leaf=lambda leaf: hasattr(leaf, "value")
    )
    for_keys = keys.perturbed
    queries, keys, scale, shift = queries.value, keys.value, scale.value, shift.value
    found = by_platform(
        functools.partial(_by_kernels, reduction, for_keys),
        functools.partial(_by_blocks, reduction, rows, for_keys),
        *(queries, keys, scale, shift, pairs),
    )
    return found.values, (queries, keys, scale, shift, pairs, found)


class _Found(NamedTuple):
    """What the forward pass leaves: values, and the gradient of their sum."""

    values: jax.Array
    """[N]."""
    normalizer: jax.Array
    """[N], what `weights` wants."""
    weight: jax.Array
    """[N], sum of the row's weights."""
    mean_keys: jax.Array
    """[N, D], the keys' sum by their weights: the gradient of the scaled queries."""
    d_keys: Any
    """[M, D], or None where nobody asks for it."""


def _by_blocks(
    reduction: Reduction,
    rows: int,
    for_keys: bool,
    queries: jax.Array,
    keys: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
    pairs: Pairs,
) -> _Found:
    queries, keys = at_least_float32(queries), at_least_float32(keys)

    def block(cut: Block, so_far: _Found) -> _Found:
        own = cut.of(queries) * scale
        logits = similarity_logits(own, keys, cut.of(shift), of_pairs(cut, pairs))
        values, normalizer, shares, factors = reduce_with_weights(reduction, logits)
        mean_keys = factors[:, None] * product("nm,md->nd", shares, keys)
        new = (cut.new * factors)[:, None] * own
        return _Found(
            values=cut.put(so_far.values, values),
            normalizer=cut.put(so_far.normalizer, normalizer),
            weight=cut.put(so_far.weight, factors * shares.sum(1)),
            mean_keys=cut.put(so_far.mean_keys, mean_keys),
            d_keys=add_product(so_far.d_keys, shares, new) if for_keys else None,
        )

    zeros = jnp.zeros_like(shift)
    d_keys = jnp.zeros_like(keys) if for_keys else None
    start = _Found(zeros, zeros, zeros, jnp.zeros_like(queries), d_keys)
    return over_blocks(rows, len(queries), block, start)


def _by_kernels(
    reduction: Reduction,
    for_keys: bool,
    queries: jax.Array,
    keys: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
    pairs: Pairs,
) -> _Found:
    from jaxcl.similarity.tpu_kernel import kernel_gradients, kernel_values

    arguments = (reduction, queries, keys, scale, shift, pairs)
    values, normalizer = kernel_values(*arguments)
    gradients = kernel_gradients(*arguments, normalizer, jnp.ones_like(shift), for_keys=for_keys)
    mean_keys = gradients.queries / scale
    return _Found(values, normalizer, -gradients.shift, mean_keys, gradients.keys)


def _backward(
    reduction: Reduction, rows: int, residuals: Any, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array | None, jax.Array, jax.Array, None]:
    queries, keys, scale, shift, pairs, found = residuals
    d_keys = found.d_keys
    if d_keys is not None:
        counts = found.weight != 0  # a row whose weights are all zero is of no concern
        common = cotangent[jnp.argmax(counts)]
        is_common = jnp.all(jnp.where(counts, cotangent == common, True))
        d_keys = by_platform(
            functools.partial(_keys_by_kernels, reduction),
            functools.partial(_keys_by_blocks, reduction, rows),
            *(queries, keys, scale, shift, pairs, found.normalizer, cotangent, d_keys, is_common),
        )
        d_keys = (d_keys * jnp.where(is_common, common, 1)).astype(keys.dtype)
    d_scale = jnp.sum(cotangent * jnp.sum(queries * found.mean_keys, axis=1))
    d_queries = ((scale * cotangent)[:, None] * found.mean_keys).astype(queries.dtype)
    return d_queries, d_keys, d_scale, -cotangent * found.weight, None


def _keys_by_blocks(
    reduction: Reduction,
    rows: int,
    queries: jax.Array,
    keys: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
    pairs: Pairs,
    normalizer: jax.Array,
    cotangent: jax.Array,
    d_keys: jax.Array,
    is_common: jax.Array,
) -> jax.Array:
    """`d_keys` as it is where the cotangent is common, else the keys' gradient formed anew."""
    queries, keys = at_least_float32(queries), at_least_float32(keys)

    def block(cut: Block, d_keys: jax.Array) -> jax.Array:
        own = cut.of(queries) * scale
        logits = similarity_logits(own, keys, cut.of(shift), of_pairs(cut, pairs))
        share = weights(reduction, logits, cut.of(normalizer)[:, None])
        new = cut.of(cotangent) * cut.new
        d_keys = d_keys * (cut.start > 0)  # forgets, in place, what the forward pass left
        return add_product(d_keys, share, own * new[:, None])

    return over_blocks(rows, len(queries), block, d_keys, skip=is_common)


def _keys_by_kernels(
    reduction: Reduction,
    queries: jax.Array,
    keys: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
    pairs: Pairs,
    normalizer: jax.Array,
    cotangent: jax.Array,
    d_keys: jax.Array,
    is_common: jax.Array,
) -> jax.Array:
    """As `_keys_by_blocks`."""
    from jaxcl.similarity.tpu_kernel import kernel_gradients

    def anew() -> jax.Array:
        arguments = (queries, keys, scale, shift, pairs, normalizer, cotangent)
        return kernel_gradients(reduction, *arguments).keys

    return jax.lax.cond(is_common, lambda: d_keys, anew)


one_pass_rows.defvjp(_forward, _backward, symbolic_zeros=True)
