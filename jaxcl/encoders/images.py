"""What encoders of images ask of their input."""

import flax.linen as nn
import jax


def check_images(encoder: nn.Module, images: jax.Array, channels: int | None = None) -> None:
    """Raises where images are none.

    Args:
      encoder: for the message.
      images: expected to be [N, H, W, C].
      channels: the C that is expected; None: any.

    Raises:
      ValueError: for another rank or number of channels.
    """
    if images.ndim != 4 or channels not in (None, images.shape[-1]):
        name = type(encoder).__name__
        advice = "" if channels is None else ". Set in_channels to the number of channels"
        raise ValueError(
            f"{name} takes images [N, H, W, {'C' if channels is None else channels}]; got shape "
            f"{images.shape}{advice}"
        )
