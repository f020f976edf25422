"""Reductions over the rows of a similarity matrix that is never held: a block of rows at a time."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jaxcl.similarity.rows import Pairs, Reduction, reduce_rows, similarity_logits, weights

Carry = TypeVar("Carry")

_BLOCK_BYTES = {"cpu": 4 << 20}  # near the caches of a core or two
_ACCELERATOR_BLOCK_BYTES = 64 << 20
_ROWS = (64, 1024)


class Gradients(NamedTuple):
    """Gradients of a weighted sum of row values.

    Attributes:
      queries: [N, D].
      shift: [N].
      keys: [M, D], or None where nobody asks for it.
    """

    queries: jax.Array
    shift: jax.Array
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
    shift: jax.Array,
    pairs: Pairs,
) -> jax.Array:
    """Reduces the rows of `queries @ keys.T - shift`.

    A block of rows is a matrix of rows x M; its softmax is known at once, so the forward pass
    leaves the gradient of the sum of all values. Where the cotangent is the same for all rows that
    count, as under a mean, the backward pass only scales it; else it forms the keys' gradient anew.

    Args:
      reduction: how.
      rows: of a block, >= 1.
      queries: [N, D] float32.
      keys: [M, D] float32.
      shift: [N], subtracted from each row.
      pairs: which pairs count.

    Returns:
      [N] values.
    """
    return row_values(reduction, rows, queries, keys, shift, pairs)[0]


def _forward(
    reduction: Reduction, rows: int, queries: Any, keys: Any, shift: Any, pairs: Any
) -> tuple[jax.Array, Any]:
    """The values, and what the backward pass needs; inputs say whether they need a gradient."""
    pairs = jax.tree.map(
        lambda leaf: leaf.value, pairs, is_leaf=lambda leaf: hasattr(leaf, "value")
    )
    for_keys = keys.perturbed
    queries, keys, shift = queries.value, keys.value, shift.value

    def block(cut: Block, carry: Any) -> Any:
        values, normalizers, unit = carry
        own = cut.of(queries)
        logits = similarity_logits(own, keys, cut.of(shift), cut.of_pairs(pairs))
        value, normalizer = reduce_rows(reduction, logits)
        share = weights(reduction, logits, normalizer)
        d_keys = unit.keys
        if d_keys is not None:
            d_keys += _product("nm,nd->md", share, own * cut.new[:, None])
        unit = Gradients(
            cut.put(unit.queries, _product("nm,md->nd", share, keys)),
            cut.put(unit.shift, -share.sum(1)),
            d_keys,
        )
        return cut.put(values, value), cut.put(normalizers, normalizer), unit

    empty = jnp.zeros_like(shift)
    unit = Gradients(jnp.zeros_like(queries), empty, jnp.zeros_like(keys) if for_keys else None)
    values, normalizer, unit = _over_blocks(rows, len(queries), block, (empty, empty, unit))
    return values, (queries, keys, shift, pairs, normalizer, unit)


def _backward(
    reduction: Reduction, rows: int, residuals: Any, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array | None, jax.Array, None]:
    queries, keys, shift, pairs, normalizer, unit = residuals
    d_keys = unit.keys
    if d_keys is not None:
        counts = unit.shift != 0  # a row whose weights are all zero is of no concern
        common = cotangent[jnp.argmax(counts)]
        is_common = jnp.all(jnp.where(counts, cotangent == common, True))

        def block(cut: Block, d_keys: jax.Array) -> jax.Array:
            own = cut.of(queries)
            logits = similarity_logits(own, keys, cut.of(shift), cut.of_pairs(pairs))
            share = weights(reduction, logits, cut.of(normalizer))
            scale = cut.of(cotangent) * cut.new
            return d_keys + _product("nm,nd->md", share, own * scale[:, None])

        d_keys = d_keys * jnp.where(is_common, common, 0)
        d_keys = _over_blocks(rows, len(queries), block, d_keys, skip=is_common)
    return cotangent[:, None] * unit.queries, d_keys, cotangent * unit.shift, None


tiled_rows.defvjp(_forward, _backward, symbolic_zeros=True)


def row_values(
    reduction: Reduction,
    rows: int,
    queries: jax.Array,
    keys: jax.Array,
    shift: jax.Array,
    pairs: Pairs,
) -> tuple[jax.Array, jax.Array]:
    """Values and normalizers [N], as of `reduce_rows`; arguments as of `tiled_rows`."""

    def block(cut: Block, carry: Any) -> Any:
        logits = similarity_logits(cut.of(queries), keys, cut.of(shift), cut.of_pairs(pairs))
        return jax.tree.map(cut.put, carry, reduce_rows(reduction, logits))

    empty = jnp.zeros_like(shift)
    return _over_blocks(rows, len(queries), block, (empty, empty))


def row_gradients(
    reduction: Reduction,
    rows: int,
    queries: jax.Array,
    keys: jax.Array,
    shift: jax.Array,
    pairs: Pairs,
    normalizer: jax.Array,
    cotangent: jax.Array,
) -> Gradients:
    """Gradients of the values' sum, each value weighted by its cotangent [N]."""

    def block(cut: Block, found: Gradients) -> Gradients:
        own, scale = cut.of(queries), cut.of(cotangent)
        logits = similarity_logits(own, keys, cut.of(shift), cut.of_pairs(pairs))
        share = weights(reduction, logits, cut.of(normalizer))
        new = own * (scale * cut.new)[:, None]
        return Gradients(
            cut.put(found.queries, scale[:, None] * _product("nm,md->nd", share, keys)),
            cut.put(found.shift, -scale * share.sum(1)),
            found.keys + _product("nm,nd->md", share, new),
        )

    start = Gradients(*map(jnp.zeros_like, (queries, shift, keys)))
    return _over_blocks(rows, len(queries), block, start)


def _product(equation: str, left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.einsum(equation, left, right, precision=jax.lax.Precision.HIGHEST)


@dataclasses.dataclass(frozen=True)
class Block:
    """Consecutive rows of an array of rows."""

    start: jax.Array
    new: jax.Array
    """[rows] bool, rows that no block before has had: the last one may overlap."""

    def of(self, array: jax.Array) -> jax.Array:
        """The block's rows of an array [N, ...]."""
        return jax.lax.dynamic_slice_in_dim(array, self.start, len(self.new))

    def of_pairs(self, pairs: Pairs) -> Pairs:
        """The block's rows of what describes the queries."""
        cut = {
            name: None if array is None else self.of(array)
            for name, array in (
                ("query_ids", pairs.query_ids),
                ("query_where", pairs.query_where),
            )
        }
        return pairs._replace(**cut)

    def put(self, array: jax.Array, rows: jax.Array) -> jax.Array:
        """The array with other rows in the block's place."""
        return jax.lax.dynamic_update_slice_in_dim(array, rows, self.start, axis=0)


def _over_blocks(
    rows: int,
    count: int,
    block: Callable[[Block, Carry], Carry],
    carry: Carry,
    skip: jax.Array | bool = False,
) -> Carry:
    """`block` over `count` rows in blocks; none at all where `skip` is true."""
    rows = min(rows, count)
    blocks = -(-count // rows)

    def step(number: jax.Array, carry: Carry) -> Carry:
        start = jnp.minimum(number * rows, count - rows)
        new = start + jnp.arange(rows) >= number * rows
        return block(Block(start, new), carry)

    return jax.lax.fori_loop(
        0, blocks if skip is False else jnp.where(skip, 0, blocks), step, carry
    )
