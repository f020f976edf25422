"""Colour of one image, with torchvision's names and its semantics for float images.

Images are `[H, W, C]` float in [0, 1]; so are results. Grey images (one channel) behave as in
torchvision: saturation and hue leave them alone. Factors may be traced. Other channel counts than
1 and 3 raise a ValueError.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcl.augment.pixels import check_image

_GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # torchvision's rounding of ITU-R 601-2
_GREY_OR_RGB = (1, 3)


def adjust_brightness(image: jax.Array, factor: ArrayLike) -> jax.Array:
    """Multiplies by `factor` and clips to [0, 1].

    Args:
      image: [H, W, C] float in [0, 1], C 1 or 3.
      factor: 0 gives black, 1 the image; scalar, >= 0.

    Returns:
      [H, W, C].

    Example:
      >>> import jax.numpy as jnp
      >>> adjust_brightness(jnp.full((1, 1, 1), 0.25), 2.0).item()
      0.5
    """
    check_image(image, "adjust_brightness", _GREY_OR_RGB)
    return jnp.clip(image * factor, 0.0, 1.0)


def adjust_contrast(image: jax.Array, factor: ArrayLike) -> jax.Array:
    """Blends with the grey version's mean: `factor * image + (1 - factor) * mean`, clipped.

    Args:
      image: [H, W, C] float in [0, 1], C 1 or 3.
      factor: 0 gives flat grey, 1 the image; scalar, >= 0.

    Returns:
      [H, W, C].
    """
    check_image(image, "adjust_contrast", _GREY_OR_RGB)
    return blend(image, jnp.mean(rgb_to_grayscale(image)), factor)


def adjust_saturation(image: jax.Array, factor: ArrayLike) -> jax.Array:
    """Blends with the image's grey version: `factor * image + (1 - factor) * grey`, clipped.

    Args:
      image: [H, W, C] float in [0, 1], C 1 or 3; one channel is returned as it is.
      factor: 0 gives the grey image, 1 the image; scalar, >= 0.

    Returns:
      [H, W, C].
    """
    check_image(image, "adjust_saturation", _GREY_OR_RGB)
    return image if image.shape[-1] == 1 else blend(image, rgb_to_grayscale(image), factor)


def adjust_hue(image: jax.Array, factor: ArrayLike) -> jax.Array:
    """Turns the hue of the HSV colour, keeping saturation and value.

    Args:
      image: [H, W, C] float in [0, 1], C 1 or 3; one channel is returned as it is.
      factor: share of a full turn, in [-0.5, 0.5]; scalar.

    Returns:
      [H, W, C].

    Example: (red becomes green after a third of a turn)
      >>> import jax.numpy as jnp
      >>> red = jnp.array([[[1.0, 0.0, 0.0]]])
      >>> adjust_hue(red, 1 / 3).round(3)[0, 0].tolist()
      [0.0, 1.0, 0.0]
    """
    check_image(image, "adjust_hue", _GREY_OR_RGB)
    if image.shape[-1] == 1:
        return image
    return jnp.moveaxis(turn_hue(jnp.moveaxis(image, -1, 0), factor), 0, -1)


def turn_hue(planes: jax.Array, factor: ArrayLike) -> jax.Array:
    """`adjust_hue` on [3, H, W]: no branches, one division a pixel."""
    red, green, blue = planes
    smallest = jnp.minimum(jnp.minimum(red, green), blue)
    chroma = jnp.maximum(jnp.maximum(red, green), blue) - smallest
    # Not `largest == red`: XLA may compute `red` twice and round it in two ways, and a pixel that
    # equals no maximum would come out in another colour.
    is_red, is_green = (red >= green) & (red >= blue), green >= blue
    difference = jnp.where(is_red, green - blue, jnp.where(is_green, blue - red, red - green))
    sector = jnp.where(is_red, 0.0, jnp.where(is_green, 2.0, 4.0))
    # Grey pixels have no hue and chroma 0: any hue gives the same colour back.
    hue = sector + difference / jnp.where(chroma > 0, chroma, 1.0) + 6.0 * jnp.asarray(factor)
    hue = hue - 6.0 * jnp.floor(hue / 6.0)  # in sixths of a turn, [0, 6)
    # A channel's share of the chroma is a trapezoid over the hue: red's is low around its opposite,
    # 3, green's and blue's high around themselves, 2 and 4. Constants for each channel, instead of
    # three formulas, keep the result one loop without a concatenation.
    center, sign, offset = (
        jnp.array(constants)[:, None, None]
        for constants in ((3.0, 2.0, 4.0), (1.0, -1.0, -1.0), (-1.0, 2.0, 2.0))
    )
    return smallest + chroma * jnp.clip(offset + sign * jnp.abs(hue - center), 0.0, 1.0)


def rgb_to_grayscale(image: jax.Array, num_output_channels: int = 1) -> jax.Array:
    """Luma 0.2989 R + 0.587 G + 0.114 B.

    Args:
      image: [H, W, C] float, C 1 or 3; one channel counts as grey already.
      num_output_channels: 1, or 3 for three equal channels.

    Returns:
      [H, W, num_output_channels].

    Raises:
      ValueError: for another number of channels, in or out.

    Example:
      >>> import jax.numpy as jnp
      >>> rgb_to_grayscale(jnp.ones((2, 3, 3)), num_output_channels=3).shape
      (2, 3, 3)
    """
    check_image(image, "rgb_to_grayscale", _GREY_OR_RGB)
    if num_output_channels not in _GREY_OR_RGB:
        raise ValueError(
            f"rgb_to_grayscale: num_output_channels is {num_output_channels}, expected 1 or 3"
        )
    grey = image if image.shape[-1] == 1 else luma(jnp.moveaxis(image, -1, 0))[..., None]
    return jnp.broadcast_to(grey, (*image.shape[:2], num_output_channels))


def luma(planes: jax.Array) -> jax.Array:
    """The grey version of [3, H, W]: [H, W]."""
    return sum(weight * plane for weight, plane in zip(_GREY_WEIGHTS, planes, strict=True))


def solarize(image: jax.Array, threshold: ArrayLike) -> jax.Array:
    """Inverts the values at or above `threshold`.

    Args:
      image: [H, W, C] float in [0, 1], any channels.
      threshold: scalar in [0, 1].

    Returns:
      [H, W, C].

    Example:
      >>> import jax.numpy as jnp
      >>> solarize(jnp.array([[[0.25], [0.75]]]), 0.5).ravel().tolist()
      [0.25, 0.25]
    """
    check_image(image, "solarize")
    return jnp.where(image >= threshold, 1.0 - image, image)


def blend(image: jax.Array, other: ArrayLike, factor: ArrayLike) -> jax.Array:
    """`factor * image + (1 - factor) * other`, clipped to [0, 1]."""
    return jnp.clip(factor * image + (1.0 - jnp.asarray(factor)) * other, 0.0, 1.0)
