"""Reductions over similarities that count at both ends: every tile of the matrix is computed once.

Where the rows are queries and keys at once, entry (i, j) is entry (j, i), and half of the matrix is
all of it; where images meet texts and texts images, one matrix serves its rows and its columns. So
a tile is computed, reduced along both axes, and forgotten; the backward pass computes it once more.
What is kept between the passes is two numbers a row.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jaxcl.similarity.blocks import Block, block_at
from jaxcl.similarity.platform import kernels_take
from jaxcl.similarity.rows import Pairs, Reduction, product, weights

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
      reduction: "logsumexp" or "log1p_sumexp".
      halves: whether rows of the first half are compared with those of the second only, and the
        other way round; else all with all.
      tile: rows and columns computed at a time, >= 1.
      rows: [R, D] float32.
      scales: scalars that multiply the products, each for a reduction of its own; the first of
        them not 0.
      shift: [R], subtracted from each row's.
      ids: [R] integers; rows of one id are not compared. None: all are, a row with itself too.
      where: [R] bool, rows that count at the other end. None: all.
      ignore_above: scalar; rows whose product is above it are not compared. None: all are.

    Returns:
      For each scale the values [R].
    """
    arguments = (rows, scales, shift, ids, where, ignore_above)
    return tuple(_values(reduction, halves, tile, *arguments)[0])


def _forward(reduction: Reduction, halves: bool, tile: int, *arguments: Any) -> tuple:
    _, scales, *_ = arguments
    for_scales = any(scale.perturbed for scale in scales)
    arguments = jax.tree.map(
        lambda leaf: leaf.value, arguments, is_leaf=lambda leaf: hasattr(leaf, "value")
    )
    values, normalizers = _values(reduction, halves, tile, *arguments)
    # Whether scales need a gradient is known now only; a residual's structure can say it.
    return tuple(values), (*arguments, values, normalizers, () if for_scales else None)


def _backward(
    reduction: Reduction,
    halves: bool,
    tile: int,
    residuals: tuple,
    cotangents: tuple[jax.Array, ...],
) -> tuple:
    *arguments, values, normalizers, for_scales = residuals
    d_rows, d_scales = _by_platform(
        functools.partial(_gradients_by_kernels, reduction, halves),
        functools.partial(_gradients_by_tiles, halves, tile, for_scales is not None),
        *(*arguments, normalizers, cotangents),
    )
    d_shift = sum(
        -cotangent * _weight(reduction, value)
        for cotangent, value in zip(cotangents, values, strict=True)
    )
    return d_rows, tuple(d_scales), d_shift, None, None, None


mutual_rows.defvjp(_forward, _backward, symbolic_zeros=True)


def _weight(reduction: Reduction, value: jax.Array) -> jax.Array:
    """The sum of a row's weights."""
    if reduction == "log1p_sumexp":
        return -jnp.expm1(-value)
    return jnp.where(jnp.isneginf(value), 0.0, 1.0)


def _values(
    reduction: Reduction, halves: bool, tile: int, *arguments: Any
) -> tuple[list[jax.Array], list[jax.Array]]:
    """For each scale the values, and what `weights` wants of each row."""
    return _by_platform(
        functools.partial(_values_by_kernels, reduction, halves),
        functools.partial(_values_by_tiles, reduction, halves, tile),
        *arguments,
    )


def _by_platform(
    kernels: Callable[..., Carry], tiles: Callable[..., Carry], *arguments: Any
) -> Carry:
    """Calls `kernels` on TPU, where they take these arguments, else `tiles`."""
    rows, _, _, ids, where, *_ = arguments
    if not kernels_take(rows, rows, Pairs(ids, ids, None, where)):
        return tiles(*arguments)
    return jax.lax.platform_dependent(*arguments, tpu=kernels, default=tiles)


def _values_by_tiles(
    reduction: Reduction,
    halves: bool,
    tile: int,
    rows: jax.Array,
    scales: tuple[jax.Array, ...],
    shift: jax.Array,
    ids: jax.Array | None,
    where: jax.Array | None,
    ignore_above: jax.Array | None,
) -> tuple[list[jax.Array], list[jax.Array]]:
    def body(at: _Tile, all_sums: list[_Sums]) -> list[_Sums]:
        products = at.products(rows)
        left_out = at.left_out(products, ids, ignore_above)
        logits = [_without(left_out, scale * products) for scale in scales]
        for own, other, axis, counts in at.ends():
            for number, entries in enumerate(logits):
                seen = _seen(entries, own, other, shift, where, axis)
                old = jax.tree.map(own.of, all_sums[number])
                new = old.add(seen, axis)
                new = jax.tree.map(functools.partial(jnp.where, counts), new, old)
                all_sums[number] = jax.tree.map(own.put, all_sums[number], new)
        return all_sums

    zeros = jnp.zeros_like(shift)
    largest = jnp.full_like(shift, -jnp.inf) if reduction == "logsumexp" else zeros
    start = [_Sums(largest, zeros) for _ in scales]
    found = _over_tiles(halves, tile, len(rows), body, start)
    values = [sums.value(reduction) for sums in found]
    return values, [jnp.where(jnp.isneginf(value), 0, value) for value in values]


