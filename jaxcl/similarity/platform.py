"""Which code reduces rows: kernels in a program that is lowered for TPU, blocks of rows elsewhere.

The choice is made while lowering, not while tracing, so that it also holds for a program that is
compiled ahead of time, on a machine without the chip.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from jaxcl.similarity.rows import Pairs, Reduction
from jaxcl.similarity.tiled import Gradients, row_gradients, row_values

Found = TypeVar("Found")


@functools.cache
def may_lower_for_tpu() -> bool:
    """Whether there is a TPU, or its compiler; without, nobody pays for tracing kernels."""
    return importlib.util.find_spec("libtpu") is not None or jax.default_backend() == "tpu"


def by_platform(
    kernels: Callable[..., Found],
    blocks: Callable[..., Found],
    queries: jax.Array,
    keys: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
    pairs: Pairs,
    *rest: jax.Array,
) -> Found:
    """Calls `kernels` on TPU, where they take these arrays, else `blocks`.

    Args:
      kernels: takes all the arguments that follow.
      blocks: takes the same, and returns the same.
      queries: [N, D].
      keys: [M, D].
      scale: scalar.
      shift: [N].
      pairs: which pairs count.
      *rest: more arrays.

    Returns:
      What they return.
    """
    arguments = (queries, keys, scale, shift, pairs, *rest)
    if not kernels_take(queries, keys, pairs):
        return blocks(*arguments)
    return jax.lax.platform_dependent(*arguments, tpu=kernels, default=blocks)


def kernels_take(queries: jax.Array, keys: jax.Array, pairs: Pairs) -> bool:
    """Whether the kernels may be called for, and take these arrays."""
    if not may_lower_for_tpu():
        return False
    from jaxcl.similarity.tpu_kernel import supports  # imports Pallas: not before it is needed

    return supports(queries, keys, pairs)


def best_values(
    reduction: Reduction,
    rows: int,
    queries: jax.Array,
    keys: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
    pairs: Pairs,
) -> tuple[jax.Array, jax.Array]:
    """`row_values`, by the platform's best means."""

    def kernels(*arguments: Any) -> tuple[jax.Array, jax.Array]:
        from jaxcl.similarity.tpu_kernel import kernel_values

        return kernel_values(reduction, *arguments)

    blocks = functools.partial(row_values, reduction, rows)
    return by_platform(kernels, blocks, queries, keys, scale, shift, pairs)


def best_gradients(
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
    """`row_gradients`, by the platform's best means."""

    def kernels(*arguments: Any) -> Gradients:
        from jaxcl.similarity.tpu_kernel import kernel_gradients

        return kernel_gradients(reduction, *arguments, for_keys=for_keys)

    blocks = functools.partial(row_gradients, reduction, rows, for_keys=for_keys)
    return by_platform(kernels, blocks, queries, keys, scale, shift, pairs, normalizer, cotangent)
