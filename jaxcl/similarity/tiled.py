"""Values and gradients of rows of similarities, a block of rows at a time, wherever XLA runs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcl.similarity.blocks import Block, over_blocks
from jaxcl.similarity.measures import at_least_float32
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


def row_values(
    reduction: Reduction,
    rows: int,
    queries: jax.Array,
    keys: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
    pairs: Pairs,
) -> tuple[jax.Array, jax.Array]:
    """Values and normalizers [N], as of `reduce_rows`; arguments as of `two_pass_rows`."""
    queries, keys = at_least_float32(queries), at_least_float32(keys)

    def block(cut: Block, carry: Any) -> Any:
        logits = similarity_logits(
            cut.of(queries) * scale, keys, cut.of(shift), of_pairs(cut, pairs)
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
    queries, keys = at_least_float32(queries), at_least_float32(keys)

    def block(cut: Block, found: Gradients) -> Gradients:
        own = cut.of(queries)
        logits = similarity_logits(own * scale, keys, cut.of(shift), of_pairs(cut, pairs))
        share = weights(reduction, logits, cut.of(normalizer)[:, None])
        weight = cut.of(cotangent)
        d_own = weight[:, None] * product("nm,md->nd", share, keys)
        new = (scale * weight * cut.new)[:, None]
        return Gradients(
            cut.put(found.queries, scale * d_own),
            cut.put(found.shift, -weight * share.sum(1)),
            found.scale + jnp.sum(cut.new[:, None] * own * d_own),
            add_product(found.keys, share, own * new) if for_keys else None,
        )

    start = Gradients(
        jnp.zeros_like(queries),
        jnp.zeros_like(shift),
        jnp.zeros_like(scale),
        jnp.zeros_like(keys) if for_keys else None,
    )
    return over_blocks(rows, len(queries), block, start)


def add_product(total: jax.Array, share: jax.Array, rows: jax.Array) -> jax.Array:
    """total [M, D] + share.T @ rows, for [n, M] and [n, D], a part of M after another: XLA first
    multiplies into memory of its own what it then adds in place."""
    part = min(len(total), max(-(-len(total) // _PARTS), 1024))

    def add(cut: Block, total: jax.Array) -> jax.Array:
        columns = jax.lax.dynamic_slice_in_dim(share, cut.start, part, axis=1)
        return cut.add(total, cut.new[:, None] * product("nm,nd->md", columns, rows))

    return over_blocks(part, len(total), add, total)


def of_pairs(cut: Block, pairs: Pairs) -> Pairs:
    """The block's rows of what describes the queries, key ids that differ by query among it."""
    ids, key_ids, where = pairs.query_ids, pairs.key_ids, pairs.query_where
    return pairs._replace(
        query_ids=None if ids is None else cut.of(ids),
        key_ids=cut.of(key_ids) if key_ids is not None and key_ids.ndim == 2 else key_ids,
        query_where=None if where is None else cut.of(where),
    )
