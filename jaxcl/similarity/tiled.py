"""Reductions over the rows of a similarity matrix that is never held: a block of rows at a time."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcl.similarity.blocks import Block, over_blocks
from jaxcl.similarity.rows import (
    Pairs,
    Reduction,
    product,
    reduce_rows,
    similarity_logits,
    weights,
)

_BLOCK_BYTES = {"cpu": 8 << 20}  # near the caches of a core or two
_ACCELERATOR_BLOCK_BYTES = 64 << 20
_ROWS = (64, 1024)
_PARTS = 4


class Gradients(NamedTuple):
    """Gradients of a weighted sum of row values.

    Attributes:
      queries: [N, D].
      shift: [N].
      scale: scalar.
      keys: [M, D], or None where nobody asks for it.
    """

    queries: jax.Array
    shift: jax.Array
    scale: jax.Array
    keys: Any


def block_rows(keys: int) -> int:
    """How many rows of [rows, keys] float32 entries to hold at a time, 64 to 1024.

    64 rows of entries take half the memory of the keys themselves at a width of 128: what is held
    beside the inputs grows as they do.
    """
    budget = _BLOCK_BYTES.get(jax.default_backend(), _ACCELERATOR_BLOCK_BYTES)
    least, most = _ROWS
    return max(least, min(most, budget // (4 * max(keys, 1))))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def tiled_rows(
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
      queries: [N, D] float32.
      keys: [M, D] float32.
      scale: scalar that multiplies the products.
      shift: [N], subtracted from each row.
      pairs: which pairs count.

    Returns:
      [N] values.
    """
    return row_values(reduction, rows, queries, keys, scale, shift, pairs)[0]


def _forward(
    reduction: Reduction, rows: int, queries: Any, keys: Any, scale: Any, shift: Any, pairs: Any
) -> tuple[jax.Array, Any]:
    """The values, and what the backward pass needs; inputs say whether they need a gradient."""
    pairs = jax.tree.map(
        lambda leaf: leaf.value, pairs, is_leaf=lambda leaf: hasattr(leaf, "value")
    )
    for_keys = keys.perturbed
    queries, keys, scale, shift = queries.value, keys.value, scale.value, shift.value

    def block(cut: Block, carry: Any) -> Any:
        values, normalizers, mean_keys, total, d_keys = carry
        own = cut.of(queries) * scale
        logits = similarity_logits(own, keys, cut.of(shift), _of_pairs(cut, pairs))
        value, normalizer = reduce_rows(reduction, logits)
        share = weights(reduction, logits, normalizer[:, None])
        return (
            cut.put(values, value),
            cut.put(normalizers, normalizer),
            cut.put(mean_keys, product("nm,md->nd", share, keys)),
            cut.put(total, share.sum(1)),
            _add_product(d_keys, share, own * cut.new[:, None]) if for_keys else None,
        )

    empty = jnp.zeros_like(shift)
    start = (
        *(empty, empty, jnp.zeros_like(queries), empty),
        jnp.zeros_like(keys) if for_keys else None,
    )
    values, normalizer, mean_keys, total, d_keys = over_blocks(rows, len(queries), block, start)
    return values, (queries, keys, scale, shift, pairs, normalizer, mean_keys, total, d_keys)


def _backward(
    reduction: Reduction, rows: int, residuals: Any, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array | None, jax.Array, jax.Array, None]:
    queries, keys, scale, shift, pairs, normalizer, mean_keys, total, d_keys = residuals
    if d_keys is not None:
        counts = total != 0  # a row whose weights are all zero is of no concern
        common = cotangent[jnp.argmax(counts)]
        is_common = jnp.all(jnp.where(counts, cotangent == common, True))

        def block(cut: Block, d_keys: jax.Array) -> jax.Array:
            own = cut.of(queries) * scale
            logits = similarity_logits(own, keys, cut.of(shift), _of_pairs(cut, pairs))
            share = weights(reduction, logits, cut.of(normalizer)[:, None])
            new = cut.of(cotangent) * cut.new
            d_keys = d_keys * (cut.start > 0)  # forgets, in place, what the forward pass left
            return _add_product(d_keys, share, own * new[:, None])

        d_keys = over_blocks(rows, len(queries), block, d_keys, skip=is_common)
        d_keys = d_keys * jnp.where(is_common, common, 1)
    d_scale = jnp.sum(cotangent * jnp.sum(queries * mean_keys, axis=1))
    return (scale * cotangent)[:, None] * mean_keys, d_keys, d_scale, -cotangent * total, None


tiled_rows.defvjp(_forward, _backward, symbolic_zeros=True)


def row_values(
    reduction: Reduction,
    rows: int,
    queries: jax.Array,
    keys: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
    pairs: Pairs,
) -> tuple[jax.Array, jax.Array]:
    """Values and normalizers [N], as of `reduce_rows`; arguments as of `tiled_rows`."""

    def block(cut: Block, carry: Any) -> Any:
        logits = similarity_logits(
            cut.of(queries) * scale, keys, cut.of(shift), _of_pairs(cut, pairs)
        )
        return jax.tree.map(cut.put, carry, reduce_rows(reduction, logits))

    empty = jnp.zeros_like(shift)
    return over_blocks(rows, len(queries), block, (empty, empty))


def row_gradients(
    reduction: Reduction,
    rows: int,
    queries: jax.Array,
    keys: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
    pairs: Pairs,
    normalizer: jax.Array,
    cotangent: jax.Array,
    *,
    for_keys: bool = True,
) -> Gradients:
    """Gradients of the values' sum, each value weighted by its cotangent [N]."""

    def block(cut: Block, found: Gradients) -> Gradients:
        own = cut.of(queries)
        logits = similarity_logits(own * scale, keys, cut.of(shift), _of_pairs(cut, pairs))
        share = weights(reduction, logits, cut.of(normalizer)[:, None])
        weight = cut.of(cotangent)
        d_own = weight[:, None] * product("nm,md->nd", share, keys)
        new = (scale * weight * cut.new)[:, None]
        return Gradients(
            cut.put(found.queries, scale * d_own),
            cut.put(found.shift, -weight * share.sum(1)),
            found.scale + jnp.sum(cut.new[:, None] * own * d_own),
            _add_product(found.keys, share, own * new) if for_keys else None,
        )

    start = Gradients(
        jnp.zeros_like(queries),
        jnp.zeros_like(shift),
        jnp.zeros_like(scale),
        jnp.zeros_like(keys) if for_keys else None,
    )
    return over_blocks(rows, len(queries), block, start)


def _add_product(total: jax.Array, share: jax.Array, rows: jax.Array) -> jax.Array:
    """total [M, D] + share.T @ rows, for [n, M] and [n, D], a part of M after another: XLA first
    multiplies into memory of its own what it then adds in place."""
    part = min(len(total), max(-(-len(total) // _PARTS), 1024))

    def add(cut: Block, total: jax.Array) -> jax.Array:
        columns = jax.lax.dynamic_slice_in_dim(share, cut.start, part, axis=1)
        return cut.add(total, cut.new[:, None] * product("nm,nd->md", columns, rows))

    return over_blocks(part, len(total), add, total)


def _of_pairs(cut: Block, pairs: Pairs) -> Pairs:
    """The block's rows of what describes the queries."""
    ids, where = pairs.query_ids, pairs.query_where
    return pairs._replace(
        query_ids=None if ids is None else cut.of(ids),
        query_where=None if where is None else cut.of(where),
    )
