"""Wide residual networks for images of about 32 pixels, such as WRN-28-10."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl.choices import Dtype, check_choices
from jaxcl.encoders.convolution import convolve
from jaxcl.encoders.feature_maps import keep_feature_map
from jaxcl.encoders.images import check_images
from jaxcl.encoders.norm import BatchNorm
from jaxcl.encoders.remat import Remat, remat_block

_STEM_CHANNELS = 16


class WideResNet(nn.Module):
    """Wide residual network (Zagoruyko & Komodakis, 2016) without its classifier: three stages of
    pre-activation blocks of two 3x3 convolutions.

    Where shapes change, the 1x1 shortcut takes the activated input, as the authors' code has it.
    Convolutions start Kaiming-normal over the fan-out. Dropout is left out: batch statistics do
    without. For the ImageNet family (WRN-50-2) see `ResNet.bottleneck_factor`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> encoder = WideResNet(28, factor=2)
      >>> variables = jax.eval_shape(encoder.init, jax.random.key(0), jnp.ones((2, 32, 32, 3)))
      >>> jax.eval_shape(encoder.apply, variables, jnp.ones((2, 32, 32, 3))).shape
      (2, 128)
    """

    depth: int = 28
    """Number of convolutions, the three shortcuts' among them: 6 * blocks of a stage + 4, as 16, 28
    and 40."""
    factor: int = 10
    """How much wider than a ResNet's 16, 32 and 64 channels the stages are."""
    in_channels: int = 3
    """Channels of the images."""
    batch_norm_groups: int | None = None
    """Who shares batch statistics; see `BatchNorm.groups`. None: all devices; 1: each device for
    itself."""
    remat: Remat = "none"
    """What is kept for the gradient and what computed again: all, the inputs of blocks, or those
    and the results of products (see `Remat`)."""
    dtype: Dtype = "float32"
    """Type of the computation; parameters and statistics are float32."""

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, axis_name: str | None = None
    ) -> jax.Array:
        """Maps images to features.

        Args:
          images: [N, H, W, in_channels].
          train: use and update batch statistics.
          axis_name: mapped axis that batch statistics cross.

        Returns:
          [N, 64 * factor] features in float32.

        Raises:
          ValueError: for a depth that is not 6n + 4, or another rank or number of channels.
        """
        check_choices(self)
        if self.depth < 10 or self.depth % 6 != 4 or self.factor < 1:
            raise ValueError(
                f"WideResNet depth {self.depth}, factor {self.factor}: choose a depth of 6n + 4, "
                f"as 16, 28 or 40, and a factor of at least 1"
            )
        check_images(self, images, self.in_channels)
        conv = partial(
            nn.Conv,
            use_bias=False,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            dtype=self.dtype,
            conv_general_dilated=convolve,
        )
        norm = partial(BatchNorm, groups=self.batch_norm_groups, dtype=self.dtype)

        x = images.astype(self.dtype)
        x = conv(_STEM_CHANNELS, (3, 3), padding=1, name="conv1")(x)
        block = remat_block(Block, self.remat, static=(2, 3))
        for stage in range(3):
            for index in range((self.depth - 4) // 6):
                x = block(
                    width=_STEM_CHANNELS * self.factor * 2**stage,
                    stride=2 if stage > 0 and index == 0 else 1,
                    conv=conv,
                    norm=norm,
                    name=f"stage{stage + 1}_{index}",
                )(x, train, axis_name)
        x = nn.relu(norm(name="bn")(x, train=train, axis_name=axis_name))
        keep_feature_map(self, x)
        return x.astype(jnp.float32).mean((1, 2))


class Block(nn.Module):
    """Two 3x3 convolutions, each after a norm and a ReLU, beside a shortcut."""

    width: int
    stride: int
    conv: partial
    norm: partial

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, axis_name: str | None) -> jax.Array:
        y = nn.relu(self.norm(name="bn1")(x, train=train, axis_name=axis_name))
        if self.stride != 1 or x.shape[-1] != self.width:
            x = self.conv(
                self.width, (1, 1), strides=self.stride, padding=0, name="downsample_conv"
            )(y)
        y = self.conv(self.width, (3, 3), strides=self.stride, padding=1, name="conv1")(y)
        y = nn.relu(self.norm(name="bn2")(y, train=train, axis_name=axis_name))
        return x + self.conv(self.width, (3, 3), padding=1, name="conv2")(y)
