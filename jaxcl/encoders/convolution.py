"""Convolution as `flax.linen.Conv` calls it, and what XLA's compiler for CPU has to be told."""

from typing import Any

import jax
import jax.numpy as jnp


def convolve(images: jax.Array, kernel: jax.Array, *arguments: Any, **options: Any) -> jax.Array:
    """`jax.lax.conv_general_dilated`, with its input and the input's gradient kept.

    The gradient of a kernel reads the input in another order. Left alone, the CPU's compiler
    computes it anew for that, all the way from the convolutions before, value by value: a third of
    a step.

    Args:
      images: [N, H, W, C], or as the options say.
      kernel: [h, w, C, F], or as the options say.
      *arguments: as `jax.lax.conv_general_dilated`.
      **options: likewise.

    Returns:
      [N, H', W', F].
    """
    return jax.lax.conv_general_dilated(once(images), kernel, *arguments, **options)


def once(x: jax.Array) -> jax.Array:
    """`x`; on CPU it and its gradient are computed once and kept for all who read them.

    Other platforms' compilers know what to keep. On CPU optimization barriers are gone before
    operations are fused, but a division is never repeated; so there it is divided by a 1 that no
    compiler sees through.
    """
    if not x.size:
        return x
    return jax.lax.platform_dependent(x, cpu=_by_one, default=_itself)


def _by_one(x: jax.Array) -> jax.Array:
    first = x[(0,) * x.ndim]
    return x / jax.lax.stop_gradient(jnp.exp(jnp.minimum(jnp.abs(first), 0)))


def _itself(x: jax.Array) -> jax.Array:
    return x
