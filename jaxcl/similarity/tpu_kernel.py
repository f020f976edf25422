"""Reductions over the rows of a similarity matrix as kernels for TPU.

What `row_values` and `row_gradients` (jaxcl/similarity/tiled.py) do with blocks of whole rows,
these do with tiles that never leave the chip's vector memory, as FlashAttention does (Dao et al.,
2022): the forward kernel goes over the keys with a running maximum and sum, and the backward
kernels form the weights anew from each row's normalizer. bfloat16 and float32 rows are multiplied
as they come; sums, and everything after the products, are float32.

Importing this module imports Pallas, which takes a while: import it where it is used.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxcl.similarity.rows import Pairs, Reduction, weights
from jaxcl.similarity.tiled import Gradients

_LANES = 128
_BLOCK_BYTES = 12 << 20  # of the 16 MB of vector memory that a kernel gets on the smaller chips
_TILES = 4  # float32 arrays of a tile's size that the compiler holds at once
_MOST_WIDTH = 4096  # 128 rows of it fit, just
_LOWEST = float(jnp.finfo(jnp.float32).min)

_Refs = dict[str, Any]
"""References to blocks in vector memory, by what they hold."""


def supports(queries: jax.Array, keys: jax.Array, pairs: Pairs) -> bool:
    """Whether the kernels take these queries, keys and pairs; those they don't are left to XLA.

    Args:
      queries: [N, D].
      keys: [M, D], or [N, M, D].
      pairs: which pairs count.

    Returns:
      False for empty arrays, for a set of keys or of key ids for each query, for D above 4096, for
      float64 and for 64-bit ids.

    Example:
      >>> import jax.numpy as jnp
      >>> supports(jnp.ones((5, 3)), jnp.ones((7, 3)), Pairs())
      True
      >>> supports(jnp.ones((5, 3)), jnp.ones((5, 7, 3)), Pairs())
      False
    """
    ids = [each for each in (pairs.query_ids, pairs.key_ids) if each is not None]
    return (
        keys.ndim == 2
        and min(queries.size, keys.size) > 0
        and queries.shape[1] <= _MOST_WIDTH
        and jnp.result_type(queries, keys).itemsize <= 4
        and all(each.ndim == 1 for each in ids)
        and (not ids or jnp.result_type(*ids).itemsize <= 4)
    )


def kernel_values(
    reduction: Reduction,
    queries: jax.Array,
    keys: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
    pairs: Pairs,
    *,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Reduces the rows of `scale * queries @ keys.T - shift`.

    Args:
      reduction: how.
      queries: [N, D], bfloat16 or float32; float16 is widened, and so are both where types differ.
        Rows are finite, those that do not count too.
      keys: [M, D], likewise.
      scale: scalar that multiplies the products.
      shift: [N], subtracted from each row.
      pairs: which pairs count.
      interpret: run as plain array operations, on any device: for tests.

    Returns:
      Values and normalizers [N] in float32, as of `reduce_rows`.

    Raises:
      ValueError: if `supports` is false.
    """

    def add_exponentials(logits: jax.Array, _: _Refs, found: list[Any]) -> None:
        largest, total = found
        new_largest = jnp.maximum(largest[...], _row_max(logits))
        so_far = total[...] * jnp.exp(largest[...] - new_largest)
        total[...] = so_far + _row_sum(jnp.exp(logits - new_largest))
        largest[...] = new_largest

    def add_softplus(logits: jax.Array, _: _Refs, found: list[Any]) -> None:
        found[0][...] += _row_sum(jnp.maximum(logits, 0) + jnp.log1p(jnp.exp(-jnp.abs(logits))))

    query_side, key_side = _sides(queries, keys, shift, pairs)
    sweep = _Sweep("similarity_rows", query_side, key_side, scale, pairs.limit, interpret)
    if reduction == "sum_softplus":
        (value,) = sweep(add_softplus, columns=(0.0,), exponentials=2)
        return value, jnp.zeros_like(value)
    if reduction == "log1p_sumexp":  # the 1 is an entry of 0
        largest, total = sweep(add_exponentials, columns=(0.0, 0.0))
        value = largest + jnp.log1p(total + jnp.expm1(-largest))
        return value, value
    largest, total = sweep(add_exponentials, columns=(_LOWEST, 0.0))
    empty = total == 0  # the largest entry that counts adds 1
    value = largest + jnp.log(jnp.where(empty, 1, total))
    return jnp.where(empty, -jnp.inf, value), jnp.where(empty, 0, value)


