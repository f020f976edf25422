"""Reductions over similarities that count at both ends: every tile of the matrix is computed once.

Where the rows are queries and keys at once, entry (i, j) is entry (j, i), and half of the matrix is
all of it; where images meet texts and texts images, one matrix serves its rows and its columns. So
a tile is computed, reduced along both axes, and forgotten; the backward pass computes it once more.
What is kept between the passes is three numbers a row.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jaxcl.similarity.blocks import Block, block_at
from jaxcl.similarity.rows import Reduction, product, weights

Carry = TypeVar("Carry")

_TILE = {"cpu": 1024}  # 4 MB of float32; below 512, XLA uses one core
_ACCELERATOR_TILE = 2048


def tile_rows() -> int:
    """How many rows and columns a tile has."""
    return _TILE.get(jax.default_backend(), _ACCELERATOR_TILE)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def mutual_rows(
    reduction: Reduction,
    halves: bool,
    tile: int,
    rows: jax.Array,
    scales: tuple[jax.Array, ...],
    shift: jax.Array,
    ids: jax.Array | None,
    where: jax.Array | None,
    ignore_above: jax.Array | None,
) -> tuple[jax.Array, ...]:
    """Reduces, for each row, `scale * rows @ row - shift` over the rows that it is compared with.

    Args:
      reduction: how.
      halves: whether rows of the first half are compared with those of the second only, and the
        other way round; else all with all.
      tile: rows and columns computed at a time, >= 1.
      rows: [R, D] float32.
      scales: scalars that multiply the products, each for a reduction of its own.
      shift: [R], subtracted from each row's.
      ids: [R] integers; rows of one id are not compared. None: all are, a row with itself too.
      where: [R] bool, rows that count at the other end. None: all.
      ignore_above: scalar; rows whose product is above it are not compared. None: all are.

    Returns:
      For each scale the values [R].
    """
    found = _values(reduction, halves, tile, rows, scales, shift, ids, where, ignore_above)
    return tuple(each.value for each in found)


class _Found(NamedTuple):
    """What a pass over the tiles finds of each row, [R] each."""

    value: jax.Array
    normalizer: jax.Array
    """What `weights` wants of the row."""
    weight: jax.Array
    """Sum of the row's weights."""


class _Sums(NamedTuple):
    """What is known of each row after some tiles, [R] each."""

    largest: jax.Array
    """The largest entry, at least 0 for "log1p_sumexp"; for "sum_softplus" the sum so far."""
    total: jax.Array
    """The sum of exp(entry - largest); for "sum_softplus" the sum of the weights."""


def _add(reduction: Reduction, sums: _Sums, logits: jax.Array, axis: int) -> _Sums:
    """The sums after more entries, which are reduced along `axis`."""
    if reduction == "sum_softplus":
        return _Sums(
            sums.largest + jnp.sum(jax.nn.softplus(logits), axis),
            sums.total + jnp.sum(jax.nn.sigmoid(logits), axis),
        )
    largest = jnp.maximum(sums.largest, jnp.max(logits, axis))
    taken_out = jnp.where(jnp.isneginf(largest), 0, largest)
    new = jnp.sum(jnp.exp(logits - jnp.expand_dims(taken_out, axis)), axis)
    return _Sums(largest, sums.total * jnp.exp(sums.largest - taken_out) + new)


def _finish(reduction: Reduction, sums: _Sums) -> _Found:
    """Values, as `reduce_rows` has them."""
    largest, total = sums
    if reduction == "sum_softplus":
        return _Found(largest, jnp.zeros_like(largest), total)
    if reduction == "log1p_sumexp":
        value = largest + jnp.log1p(total + jnp.expm1(-largest))
        return _Found(value, value, -jnp.expm1(-value))
    empty = jnp.isneginf(largest)
    value = largest + jnp.log(jnp.where(empty, 1, total))
    return _Found(value, jnp.where(empty, 0, value), jnp.where(empty, 0.0, 1.0))


def _values(
    reduction: Reduction,
    halves: bool,
    tile: int,
    rows: jax.Array,
    scales: tuple[jax.Array, ...],
    shift: jax.Array,
    ids: jax.Array | None,
    where: jax.Array | None,
    ignore_above: jax.Array | None,
) -> list[_Found]:
    def body(at: _Tile, all_sums: list[_Sums]) -> list[_Sums]:
        products = at.products(rows)
        left_out = at.left_out(products, ids, ignore_above)
        logits = [_without(left_out, scale * products) for scale in scales]
        for own, other, axis, counts in at.ends():
            for number, entries in enumerate(logits):
                seen = _seen(entries, own, other, shift, where, axis)
                old = jax.tree.map(own.of, all_sums[number])
                new = _add(reduction, old, seen, axis)
                new = jax.tree.map(functools.partial(jnp.where, counts), new, old)
                all_sums[number] = jax.tree.map(own.put, all_sums[number], new)
        return all_sums

    zeros = jnp.zeros_like(shift)
    largest = jnp.full_like(shift, -jnp.inf) if reduction == "logsumexp" else zeros
    start = [_Sums(largest, zeros) for _ in scales]
    found = _over_tiles(halves, tile, len(rows), body, start)
    return [_finish(reduction, sums) for sums in found]


