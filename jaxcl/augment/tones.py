"""Tones of one image: inverted, fewer, stretched, equalized; and its sharpness.

Named as torchvision's functional ones, on `[H, W, C]` float in [0, 1]. What torchvision defines for
8-bit images alone (`posterize`, `equalize`) rounds to the 256 levels first.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcl.augment.color import blend
from jaxcl.augment.pixels import check_image

_LEVELS = 256
_SMOOTH_CENTRE, _SMOOTH_SUM = 5.0, 13.0  # 3x3 ones with 5 in the middle: Pillow's SMOOTH


def invert(image: jax.Array) -> jax.Array:
    """`1 - image`.

    Args:
      image: [H, W, C] float in [0, 1], any channels.

    Returns:
      [H, W, C].
    """
    check_image(image, "invert")
    return 1.0 - image


def posterize(image: jax.Array, bits: ArrayLike) -> jax.Array:
    """Keeps the upper `bits` of each value's eight.

    Args:
      image: [H, W, C] float in [0, 1], any channels.
      bits: whole number, 0 (black) to 8 (the image, rounded to 8 bits); may be traced.

    Returns:
      [H, W, C], whole multiples of 1/255.

    Example:
      >>> import jax.numpy as jnp
      >>> (255 * posterize(jnp.full((1, 1, 1), 200 / 255), 2)).round().item()
      192.0
    """
    check_image(image, "posterize")
    dropped = jnp.left_shift(1, 8 - jnp.asarray(bits, jnp.int32)) - 1
    return (_levels(image) & ~dropped).astype(image.dtype) / (_LEVELS - 1)


def autocontrast(image: jax.Array) -> jax.Array:
    """Stretches each channel so that its smallest value becomes 0, its largest 1.

    Args:
      image: [H, W, C] float in [0, 1], any channels; a channel of one value stays as it is.

    Returns:
      [H, W, C].

    Example:
      >>> import jax.numpy as jnp
      >>> autocontrast(jnp.array([[[0.25], [0.5], [0.75]]])).ravel().tolist()
      [0.0, 0.5, 1.0]
    """
    check_image(image, "autocontrast")
    smallest = jnp.min(image, axis=(0, 1))
    contrast = jnp.max(image, axis=(0, 1)) - smallest
    is_flat = contrast == 0
    stretched = (image - smallest) / jnp.where(is_flat, 1.0, contrast)
    return jnp.where(is_flat, image, jnp.clip(stretched, 0.0, 1.0))


def equalize(image: jax.Array) -> jax.Array:
    """Maps each channel's values so that their distribution is nearly uniform.

    By 256 levels, as Pillow and torchvision: a value becomes the number of pixels below it, over
    the number of pixels (without those of the largest value) a level.

    Args:
      image: [H, W, C] float in [0, 1], any channels; a channel with fewer than 255 pixels below its
        largest value stays as it is.

    Returns:
      [H, W, C], whole multiples of 1/255 where it changed.
    """
    check_image(image, "equalize")

    def channel(plane: jax.Array, levels: jax.Array) -> jax.Array:
        histogram = jnp.bincount(levels.ravel(), length=_LEVELS)
        step = (levels.size - histogram[jnp.max(levels)]) // (_LEVELS - 1)
        below = jnp.cumsum(histogram) - histogram
        table = (below + step // 2) // jnp.maximum(step, 1)
        equalized = jnp.minimum(table, _LEVELS - 1)[levels].astype(plane.dtype) / (_LEVELS - 1)
        return jnp.where(step == 0, plane, equalized)

    return jax.vmap(channel, in_axes=-1, out_axes=-1)(image, _levels(image))


def adjust_sharpness(image: jax.Array, factor: ArrayLike) -> jax.Array:
    """Blends with the image smoothed: `factor * image + (1 - factor) * smooth`, clipped.

    Args:
      image: [H, W, C] float in [0, 1], any channels.
      factor: 0 gives the smooth image, 1 the image, 2 a sharper one; scalar, >= 0, may be traced.

    Returns:
      [H, W, C].
    """
    return blend(image, smooth(image), factor)


def smooth(image: jax.Array) -> jax.Array:
    """The 3x3 mean in which the middle weighs five times; the border stays. What `adjust_sharpness`
    blends with.

    Args:
      image: [H, W, C] float, any channels; one with a side below 3 stays as it is.

    Returns:
      [H, W, C].
    """
    check_image(image, "smooth")
    height, width, _ = image.shape
    if min(height, width) < 3:
        return image
    rows = image[:-2] + image[1:-1] + image[2:]
    around = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    middle = image[1:-1, 1:-1]
    smoothed = (around + (_SMOOTH_CENTRE - 1.0) * middle) / _SMOOTH_SUM
    return image.at[1:-1, 1:-1].set(smoothed)


def _levels(image: jax.Array) -> jax.Array:
    """The nearest of the 256 levels, as whole numbers."""
    return jnp.round(jnp.clip(image, 0.0, 1.0) * (_LEVELS - 1)).astype(jnp.int32)
