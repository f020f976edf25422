"""A small convolutional network for tiny images, such as 8x8 or 28x28."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl.choices import Dtype, check_choices
from jaxcl.encoders.convolution import convolve
from jaxcl.encoders.feature_maps import keep_feature_map
from jaxcl.encoders.images import check_images
from jaxcl.encoders.norm import BatchNorm


class SmallCNN(nn.Module):
    """3x3 convolutions with BatchNorm and ReLU, halving the image before each but the first, then
    global pooling.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> y, _ = SmallCNN((16, 32)).init_with_output(jax.random.key(0), jnp.ones((2, 8, 8, 1)))
      >>> y.shape
      (2, 32)
    """

    widths: tuple[int, ...] = (32, 64, 128)
    """Channels of each convolution; the last is the width of the features."""
    pool: bool = True
    """Average over the image; without it, features are the flattened last map, which keeps where
    things are."""
    batch_norm_groups: int | None = None
    """Who shares batch statistics; see `BatchNorm.groups`."""
    dtype: Dtype = "float32"
    """Type of the computation; parameters are float32."""

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, axis_name: str | None = None
    ) -> jax.Array:
        """Maps images [N, H, W, C] to features [N, F] in float32.

        Raises:
          ValueError: for widths that are none, or another rank.
        """
        check_choices(self)
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"SmallCNN widths are {self.widths}: give channels, as in (32, 64)")
        check_images(self, images)
        x = images.astype(self.dtype)
        for layer, width in enumerate(self.widths):
            x = nn.Conv(
                width,
                (3, 3),
                strides=1 if layer == 0 else 2,
                padding=1,
                use_bias=False,
                kernel_init=nn.initializers.he_normal(),
                dtype=self.dtype,
                conv_general_dilated=convolve,
                name=f"conv{layer}",
            )(x)
            x = BatchNorm(groups=self.batch_norm_groups, dtype=self.dtype, name=f"norm{layer}")(
                x, train=train, axis_name=axis_name
            )
            x = nn.relu(x)
        keep_feature_map(self, x)
        x = x.astype(jnp.float32)
        return x.mean((1, 2)) if self.pool else x.reshape(x.shape[0], -1)
