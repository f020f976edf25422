"""Convolution as `flax.linen.Conv` calls it, and what XLA's compiler for CPU has to be told."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcl.encoders.once import is_followed, once
from jaxcl.encoders.winograd import convolve_3x3

_NUMBERS = ("NHWC", "HWIO", "NHWC")


def convolve(
    images: jax.Array,
    kernel: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, with what makes it faster on CPU.

    - On CPU the input and its gradient are computed once. The gradient of a kernel reads the input
      in another order; left alone, the compiler computes it anew for that, all the way from the
      convolutions before, value by value: a third of a step.
    - On CPU a 3x3 kernel with stride 1 takes fewer multiplications (`winograd`), in float32.
    - Everywhere a 1x1 kernel with strides sees only the places that it takes.
    - On CPU the input's gradient of a 3x3 kernel with stride 2 goes by the four images that one
      makes of every other row and column, instead of by one that is three quarters zeros.

    Args:
      images: [N, H, W, C].
      kernel: [h, w, C, F].
      window_strides: as `jax.lax.conv_general_dilated`.
      padding: likewise.
      **options: likewise.

    Returns:
      [N, H', W', F].
    """
    images, strides = once(images), tuple(window_strides)
    dilations = (options.get("lhs_dilation"), options.get("rhs_dilation"))
    if any(each is not None and {*each} != {1} for each in dilations):
        return jax.lax.conv_general_dilated(images, kernel, strides, padding, **options)
    if isinstance(padding, str):
        sides, window = images.shape[1:3], kernel.shape[:2]
        padding = jax.lax.padtype_to_pads(sides, window, strides, padding)
    pads = [(before, after) for before, after in padding]
    if kernel.shape[:2] == (1, 1) and strides != (1, 1) and pads == [(0, 0), (0, 0)]:
        images, strides = images[:, :: strides[0], :: strides[1]], (1, 1)
    plain = all(
        options.get(name) in (None, usual)
        for name, usual in (
            ("feature_group_count", 1),
            ("batch_group_count", 1),
            ("precision", None),
            ("preferred_element_type", images.dtype),
        )
    )
    sides_are_even = images.shape[1] % 2 == images.shape[2] % 2 == 0
    if (
        (kernel.shape[:2], strides, pads) == ((3, 3), (2, 2), [(1, 1), (1, 1)])
        and sides_are_even
        and plain
    ):
        return _halving(images, kernel)
    if (
        (kernel.shape[:2], strides, pads) == ((3, 3), (1, 1), [(1, 1), (1, 1)])
        and plain
        and images.dtype == kernel.dtype == jnp.float32
        and jax.config.jax_default_matmul_precision is None  # type: ignore[attr-defined]
        and not (is_followed(images) or is_followed(kernel))
    ):
        return once(convolve_3x3(images, kernel))
    return jax.lax.conv_general_dilated(images, kernel, strides, pads, **options)


def _halve(images: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        images, kernel, (2, 2), [(1, 1), (1, 1)], dimension_numbers=_NUMBERS
    )


_halving = jax.custom_jvp(_halve)


@_halving.defjvp
def _halving_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    images, kernel = primals
    of_images = jax.lax.platform_dependent(
        tangents[0], kernel, cpu=_halve_by_phases, default=_halve
    )
    return _halving(images, kernel), of_images + _halve(images, tangents[1])


def _halve_by_phases(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """`_halve`, with every other row and column as channels: a 2x2 kernel with stride 1."""
    count, height, width, channels = images.shape
    phases = images.reshape(count, height // 2, 2, width // 2, 2, channels)
    phases = phases.transpose(0, 1, 3, 2, 4, 5)
    phases = phases.reshape(count, height // 2, width // 2, 4 * channels)
    # A row of zeros before the first: tap k is then of phase k % 2, of the row before or this one.
    taps = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
    taps = taps.reshape(2, 2, 2, 2, channels, -1).transpose(0, 2, 1, 3, 4, 5)
    return jax.lax.conv_general_dilated(
        phases,
        taps.reshape(2, 2, 4 * channels, -1),
        (1, 1),
        [(1, 0), (1, 0)],
        dimension_numbers=_NUMBERS,
    )
