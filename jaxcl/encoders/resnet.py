"""ResNet-18 to 152, laid out as torchvision's so that its weights fit."""

from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl.choices import Dtype, check_choices
from jaxcl.encoders.convolution import convolve
from jaxcl.encoders.feature_maps import keep_feature_map
from jaxcl.encoders.images import check_images
from jaxcl.encoders.norm import BatchNorm
from jaxcl.encoders.remat import Remat, remat_block

RESNET_BLOCKS: dict[int, tuple[int, ...]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Blocks of each stage, by depth."""
_BOTTLENECK_EXPANSION = 4


class ResNet(nn.Module):
    """Residual network (He et al., 2016) without its classifier; bottlenecks stride in their 3x3
    (version 1.5).

    Convolutions start Kaiming-normal over the fan-out, paddings and epsilon are torchvision's.
    Parameters are named as torchvision's: `conv1`, `bn1`, `layer1_0/conv1` ...,
    `layer2_0/downsample_conv`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> encoder = ResNet(18, stem="cifar", width=16)
      >>> variables = jax.eval_shape(encoder.init, jax.random.key(0), jnp.ones((2, 32, 32, 3)))
      >>> jax.eval_shape(encoder.apply, variables, jnp.ones((2, 32, 32, 3))).shape
      (2, 128)
    """

    depth: Literal[18, 34, 50, 101, 152] = 50
    """Number of layers, as the papers count them."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """imagenet: 7x7 convolution of stride 2 and max-pooling; cifar: 3x3 of stride 1, for images of
    about 32 pixels."""
    width: int = 64
    """Channels of the first stage; 128 is the papers' 2x, 256 their 4x."""
    bottleneck_factor: int = 1
    """How much wider the 3x3 of a bottleneck is: 2 makes torchvision's wide_resnet50_2 of depth 50
    (Zagoruyko & Komodakis, 2016)."""
    in_channels: int = 3
    """Channels of the images."""
    zero_init_residual: bool = True
    """Start the last norm of each block at 0, so that every block starts as the identity."""
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
          [N, 8 * width] (depth 18, 34) or [N, 32 * width] features in float32.

        Raises:
          ValueError: for another depth, rank or number of channels, or a bottleneck factor where
            blocks have no bottleneck.
        """
        check_choices(self)
        if self.depth not in RESNET_BLOCKS:
            raise ValueError(f"ResNet depth {self.depth}: choose one of {sorted(RESNET_BLOCKS)}")
        if self.bottleneck_factor != 1 and self.depth < 50:
            raise ValueError(
                f"ResNet bottleneck_factor {self.bottleneck_factor} with depth {self.depth}, which "
                f"has no bottlenecks: choose depth 50 or more, or set width"
            )
        check_images(self, images, self.in_channels)
        conv = partial(
            nn.Conv,
            use_bias=False,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            conv_general_dilated=convolve,
            dtype=self.dtype,
        )
        norm = partial(BatchNorm, groups=self.batch_norm_groups, dtype=self.dtype)

        x = images.astype(self.dtype)
        if self.stem == "imagenet":
            x = conv(self.width, (7, 7), strides=2, padding=3, name="conv1")(x)
        else:
            x = conv(self.width, (3, 3), padding=1, name="conv1")(x)
        x = nn.relu(norm(name="bn1")(x, train=train, axis_name=axis_name))
        if self.stem == "imagenet":
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        own = BasicBlock if self.depth < 50 else Bottleneck
        block = remat_block(own, self.remat, static=(2, 3))
        if self.depth >= 50:
            block = partial(block, factor=self.bottleneck_factor)
        for stage, blocks in enumerate(RESNET_BLOCKS[self.depth]):
            for index in range(blocks):
                x = block(
                    width=self.width * 2**stage,
                    stride=2 if stage > 0 and index == 0 else 1,
                    conv=conv,
                    norm=norm,
                    zero_init_residual=self.zero_init_residual,
                    name=f"layer{stage + 1}_{index}",
                )(x, train, axis_name)
        keep_feature_map(self, x)
        return x.astype(jnp.float32).mean((1, 2))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (ResNet-18 and 34)."""

    width: int
    stride: int
    conv: partial
    norm: partial
    zero_init_residual: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, axis_name: str | None) -> jax.Array:
        y = self.conv(self.width, (3, 3), strides=self.stride, padding=1, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, train=train, axis_name=axis_name))
        y = self.conv(self.width, (3, 3), padding=1, name="conv2")(y)
        y = self.norm(zero_init_scale=self.zero_init_residual, name="bn2")(
            y, train=train, axis_name=axis_name
        )
        return nn.relu(y + _shortcut(self, x, self.width, train, axis_name))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut (ResNet-50, 101 and 152)."""

    width: int
    factor: int
    stride: int
    conv: partial
    norm: partial
    zero_init_residual: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, axis_name: str | None) -> jax.Array:
        inner, out = self.width * self.factor, self.width * _BOTTLENECK_EXPANSION
        y = self.conv(inner, (1, 1), name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, train=train, axis_name=axis_name))
        y = self.conv(inner, (3, 3), strides=self.stride, padding=1, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y, train=train, axis_name=axis_name))
        y = self.conv(out, (1, 1), name="conv3")(y)
        y = self.norm(zero_init_scale=self.zero_init_residual, name="bn3")(
            y, train=train, axis_name=axis_name
        )
        return nn.relu(y + _shortcut(self, x, out, train, axis_name))


def _shortcut(
    block: BasicBlock | Bottleneck, x: jax.Array, out: int, train: bool, axis_name: str | None
) -> jax.Array:
    """The input itself, or a strided 1x1 projection where shapes change; called inside the block's
    compact method."""
    if block.stride == 1 and x.shape[-1] == out:
        return x
    x = block.conv(out, (1, 1), strides=block.stride, padding=0, name="downsample_conv")(x)
    return block.norm(name="downsample_bn")(x, train=train, axis_name=axis_name)