def _forward(reduction: Reduction, halves: bool, tile: int, *arguments: Any) -> tuple:
    _, scales, *_ = arguments
    for_scales = any(scale.perturbed for scale in scales)
    arguments = jax.tree.map(
        lambda leaf: leaf.value, arguments, is_leaf=lambda leaf: hasattr(leaf, "value")
    )
    found = _values(reduction, halves, tile, *arguments)
    # Whether scales need a gradient is known now only; a residual's structure can say it.
    residuals = (*arguments, found, () if for_scales else None)
    return tuple(each.value for each in found), residuals


def _backward(
    reduction: Reduction,
    halves: bool,
    tile: int,
    residuals: tuple,
    cotangents: tuple[jax.Array, ...],
) -> tuple:
    rows, scales, shift, ids, where, ignore_above, found, for_scales = residuals

    def body(
        at: _Tile, carry: tuple[jax.Array, list[jax.Array]]
    ) -> tuple[jax.Array, list[jax.Array]]:
        total, d_scales = carry
        products = at.products(rows)
        left_out = at.left_out(products, ids, ignore_above)
        share = jnp.zeros_like(products)
        for number, (scale, of_scale, cotangent) in enumerate(
            zip(scales, found, cotangents, strict=True)
        ):
            entries, mine = _without(left_out, scale * products), jnp.zeros_like(products)
            for own, other, axis, counts in at.ends():
                normalizer = jnp.expand_dims(own.of(of_scale.normalizer), axis)
                seen = weights(
                    reduction, _seen(entries, own, other, shift, where, axis), normalizer
                )
                mine += jnp.expand_dims(counts * own.of(cotangent), axis) * seen
            share += scale * mine
            if for_scales is not None:
                d_scales[number] += jnp.sum(products * mine)
        total = at.first.add(total, product("nm,md->nd", share, at.second.of(rows)))
        total = at.second.add(total, product("nm,nd->md", share, at.first.of(rows)))
        return total, d_scales

    start = (jnp.zeros_like(rows), [jnp.zeros_like(scale) for scale in scales])
    d_rows, d_scales = _over_tiles(halves, tile, len(rows), body, start)
    d_shift = -sum(
        cotangent * of_scale.weight for cotangent, of_scale in zip(cotangents, found, strict=True)
    )
    return d_rows, tuple(d_scales), d_shift, None, None, None


mutual_rows.defvjp(_forward, _backward, symbolic_zeros=True)


class _Tile(NamedTuple):
    """A part of the matrix, reduced from both of its sides."""

    first: Block
    second: Block
    off_diagonal: jax.Array
    """Whether the columns are others than the rows."""

    def products(self, rows: jax.Array) -> jax.Array:
        return product("nd,md->nm", self.first.of(rows), self.second.of(rows))

    def left_out(
        self, products: jax.Array, ids: jax.Array | None, ignore_above: jax.Array | None
    ) -> jax.Array | None:
        """Where two rows are not compared, or were in a tile before; None: nowhere."""
        reasons = []
        if ids is not None:
            reasons.append(self.first.of(ids)[:, None] == self.second.of(ids))
        if self.first.may_overlap:
            reasons.append(~(self.first.new[:, None] & self.second.new))
        if ignore_above is not None:
            reasons.append(products > ignore_above)
        return functools.reduce(jnp.logical_or, reasons) if reasons else None

    def ends(self) -> tuple[tuple[Block, Block, int, jax.Array | bool], ...]:
        """Rows, those that they are compared with, the axis of the latter, whether it counts."""
        return (
            (self.first, self.second, 1, True),
            (self.second, self.first, 0, self.off_diagonal),
        )


def _without(left_out: jax.Array | None, logits: jax.Array) -> jax.Array:
    return logits if left_out is None else jnp.where(left_out, -jnp.inf, logits)


def _seen(
    logits: jax.Array,
    own: Block,
    other: Block,
    shift: jax.Array,
    where: jax.Array | None,
    axis: int,
) -> jax.Array:
    """A tile's entries as the rows of one end see them."""
    logits = logits - jnp.expand_dims(own.of(shift), axis)
    if where is None:
        return logits
    return jnp.where(jnp.expand_dims(other.of(where), 1 - axis), logits, -jnp.inf)


def _over_tiles(
    halves: bool,
    tile: int,
    count: int,
    body: Callable[[_Tile, Carry], Carry],
    carry: Carry,
) -> Carry:
    """`body` over the tiles that hold every pair of rows once."""
    size = count // 2 if halves else count
    tile = min(tile, size)
    blocks = -(-size // tile)

    def step(i: jax.Array, carry: Carry) -> Carry:
        def inner(j: jax.Array, carry: Carry) -> Carry:
            second = block_at(j, tile, size, offset=size if halves else 0)
            off_diagonal = jnp.asarray(True) if halves else i != j
            return body(_Tile(block_at(i, tile, size), second, off_diagonal), carry)

        return jax.lax.fori_loop(0 if halves else i, blocks, inner, carry)

    return jax.lax.fori_loop(0, blocks, step, carry)