class _Sums(NamedTuple):
    """What is known of each row after some tiles, [R] each."""

    largest: jax.Array
    """The largest entry, at least 0 for "log1p_sumexp"."""
    total: jax.Array
    """The sum of exp(entry - largest)."""

    def add(self, logits: jax.Array, axis: int) -> "_Sums":
        """The sums after more entries, which are reduced along `axis`."""
        largest = jnp.maximum(self.largest, jnp.max(logits, axis))
        taken_out = jnp.where(jnp.isneginf(largest), 0, largest)
        new = jnp.sum(jnp.exp(logits - jnp.expand_dims(taken_out, axis)), axis)
        return _Sums(largest, self.total * jnp.exp(self.largest - taken_out) + new)

    def value(self, reduction: Reduction) -> jax.Array:
        """As `reduce_rows` has it."""
        if reduction == "log1p_sumexp":
            return self.largest + jnp.log1p(self.total + jnp.expm1(-self.largest))
        empty = self.total == 0  # the largest entry adds 1, and NaN is not 0
        return jnp.where(empty, -jnp.inf, self.largest + jnp.log(jnp.where(empty, 1, self.total)))


def _gradients_by_tiles(
    halves: bool,
    tile: int,
    for_scales: bool,
    rows: jax.Array,
    scales: tuple[jax.Array, ...],
    shift: jax.Array,
    ids: jax.Array | None,
    where: jax.Array | None,
    ignore_above: jax.Array | None,
    normalizers: list[jax.Array],
    cotangents: tuple[jax.Array, ...],
) -> tuple[jax.Array, list[jax.Array]]:
    """Gradients of the rows [R, D], and of each scale (zero where nobody asks for them)."""

    def body(
        at: _Tile, carry: tuple[jax.Array, list[jax.Array]]
    ) -> tuple[jax.Array, list[jax.Array]]:
        total, d_scales = carry
        products = at.products(rows)
        left_out = at.left_out(products, ids, ignore_above)
        share = jnp.zeros_like(products)
        for number, (scale, normalizer, cotangent) in enumerate(
            zip(scales, normalizers, cotangents, strict=True)
        ):
            entries, mine = _without(left_out, scale * products), jnp.zeros_like(products)
            for own, other, axis, counts in at.ends():
                seen = _seen(entries, own, other, shift, where, axis)
                seen = weights("logsumexp", seen, jnp.expand_dims(own.of(normalizer), axis))
                mine += jnp.expand_dims(counts * own.of(cotangent), axis) * seen
            share = mine if number == 0 else share + scale / scales[0] * mine
            if for_scales:
                d_scales[number] += jnp.sum(products * mine)
        total = at.first.add(total, product("nm,md->nd", share, at.second.of(rows)))
        total = at.second.add(total, product("nm,nd->md", share, at.first.of(rows)))
        return total, d_scales

    start = (jnp.zeros_like(rows), [jnp.zeros_like(scale) for scale in scales])
    total, d_scales = _over_tiles(halves, tile, len(rows), body, start)
    return scales[0] * total, d_scales


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


def _values_by_kernels(
    reduction: Reduction,
    halves: bool,
    rows: jax.Array,
    scales: tuple[jax.Array, ...],
    shift: jax.Array,
    ids: jax.Array | None,
    where: jax.Array | None,
    ignore_above: jax.Array | None,
) -> tuple[list[jax.Array], list[jax.Array]]:
    """As `_values_by_tiles`; kernels reduce one end at a time."""
    from jaxcl.similarity.tpu_kernel import kernel_values

    values: list[jax.Array] = []
    normalizers: list[jax.Array] = []
    for scale in scales:
        pairs = _pairs(ids, where, ignore_above, scale)
        found = [
            kernel_values(
                *(reduction, rows[own], rows[other], scale, shift[own]), pairs.between(own, other)
            )
            for own, other in _sides(halves, len(rows))
        ]
        for all_found, of_sides in zip(
            (values, normalizers), zip(*found, strict=True), strict=True
        ):
            all_found.append(jnp.concatenate(of_sides))
    return values, normalizers


def _gradients_by_kernels(
    reduction: Reduction,
    halves: bool,
    rows: jax.Array,
    scales: tuple[jax.Array, ...],
    shift: jax.Array,
    ids: jax.Array | None,
    where: jax.Array | None,
    ignore_above: jax.Array | None,
    normalizers: list[jax.Array],
    cotangents: tuple[jax.Array, ...],
) -> tuple[jax.Array, list[jax.Array]]:
    """As `_gradients_by_tiles`."""
    from jaxcl.similarity.tpu_kernel import kernel_gradients

    d_rows, d_scales = jnp.zeros_like(rows), []
    for scale, normalizer, cotangent in zip(scales, normalizers, cotangents, strict=True):
        d_scale, pairs = jnp.zeros_like(scale), _pairs(ids, where, ignore_above, scale)
        for own, other in _sides(halves, len(rows)):
            found = kernel_gradients(
                *(reduction, rows[own], rows[other], scale, shift[own]),
                *(pairs.between(own, other), normalizer[own], cotangent[own]),
            )
            d_rows = d_rows.at[own].add(found.queries).at[other].add(found.keys)
            d_scale += found.scale
        d_scales.append(d_scale)
    return d_rows, d_scales


def _pairs(
    ids: jax.Array | None,
    where: jax.Array | None,
    ignore_above: jax.Array | None,
    scale: jax.Array,
) -> Pairs:
    """Which pairs count, as kernels take it."""
    return Pairs(ids, ids, None, where, None if ignore_above is None else ignore_above * scale)


def _sides(halves: bool, count: int) -> list[tuple[slice, slice]]:
    """Which rows meet which."""
    if not halves:
        return [(slice(None), slice(None))]
    first, second = slice(None, count // 2), slice(count // 2, None)
    return [(first, second), (second, first)]


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
