"""Encoders of sound: what turns samples into an image of time and pitch, and an encoder of images
after it."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl.augment import LogMel


class OnSpectrogram(nn.Module):
    """An encoder of images on spectrograms of sound.

    Takes samples [N, T], int16 or floats from -1 to 1, or spectrograms [N, F, B, 1] that views have
    made by the same `front`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcl.encoders import SmallCNN
      >>> encoder = OnSpectrogram(SmallCNN((8, 16)))
      >>> y, _ = encoder.init_with_output(jax.random.key(0), jnp.zeros((2, 16000), jnp.int16))
      >>> y.shape
      (2, 16)
    """

    encoder: nn.Module
    """Maps images [N, F, B, 1] to features."""
    front: LogMel = LogMel(mean=-30.0, std=20.0)
    """Makes the images, of what are samples still."""

    @property
    def batch_norm_groups(self) -> int | None:
        """Who shares batch statistics in the encoder."""
        groups: int | None = getattr(self.encoder, "batch_norm_groups", None)
        return groups

    @nn.compact
    def __call__(
        self, sound: jax.Array, *, train: bool = False, axis_name: str | None = None
    ) -> jax.Array:
        """Maps samples [N, T] or spectrograms [N, F, B, 1] to features [N, D].

        Raises:
          ValueError: for another rank.
        """
        if sound.ndim not in (2, 4):
            raise ValueError(
                "OnSpectrogram takes samples [N, T] or spectrograms [N, F, B, 1]; got shape "
                f"{sound.shape}"
            )
        if sound.ndim == 2:
            sound = self.front.of(sound)[..., None]
        features: jax.Array = self.encoder(jnp.asarray(sound), train=train, axis_name=axis_name)
        return features
