"""Where the pixels of one image go: flip, resized crop, affine map."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcl.augment.pixels import check_image

Method = Literal["bilinear", "bicubic"]


def horizontal_flip(image: jax.Array) -> jax.Array:
    """Mirrors left and right.

    Args:
      image: [H, W, C], any channels.

    Returns:
      [H, W, C].

    Example:
      >>> import jax.numpy as jnp
      >>> horizontal_flip(jnp.array([[[1.0], [2.0]]])).ravel().tolist()
      [2.0, 1.0]
    """
    check_image(image, "horizontal_flip")
    return image[:, ::-1]


def resized_crop(
    image: jax.Array,
    top: ArrayLike,
    left: ArrayLike,
    height: ArrayLike,
    width: ArrayLike,
    size: int | tuple[int, int],
    *,
    method: Method = "bilinear",
) -> jax.Array:
    """Cuts a box out and resizes it, as torchvision's `resized_crop(..., antialias=True)`.

    Two matrix products, with weights for rows and for columns built from the box, so that the box
    may differ from example to example under `vmap`. As in torchvision, bicubic results may leave
    [0, 1] slightly.

    Args:
      image: [H, W, C] float, any channels.
      top: first row of the box; whole number, may be traced, like the next three.
      left: first column.
      height: rows of the box, >= 1, within the image.
      width: columns of the box, >= 1, within the image.
      size: sides of the result, (height, width), or one int for both; static.
      method: "bilinear" or "bicubic" (a = -0.5, as torchvision's antialiased and Pillow's).

    Returns:
      [size[0], size[1], C].

    Raises:
      ValueError: for another method or a size that is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> resized_crop(jnp.ones((40, 48, 3)), 5, 7, 20, 31, 32).shape
      (32, 32, 3)
    """
    check_image(image, "resized_crop")
    out_height, out_width = sides(size, "resized_crop")
    if method not in ("bilinear", "bicubic"):
        raise ValueError(f"resized_crop: method is {method!r}, expected 'bilinear' or 'bicubic'")
    in_height, in_width, _ = image.shape
    rows = _resize_weights(top, height, in_height, out_height, method)
    columns = _resize_weights(left, width, in_width, out_width, method)
    # HIGHEST: the default of TPUs and GPUs rounds to 8 or 10 bits, less than an 8-bit image needs.
    exact = jax.lax.Precision.HIGHEST
    image = jnp.einsum("oh,hwc->owc", rows, image, precision=exact)
    return jnp.einsum("pw,owc->opc", columns, image, precision=exact)


def sides(size: int | tuple[int, int], owner: str) -> tuple[int, int]:
    """`(height, width)` of a size given as one int or two, or a ValueError that names `owner`."""
    pair = (size, size) if isinstance(size, int) else size
    if not isinstance(pair, tuple) or len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"{owner}: size is {size}, expected an int >= 1 or (height, width)")
    return pair


def affine(
    image: jax.Array,
    angle: ArrayLike,
    translate: tuple[ArrayLike, ArrayLike],
    scale: ArrayLike,
    *,
    fill: float = 0.0,
) -> jax.Array:
    """Rotates, scales about the centre, then shifts; bilinear.

    Args:
      image: [H, W, C] float, any channels.
      angle: degrees, clockwise; scalar, may be traced, like the next two.
      translate: (right, down) in pixels.
      scale: > 1 enlarges.
      fill: value outside the image.

    Returns:
      [H, W, C].

    Example:
      >>> import jax.numpy as jnp
      >>> image = jnp.array([[[1.0], [2.0], [3.0]]])
      >>> affine(image, 0.0, (1.0, 0.0), 1.0).ravel().tolist()
      [0.0, 1.0, 2.0]
    """
    check_image(image, "affine")
    height, width, _ = image.shape
    angle = jnp.deg2rad(jnp.asarray(angle, image.dtype))
    cos, sin = jnp.cos(angle) / scale, jnp.sin(angle) / scale
    right, down = translate
    # Backwards: for every pixel of the result, the place in the image that it comes from.
    y = jnp.arange(height)[:, None] - (height - 1) / 2 - down
    x = jnp.arange(width)[None, :] - (width - 1) / 2 - right
    source_y = cos * y - sin * x + (height - 1) / 2
    source_x = sin * y + cos * x + (width - 1) / 2

    def sample(plane: jax.Array) -> jax.Array:
        return jax.scipy.ndimage.map_coordinates(
            plane, (source_y, source_x), order=1, mode="constant", cval=fill
        )

    return jax.vmap(sample, in_axes=-1, out_axes=-1)(image)


def _resize_weights(
    start: ArrayLike, length: ArrayLike, in_size: int, out_size: int, method: Method
) -> jax.Array:
    """[out_size, in_size]: what each pixel of `start, start + length` gives to each result."""
    start, length = jnp.asarray(start, jnp.float32), jnp.asarray(length, jnp.float32)
    scale = length / out_size
    centers = start + (jnp.arange(out_size) + 0.5) * scale
    positions = jnp.arange(in_size) + 0.5
    # Shrinking widens the kernel to cover every pixel (antialiasing); enlarging does not narrow it.
    distances = jnp.abs(positions - centers[:, None]) / jnp.maximum(scale, 1.0)
    weights = _triangle(distances) if method == "bilinear" else _cubic(distances)
    inside = (positions > start) & (positions < start + length)  # the box is all there is
    weights = jnp.where(inside, weights, 0.0)
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def _triangle(distance: jax.Array) -> jax.Array:
    return jnp.maximum(1.0 - distance, 0.0)


def _cubic(distance: jax.Array, a: float = -0.5) -> jax.Array:
    """Keys' cubic convolution kernel (Keys, 1981, eq. 15 for a = -1/2)."""
    near = ((a + 2.0) * distance - (a + 3.0)) * distance**2 + 1.0
    far = a * (((distance - 5.0) * distance + 8.0) * distance - 4.0)
    return jnp.where(distance < 1.0, near, jnp.where(distance < 2.0, far, 0.0))