def kernel_gradients(
    reduction: Reduction,
    queries: jax.Array,
    keys: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
    pairs: Pairs,
    normalizer: jax.Array,
    cotangent: jax.Array,
    *,
    for_keys: bool = True,
    interpret: bool = False,
) -> Gradients:
    """Gradients of the values' sum, each value weighted by its cotangent.

    Weights of bfloat16 rows are rounded to bfloat16 where they multiply keys, and so are weights
    times cotangents where they multiply queries: an error of at most 2**-8 of the sum of the
    absolute values of a gradient's terms (seen: 2**-9 of a gradient's norm). All else is float32.

    Args:
      reduction: how.
      queries: [N, D], as of `kernel_values`.
      keys: [M, D].
      scale: scalar.
      shift: [N].
      pairs: which pairs count.
      normalizer: [N], the second result of `kernel_values`, or that over more keys than these.
      cotangent: [N].
      for_keys: whether the keys' gradient is wanted.
      interpret: as of `kernel_values`.

    Returns:
      The gradients, in float32 whatever the type of the rows.

    Raises:
      ValueError: if `supports` is false.
    """

    def add_keys(logits: jax.Array, refs: _Refs, found: list[Any]) -> None:
        total, mean_keys = found
        share = weights(reduction, logits, refs["normalizer"][...])
        total[...] += _row_sum(share)
        mean_keys[...] += _product(share, refs["inner"], (1, 0))

    def add_queries(logits: jax.Array, refs: _Refs, found: list[Any]) -> None:
        share = weights(reduction, logits, refs["normalizer"][...])
        found[0][...] += _product(share * refs["cotangent"][...], refs["inner"], (1, 0))

    query_side, key_side = _sides(queries, keys, shift, pairs, {"normalizer": normalizer})
    last = (scale, pairs.limit, interpret)
    sweep = _Sweep("similarity_rows_d_queries", query_side, key_side, *last)
    total, mean_keys = sweep(add_keys, columns=(0.0,), matrix=True)
    weight = (scale * cotangent).astype(jnp.float32)
    d_keys = None
    if for_keys:
        query_side = query_side.beside({"cotangent": weight})
        sweep = _Sweep("similarity_rows_d_keys", key_side, query_side, *last)
        (d_keys,) = sweep(add_queries, matrix=True)
    return Gradients(
        queries=weight[:, None] * mean_keys,
        shift=-cotangent * total,
        scale=jnp.sum(cotangent * jnp.sum(queries * mean_keys, axis=1)),
        keys=d_keys,
    )


@dataclasses.dataclass(frozen=True)
class _Side:
    """The queries, or the keys, in whole blocks, with the numbers that each row has.

    Attributes:
      rows: [blocks * block, D], those past `count` zero.
      vectors: [1, blocks * block] each.
      count: rows that there are.
      block: rows of a block, a multiple of 128.
    """

    rows: jax.Array
    vectors: dict[str, jax.Array]
    count: int
    block: int

    @classmethod
    def of(cls, rows: jax.Array) -> "_Side":
        """Cuts rows into blocks as alike as they can be, of a size that fits."""
        count, width = rows.shape
        most = _most_rows(width, rows.dtype.itemsize)
        block = _up_to(_LANES, pl.cdiv(count, pl.cdiv(count, most)))
        padding = _up_to(block, count) - count
        return cls(jnp.pad(rows, ((0, padding), (0, 0))), {}, count, block)

    @property
    def blocks(self) -> int:
        return len(self.rows) // self.block

    def beside(self, vectors: dict[str, jax.Array], past: float = 0) -> "_Side":
        """With more numbers [count] a row; `past` for the rows past the last."""
        padding = len(self.rows) - self.count
        padded = {
            name: jnp.pad(vector, (0, padding), constant_values=past)[None]
            for name, vector in vectors.items()
        }
        return dataclasses.replace(self, vectors=self.vectors | padded)


def _most_rows(width: int, itemsize: int) -> int:
    """Rows of a block, so that blocks of both sides, twice, and a tile fit vector memory."""
    width = _up_to(_LANES, width)
    for rows in (512, 256):
        blocks = 2 * rows * width * (2 * itemsize + 4)  # one is read while another is used
        if blocks + _TILES * 4 * rows * rows <= _BLOCK_BYTES:
            return rows
    return _LANES


