"""Gaussian blur of one image."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcl.augment.pixels import check_image


def gaussian_blur(image: jax.Array, kernel_size: int, sigma: ArrayLike) -> jax.Array:
    """Gaussian blur with reflected borders, as torchvision's `gaussian_blur`.

    Separable: two matrix products with banded matrices. With a sigma for each example of a batch a
    convolution would fall apart into one group an example; a sum of shifted images makes XLA
    compute what the image comes from again for every shift, twice the time of a pipeline on CPU.

    Args:
      image: [H, W, C] float, any channels.
      kernel_size: taps of the kernel along each side; odd, static.
      sigma: standard deviation in pixels; scalar, > 0, may be traced.

    Returns:
      [H, W, C].

    Raises:
      ValueError: if `kernel_size` is even or not positive, or reaches past the image's far side.

    Example:
      >>> import jax.numpy as jnp
      >>> gaussian_blur(jnp.ones((8, 6, 3)), 5, 1.2).shape
      (8, 6, 3)
    """
    check_image(image, "gaussian_blur")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(
            f"gaussian_blur: kernel_size is {kernel_size}, expected an odd number >= 1"
        )
    reach = kernel_size // 2
    height, width, _ = image.shape
    if reach >= min(height, width):
        raise ValueError(
            f"gaussian_blur: kernel_size {kernel_size} reaches past an image of {height}x{width}: "
            f"use at most {2 * min(height, width) - 1}"
        )
    # HIGHEST: the default of TPUs and GPUs rounds to 8 or 10 bits, less than an 8-bit image needs.
    exact = jax.lax.Precision.HIGHEST
    rows, columns = _blur_weights(height, reach, sigma), _blur_weights(width, reach, sigma)
    image = jnp.einsum("oh,hwc->owc", rows, image, precision=exact)
    return jnp.einsum("pw,owc->opc", columns, image, precision=exact)


def _blur_weights(size: int, reach: int, sigma: ArrayLike) -> jax.Array:
    """[size, size]: what each pixel of a row gives to each result, itself and by reflection."""
    result, source = jnp.arange(size)[:, None], jnp.arange(size)

    def weight(distance: jax.Array) -> jax.Array:
        return jnp.where(jnp.abs(distance) <= reach, jnp.exp(-0.5 * (distance / sigma) ** 2), 0.0)

    last = size - 1  # the border pixels, 0 and `last`, are the mirrors: they have no reflection
    weights = (
        weight(source - result)
        + jnp.where(source > 0, weight(-source - result), 0.0)
        + jnp.where(source < last, weight(2 * last - source - result), 0.0)
    )
    return weights / jnp.sum(weights, axis=1, keepdims=True)
