"""The one entrance to reductions over similarities: picks how they are computed."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jaxcl.similarity.checks import (
    Scalar,
    check_choice,
    check_embeddings,
    check_integers,
    check_mask,
    check_scalar,
)
from jaxcl.similarity.gather import AxisName, axis_size, gather_rows
from jaxcl.similarity.measures import at_least_float32
from jaxcl.similarity.mutual import mutual_rows, tile_rows
from jaxcl.similarity.one_pass import one_pass_rows
from jaxcl.similarity.rows import Pairs, Reduction, reduce_rows, similarity_logits
from jaxcl.similarity.tiled import block_rows
from jaxcl.similarity.two_pass import two_pass_rows

Backend = Literal["auto", "dense", "tiled", "ring"]

_DENSE_ENTRIES = 1 << 20  # 4 MB of float32: nothing is gained by cutting less
_RING_BYTES = 256 << 20  # gathered keys above this are not gathered


@dataclasses.dataclass(frozen=True)
class Execution:
    """How similarities are computed; the result depends on none of it beyond rounding.

    Attributes:
      axis_name: mapped axis; the keys of all its devices count.
      block_size: rows of the matrix held at a time, and as many columns where a tile serves both
        of its ends; None: by size.
      backend: "dense" holds the matrix; "tiled" a block of its rows; "ring" as well, and never the
        keys of all devices; "auto" picks by size.
    """

    axis_name: AxisName | None = None
    block_size: int | None = None
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        check_choice("backend", self.backend, ("auto", "dense", "tiled", "ring"))
        size = self.block_size
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
            raise ValueError(f"block_size is {size!r}, expected None or at least 1")
        if self.backend == "dense" and size is not None:
            raise ValueError(f"block_size is {size}, but backend 'dense' holds the whole matrix")
        if self.backend == "ring" and self.axis_name is None:
            raise ValueError("backend is 'ring', but axis_name is None: a ring goes round devices")
        axis_size(self.axis_name)  # a name that is not mapped is an error whatever follows

    def on_this_device(self) -> "Execution":
        """The same for keys that every device has whole."""
        return Execution(None, self.block_size, "tiled" if self.backend == "ring" else self.backend)

    def choose(self, queries: jax.Array, keys: jax.Array) -> Backend:
        """The backend for these shapes; not "auto"."""
        if self.backend != "auto":
            return self.backend
        devices = axis_size(self.axis_name)
        if devices > 1 and devices * keys.nbytes > _RING_BYTES:
            return "ring"
        if self.block_size is None and len(queries) * len(keys) * devices <= _DENSE_ENTRIES:
            return "dense"
        return "tiled"


_ALL_PAIRS = Pairs()
_BY_SIZE = Execution()


def similarity_rows(
    reduction: Reduction,
    queries: jax.Array,
    keys: jax.Array,
    *,
    temperature: Scalar = 1.0,
    shift: jax.Array | None = None,
    pairs: Pairs = _ALL_PAIRS,
    ignore_above: Scalar | None = None,
    execution: Execution = _BY_SIZE,
    uniform: bool = True,
) -> jax.Array:
    """Reduces each row of `queries @ keys.T / temperature - shift` to one number.

    Args:
      reduction: "logsumexp" of the entries that count (-inf, with gradient zero, where none does);
        "log1p_sumexp", log(1 + sum of exp), the cross entropy against a positive whose logit is
        `shift` (0 where none counts); "sum_softplus", the sum of log(1 + exp).
      queries: [N, D], prepared (`jaxcl.similarity.prepare`): float32, or bfloat16, which kernels
        on TPU multiply as it is; elsewhere it is widened.
      keys: [M, D], prepared; or [N, M, D], a set for each query, which is held whole.
      temperature: divides similarities; float or scalar array.
      shift: [N], or None: 0.
      pairs: which pairs count. Row numbers are ids too: given them, no query meets its own key.
      ignore_above: a key more similar than this is taken for a false negative, and does not count;
        as a similarity, not divided by the temperature. None: all count.
      uniform: whether the loss is, most likely, a plain mean or sum over the rows that count. Then
        the forward pass forms the gradients (6 N M D flops in all; 10 if it is not); else the
        backward pass does (8), and less is kept in between.
      execution: how. With an axis name, `keys` and the keys' side of `pairs` are this device's.

    Returns:
      [N], float32.

    Raises:
      ValueError: if shapes disagree, the temperature is not above 0, the reduction is unknown, or
        keys are [N, M, D] and a backend other than "dense" is asked for.
      TypeError: if arrays are not floating point.

    Example:
      >>> import jax.numpy as jnp
      >>> rows = jnp.eye(2)
      >>> numbers = jnp.arange(2)
      >>> pairs = Pairs(numbers, numbers)  # none with itself
      >>> print(similarity_rows("logsumexp", rows, rows, pairs=pairs))
      [0. 0.]
    """
    sizes: dict[str, int] = {}
    queries = check_embeddings("queries", queries, "N D", sizes)
    keys = check_embeddings("keys", keys, "N M D" if jnp.ndim(keys) == 3 else "M D", sizes)
    check_scalar("temperature", temperature, above=0)
    _check_options(reduction, shift, ignore_above, sizes)
    _check_pairs(pairs, sizes, keys="M")
    if ignore_above is not None:
        limit = jnp.asarray(ignore_above, jnp.float32) / temperature
        pairs = pairs._replace(limit=jax.lax.stop_gradient(limit))
    if keys.ndim == 3:
        if execution.backend not in ("auto", "dense"):
            raise ValueError(
                f"backend is {execution.backend!r}, but negatives [N, M, D] are held whole: leave "
                "it at 'auto'"
            )
        return _dense_rows(reduction, queries, keys, temperature, shift, pairs)
    axis_name = execution.axis_name
    backend = execution.choose(queries, keys)
    if backend == "ring":
        uniform = False
    else:
        keys = gather_rows(keys, axis_name)
        pairs = pairs._replace(
            key_ids=None if pairs.key_ids is None else gather_rows(pairs.key_ids, axis_name),
            key_where=None if pairs.key_where is None else gather_rows(pairs.key_where, axis_name),
        )
        axis_name = None
    if backend == "dense":
        return _dense_rows(reduction, queries, keys, temperature, shift, pairs)
    rows = execution.block_size or block_rows(len(keys))
    wide = jnp.promote_types(queries.dtype, jnp.float32)
    scale = jnp.asarray(1 / temperature, wide)
    shift = jnp.zeros(len(queries), wide) if shift is None else shift
    if uniform:
        return one_pass_rows(reduction, rows, queries, keys, scale, shift, pairs)
    return two_pass_rows(reduction, rows, axis_name, queries, keys, scale, shift, pairs)


def mutual_similarity_rows(
    reduction: Reduction,
    rows: jax.Array,
    *,
    halves: bool = False,
    temperatures: Sequence[Scalar] = (1.0,),
    shift: jax.Array | None = None,
    pairs: Pairs = _ALL_PAIRS,
    ignore_above: Scalar | None = None,
    execution: Execution = _BY_SIZE,
    uniform: bool = True,
) -> tuple[jax.Array, ...]:
    """`similarity_rows` where queries are keys too, for less: (i, j) is an entry of both rows.

    On one device each entry is computed once and serves both, in 4 R^2 D flops with all gradients
    (6 with `similarity_rows`), or 8 N^2 D between halves of N rows (12), whatever the cotangents.

    Args:
      reduction: as in `similarity_rows`.
      rows: [R, D] float32, prepared.
      halves: whether rows of the first half meet those of the second only, and the other way round,
        as images and texts do; else all meet all.
      temperatures: each divides similarities for a reduction of its own.
      shift: [R], or None: 0.
      pairs: which pairs count; the ids of queries and of keys are the same ones [R].
      ignore_above: as in `similarity_rows`.
      execution: how. With an axis name, rows meet those of all devices.
      uniform: as in `similarity_rows`, for several devices.

    Returns:
      [R] for each temperature, float32.

    Raises:
      ValueError: as in `similarity_rows`, or if an odd number of rows is to be halved.
      TypeError: as there.

    Example:
      >>> import jax.numpy as jnp
      >>> print(*mutual_similarity_rows("logsumexp", jnp.eye(2), halves=True))  # not with itself
      [0. 0.]
    """
    sizes: dict[str, int] = {}
    rows = check_embeddings("rows", rows, "N D", sizes)
    for number, temperature in enumerate(temperatures):
        check_scalar(f"temperatures[{number}]", temperature, above=0)
    _check_options(reduction, shift, ignore_above, sizes)
    _check_pairs(pairs, sizes, keys="N")
    half = len(rows) // 2
    if halves and 2 * half != len(rows):
        raise ValueError(f"rows has shape {rows.shape}, expected an even number of rows to halve")
    on_one_device = axis_size(execution.axis_name) == 1
    is_softmax = reduction != "sum_softplus"
    if is_softmax and on_one_device and execution.choose(rows, rows) == "tiled":
        found = mutual_rows(
            reduction,
            halves,
            execution.block_size or tile_rows(),
            rows,
            tuple(jnp.asarray(1 / temperature, rows.dtype) for temperature in temperatures),
            jnp.zeros(len(rows), rows.dtype) if shift is None else shift,
            pairs.query_ids,
            pairs.key_where,
            None if ignore_above is None else jnp.asarray(ignore_above, rows.dtype),
        )
        if pairs.query_where is None:
            return found
        empty = -jnp.inf if reduction == "logsumexp" else 0
        return tuple(jnp.where(pairs.query_where, values, empty) for values in found)

    def between(temperature: Scalar, queries: slice, keys: slice) -> jax.Array:
        return similarity_rows(
            reduction,
            rows[queries],
            rows[keys],
            temperature=temperature,
            shift=None if shift is None else shift[queries],
            pairs=pairs.between(queries, keys),
            ignore_above=ignore_above,
            execution=execution,
            uniform=uniform,
        )

    everything, first, second = slice(None), slice(None, half), slice(half, None)
    if not halves:
        return tuple(between(each, everything, everything) for each in temperatures)
    return tuple(
        jnp.concatenate([between(each, first, second), between(each, second, first)])
        for each in temperatures
    )


def _check_options(
    reduction: Reduction,
    shift: jax.Array | None,
    ignore_above: Scalar | None,
    sizes: dict[str, int],
) -> None:
    check_choice("reduction", reduction, get_args(Reduction))
    if shift is not None:
        check_embeddings("shift", shift, "N", sizes)
    if ignore_above is not None:
        check_scalar("ignore_above", ignore_above)


def _check_pairs(pairs: Pairs, sizes: dict[str, int], keys: str) -> None:
    """`keys`: the name of the keys' axis."""
    if pairs.query_ids is not None:
        check_integers("pairs.query_ids", pairs.query_ids, "N", sizes)
    if pairs.key_ids is not None:
        axes = "N M" if keys == "M" and jnp.ndim(pairs.key_ids) == 2 else keys
        check_integers("pairs.key_ids", pairs.key_ids, axes, sizes)
    for name, where, axes in (
        ("query_where", pairs.query_where, "N"),
        ("key_where", pairs.key_where, keys),
    ):
        if where is not None:
            check_mask(f"pairs.{name}", where, axes, sizes)


def _dense_rows(
    reduction: Reduction,
    queries: jax.Array,
    keys: jax.Array,
    temperature: Scalar,
    shift: jax.Array | None,
    pairs: Pairs,
) -> jax.Array:
    queries, keys = at_least_float32(queries) / temperature, at_least_float32(keys)
    return reduce_rows(reduction, similarity_logits(queries, keys, shift, pairs))[0]