def _up_to(multiple: int, count: int) -> int:
    return pl.cdiv(count, multiple) * multiple


def _sides(
    queries: jax.Array,
    keys: jax.Array,
    shift: jax.Array,
    pairs: Pairs,
    more: dict[str, jax.Array] | None = None,
) -> tuple[_Side, _Side]:
    """Both sides, and what says which pairs count: a shift of infinity, a bias of minus that.

    `more` are numbers [N] that the kernel wants of each query.
    """
    if not supports(queries, keys, pairs):
        raise ValueError(
            f"queries {queries.shape} {queries.dtype}, keys {keys.shape} {keys.dtype} with ids "
            f"{[None if x is None else (x.shape, x.dtype) for x in pairs[:2]]} are not for the "
            "kernel: ask `supports` first"
        )
    dtype = jnp.result_type(queries, keys)
    dtype = dtype if dtype in (jnp.bfloat16, jnp.float32) else jnp.float32
    if pairs.query_where is not None:
        shift = jnp.where(pairs.query_where, shift, jnp.inf)
    of_queries = {"shift": shift, **(more or {})}
    query_side = _Side.of(queries.astype(dtype)).beside(
        {name: vector.astype(jnp.float32) for name, vector in of_queries.items()}
    )
    key_side = _Side.of(keys.astype(dtype))
    if pairs.key_where is not None or len(key_side.rows) > len(keys):
        counts = True if pairs.key_where is None else pairs.key_where
        bias = jnp.where(counts, jnp.zeros(len(keys), jnp.float32), -jnp.inf)
        key_side = key_side.beside({"bias": bias}, past=-jnp.inf)
    if pairs.query_ids is not None and pairs.key_ids is not None:
        query_side = query_side.beside({"query_ids": pairs.query_ids.astype(jnp.int32)})
        key_side = key_side.beside({"key_ids": pairs.key_ids.astype(jnp.int32)})
    return query_side, key_side


