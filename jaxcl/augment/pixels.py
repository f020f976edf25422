"""What an image is: `[H, W, C]`, float32 in [0, 1]. Into that form, out of it, and the checks."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def check_image(image: jax.Array, function: str, channels: tuple[int, ...] | None = None) -> None:
    """Raises unless `image` is one float image `[H, W, C]`.

    Args:
      image: what came.
      function: name for the message.
      channels: the channel counts that `function` is defined for; None for any.

    Raises:
      TypeError: if the image is not of a float dtype.
      ValueError: if it is not of rank 3, or has another number of channels.
    """
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(
            f"{function} takes a float image in [0, 1], got {image.dtype}: "
            "convert it with to_float (Compose and Views do so themselves)"
        )
    if image.ndim != 3:
        raise ValueError(
            f"{function} takes one image [H, W, C], got shape {image.shape}: "
            "use jax.vmap or batch_views for a batch, image[..., None] for a grey image"
        )
    if channels is not None and image.shape[-1] not in channels:
        expected = " or ".join(str(count) for count in channels)
        raise ValueError(
            f"{function} is defined for {expected} channels, got {image.shape[-1]} "
            f"(shape {image.shape}): leave colour operations out for such images"
        )


def to_float(image: jax.Array | np.ndarray) -> jax.Array:
    """An image as float32: uint8 is divided by 255, floats keep their values.

    Args:
      image: uint8 in [0, 255], or any float dtype, in [0, 1] already; any shape.

    Returns:
      float32, the same shape.

    Raises:
      TypeError: for another dtype, whose range is not known.

    Example:
      >>> import numpy as np
      >>> float(to_float(np.array([255], np.uint8))[0])
      1.0
    """
    image = jnp.asarray(image)
    if image.dtype == jnp.uint8:
        return image.astype(jnp.float32) / 255.0
    if jnp.issubdtype(image.dtype, jnp.floating):
        return image.astype(jnp.float32)
    raise TypeError(f"an image is uint8 in [0, 255] or float in [0, 1], got {image.dtype}")


def normalize(
    image: jax.Array, mean: jax.Array | Sequence[float], std: jax.Array | Sequence[float]
) -> jax.Array:
    """`(image - mean) / std`, channel by channel, as torchvision's `normalize`.

    Args:
      image: [H, W, C] float.
      mean: [C], or [1] for all channels.
      std: [C] or [1], not zero.

    Returns:
      [H, W, C] float.

    Raises:
      ValueError: if `mean` or `std` has neither one entry nor C.

    Example:
      >>> import jax.numpy as jnp
      >>> normalize(jnp.full((1, 1, 1), 0.75), [0.5], [0.25]).item()
      1.0
    """
    check_image(image, "normalize")
    mean, std = jnp.asarray(mean, image.dtype), jnp.asarray(std, image.dtype)
    for name, values in (("mean", mean), ("std", std)):
        if values.shape not in ((1,), (image.shape[-1],)):
            raise ValueError(
                f"normalize: {name} has shape {values.shape} for an image of {image.shape[-1]} "
                f"channels: give one value, or one for each channel"
            )
    return (image - mean) / std
