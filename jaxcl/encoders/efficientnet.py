"""EfficientNet-Lite 0 to 4, laid out as timm's so that its weights fit."""

import math
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl.choices import Dtype, check_choices
from jaxcl.encoders.drop_path import DropPath, drop_path_rates
from jaxcl.encoders.feature_maps import keep_feature_map
from jaxcl.encoders.images import check_images
from jaxcl.encoders.norm import BatchNorm
from jaxcl.encoders.remat import Remat, remat_block

_SIZES = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2), 3: (1.2, 1.4), 4: (1.4, 1.8)}
"""What widths and depths are multiplied by."""
_STAGES = (  # blocks, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM = 32
_START = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite without its classifier: inverted bottlenecks of depthwise convolutions with
    ReLU6 (Tan & Le, 2019, without squeeze-and-excitation and swish, as published for phones).

    Weights start normal by their fan-out. Parameters are named as timm's: `conv_stem`, `bn1`,
    `blocks_0_0/conv_dw`, `blocks_1_0/conv_pwl` ..., `conv_head`, `bn2`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> encoder = EfficientNetLite(0)
      >>> variables = jax.eval_shape(encoder.init, jax.random.key(0), jnp.ones((2, 224, 224, 3)))
      >>> jax.eval_shape(encoder.apply, variables, jnp.ones((2, 224, 224, 3))).shape
      (2, 1280)
    """

    size: Literal[0, 1, 2, 3, 4] = 0
    """Widths times 1.0, 1.0, 1.1, 1.2, 1.4; blocks of the inner stages times 1.0 to 1.8."""
    width: int = 1280
    """Of the features."""
    in_channels: int = 3
    """Channels of the images."""
    padding: Literal["same", "symmetric"] = "same"
    """Where a stride leaves a pixel over: TensorFlow's padding, in which the published weights
    were learned, or PyTorch's."""
    epsilon: float = 1e-3
    """That batch norms add to the variance; PyTorch's own is 1e-5."""
    batch_norm_groups: int | None = None
    """Who shares batch statistics; see `BatchNorm.groups`."""
    drop_path: float = 0.0
    """Rate of the last block, growing linearly from 0 at the first. Methods give the key, to the
    network that learns; in a call of your own it takes `train=True` and `rngs={"drop_path": key}`.
    """
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
          images: [N, H, W, in_channels], of any size; 32 pixels become one.
          train: normalize by the batch's statistics, and drop paths.
          axis_name: mapped axis that batch statistics cross.

        Returns:
          [N, width] features in float32.

        Raises:
          ValueError: for another rank or number of channels.
        """
        check_choices(self)
        check_images(self, images, self.in_channels)
        norm = partial(BatchNorm, self.batch_norm_groups, epsilon=self.epsilon, dtype=self.dtype)
        conv = partial(_conv, padding=self.padding, dtype=self.dtype)
        plan = self.blocks
        rates = iter(drop_path_rates(self.drop_path, sum(map(len, plan))))

        x = conv(_STEM, 3, 2, name="conv_stem")(images.astype(self.dtype))
        x = _relu6(norm(name="bn1")(x, train=train, axis_name=axis_name))
        block_type = remat_block(Block, self.remat, static=(2, 3))
        for stage, blocks in enumerate(plan):
            for index, (kernel, stride, expansion, channels) in enumerate(blocks):
                x = block_type(
                    kernel,
                    stride,
                    expansion,
                    channels,
                    next(rates),
                    conv,
                    norm,
                    name=f"blocks_{stage}_{index}",
                )(x, train, axis_name)
        x = conv(self.width, 1, 1, name="conv_head")(x)
        x = _relu6(norm(name="bn2")(x, train=train, axis_name=axis_name))
        keep_feature_map(self, x)
        return x.astype(jnp.float32).mean((1, 2))

    @property
    def blocks(self) -> tuple[tuple[tuple[int, int, int, int], ...], ...]:
        """Kernel, stride, expansion and channels of each block of each stage."""
        wider, deeper = _SIZES[self.size]
        stages = []
        for place, (count, kernel, stride, expansion, channels) in enumerate(_STAGES):
            inner = place not in (0, len(_STAGES) - 1)
            repeats = math.ceil(count * deeper) if inner else count
            made = _rounded(channels * wider)
            first = (kernel, stride, expansion, made)
            stages.append((first, *((kernel, 1, expansion, made),) * (repeats - 1)))
        return tuple(stages)


class Block(nn.Module):
    """A pointwise convolution to more channels, a depthwise one, a pointwise one back, beside a
    shortcut where shapes allow it; without expansion the first is left out."""

    kernel: int
    stride: int
    expansion: int
    channels: int
    drop_path: float
    conv: partial
    norm: partial

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, axis_name: str | None) -> jax.Array:
        before, inner = x, x.shape[-1] * self.expansion
        names = ["conv_dw", "bn1", "conv_pw", "bn2"]
        if self.expansion != 1:
            names = ["conv_dw", "bn2", "conv_pwl", "bn3"]
            x = self.conv(inner, 1, 1, name="conv_pw")(x)
            x = _relu6(self.norm(name="bn1")(x, train=train, axis_name=axis_name))
        deep, first, point, second = names
        x = self.conv(inner, self.kernel, self.stride, groups=inner, name=deep)(x)
        x = _relu6(self.norm(name=first)(x, train=train, axis_name=axis_name))
        x = self.conv(self.channels, 1, 1, name=point)(x)
        x = self.norm(name=second)(x, train=train, axis_name=axis_name)
        if x.shape != before.shape:
            return x
        return before + DropPath(self.drop_path, name="drop_path")(x, train=train)


def _conv(
    channels: int, kernel: int, stride: int, *, padding: str, dtype: str, name: str, groups: int = 1
) -> nn.Conv:
    return nn.Conv(
        channels,
        (kernel, kernel),
        strides=stride,
        padding="SAME" if padding == "same" else kernel // 2,
        feature_group_count=groups,
        use_bias=False,
        kernel_init=_START,
        dtype=dtype,
        name=name,
    )


def _relu6(x: jax.Array) -> jax.Array:
    return jnp.clip(x, 0, 6)


def _rounded(channels: float) -> int:
    """The multiple of 8 that is nearest, by no more than a tenth below."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