@dataclasses.dataclass(frozen=True)
class _Sweep:
    """A kernel that goes, for each block of the outer side, over all blocks of the inner.

    Attributes:
      name: of the kernel, in profiles.
      outer: one side.
      inner: the other.
      scale: scalar that multiplies the products.
      limit: scalar; scaled products above it do not count. None: all do.
      interpret: run as plain array operations.
    """

    name: str
    outer: _Side
    inner: _Side
    scale: jax.Array
    limit: jax.Array | None
    interpret: bool

    def __call__(
        self,
        step: Callable[[jax.Array, _Refs, list[Any]], None],
        *,
        columns: tuple[float, ...] = (),
        matrix: bool = False,
        exponentials: int = 1,
    ) -> list[jax.Array]:
        """Runs it.

        Args:
          step: adds a tile's part to what is found. Takes the logits [outer block, inner block],
            the numbers of both sides, shaped to broadcast against them, with the rows under "outer"
            and "inner", and references to what is found so far: columns [outer block, 1], and a
            matrix [outer block, D] that starts as zeros.
          columns: what each column starts as.
          matrix: whether there is one.
          exponentials: and logarithms of each logit.

        Returns:
          Each column [outer count], then the matrix [outer count, D], in float32.
        """
        outer, inner = self.outer, self.inner

        def kernel(scalars: _Refs, own: _Refs, other: _Refs, *results_and_scratch: Any) -> None:
            *outputs, turned, sums = results_and_scratch
            found = [*sums, *outputs[len(sums) :]]

            @pl.when(pl.program_id(1) == 0)
            def _() -> None:
                for name, column in turned.items():
                    column[...] = _turn(own[name][...])
                for reference, first in zip(found, (*columns, 0.0), strict=False):
                    reference[...] = jnp.full(reference.shape, first, jnp.float32)

            sides = {"outer": own["rows"], "inner": other["rows"]}
            refs = {**scalars, **other, **turned, **sides}
            step(_logits(refs), refs, found)

            @pl.when(pl.program_id(1) == pl.num_programs(1) - 1)
            def _() -> None:
                for row, column in zip(outputs, sums, strict=False):
                    row[...] = _turn(column[...])

        scalars = {
            name: value.astype(jnp.float32).reshape(1, 1)
            for name, value in (("scale", self.scale), ("limit", self.limit))
            if value is not None
        }
        width = outer.rows.shape[1]
        own_vector = pl.BlockSpec((1, outer.block), lambda i, j: (0, i))
        own_rows = pl.BlockSpec((outer.block, width), lambda i, j: (i, 0))
        # These stay for a whole round of the inner side: to wait for them costs little, two
        # buffers of them would cost memory.
        own_rows_once = dataclasses.replace(own_rows, pipeline_mode=pl.Buffered(1))
        scalar = pl.BlockSpec((1, 1), lambda i, j: (0, 0), memory_space=pltpu.SMEM)
        vector = pl.BlockSpec((1, inner.block), lambda i, j: (0, j))
        rows = pl.BlockSpec((inner.block, width), lambda i, j: (j, 0))
        column = functools.partial(pltpu.VMEM, (outer.block, 1))
        result = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
        results = pl.pallas_call(
            kernel,
            grid=(outer.blocks, inner.blocks),
            in_specs=[
                dict.fromkeys(scalars, scalar),
                {"rows": own_rows_once, **dict.fromkeys(outer.vectors, own_vector)},
                {"rows": rows, **dict.fromkeys(inner.vectors, vector)},
            ],
            out_specs=[own_vector] * len(columns) + [own_rows] * matrix,
            out_shape=[result((1, len(outer.rows)))] * len(columns)
            + [result(outer.rows.shape)] * matrix,
            scratch_shapes=[
                {name: column(each.dtype) for name, each in outer.vectors.items()},
                [column(jnp.float32)] * len(columns),
            ],
            compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
            cost_estimate=self._cost(2 if matrix else 1, exponentials),
            interpret=self.interpret,
            name=self.name,
        )(
            scalars,
            {"rows": outer.rows, **outer.vectors},
            {"rows": inner.rows, **inner.vectors},
        )
        vectors, matrices = results[: len(columns)], results[len(columns) :]
        return [one[0, : outer.count] for one in vectors] + [one[: outer.count] for one in matrices]

    def _cost(self, products: int, exponentials: int) -> pl.CostEstimate:
        """The work; of memory, each inner row is read once an outer block."""
        outer, inner = self.outer, self.inner
        entries = len(outer.rows) * len(inner.rows)
        written = 4 * outer.rows.size if products == 2 else 0
        return pl.CostEstimate(
            flops=2 * products * entries * outer.rows.shape[1],
            transcendentals=exponentials * entries,
            bytes_accessed=outer.rows.nbytes + outer.blocks * inner.rows.nbytes + written,
        )


def _logits(refs: _Refs) -> jax.Array:
    """The entries of a tile, -inf where none counts."""
    logits = refs["scale"][0, 0] * _product(refs["outer"][...], refs["inner"], (1, 1))
    if "limit" in refs:
        logits = jnp.where(logits > refs["limit"][0, 0], -jnp.inf, logits)
    logits -= refs["shift"][...]
    if "bias" in refs:
        logits += refs["bias"][...]
    if "query_ids" in refs:
        logits = jnp.where(refs["query_ids"][...] == refs["key_ids"][...], -jnp.inf, logits)
    return logits


def _product(left: jax.Array, rows: Any, contracted: tuple[int, int]) -> jax.Array:
    """Matrix product over these axes, in the rows' type, float32 in full; accumulates in float32.

    At default precision float32 would be multiplied as bfloat16 (see `similarity_logits`).
    """
    precision = jax.lax.Precision.HIGHEST if rows.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        left.astype(rows.dtype),
        rows[...],
        (((contracted[0],), (contracted[1],)), ((), ())),
        precision=precision,
        preferred_element_type=jnp.float32,
    )


def _row_sum(tile: jax.Array) -> jax.Array:
    return jnp.sum(tile, axis=1, keepdims=True)


def _row_max(tile: jax.Array) -> jax.Array:
    return jnp.max(tile, axis=1, keepdims=True)


def _turn(vector: jax.Array) -> jax.Array:
    """[1, n] as [n, 1], or the other way: by way of a square, which is what the chip transposes."""
    if vector.shape[0] == 1:
        return jnp.broadcast_to(vector, (_LANES, vector.shape[1])).T[:, :1]
    return jnp.broadcast_to(vector, (vector.shape[0], _LANES)).T[:1]
