"""ConvNeXt, tiny to base, laid out as timm's so that its weights fit."""

from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl.choices import Dtype, check_choices
from jaxcl.encoders.convolution import convolve
from jaxcl.encoders.drop_path import DropPath, drop_path_rates
from jaxcl.encoders.feature_maps import keep_feature_map
from jaxcl.encoders.images import check_images
from jaxcl.encoders.remat import Remat, remat_block

_SIZES = {  # channels of the first stage, blocks of each stage
    "tiny": (96, (3, 3, 9, 3)),
    "small": (96, (3, 3, 27, 3)),
    "base": (128, (3, 3, 27, 3)),
}
_EPSILON = 1e-6
_START = nn.initializers.truncated_normal(0.02)


class ConvNeXt(nn.Module):
    """ConvNeXt (Liu et al., 2022) without its classifier: 7x7 depthwise convolutions, LayerNorm,
    exact GELU and layer scale; it has no batch statistics.

    Weights start truncated-normal with deviation 0.02, biases at 0, layer scales at 1e-6.
    Parameters are named as timm's, containers joined by underscores: `stem_0`,
    `stages_0_blocks_0/conv_dw`, `stages_1_downsample_1`, `head_norm`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> encoder = ConvNeXt("tiny", width=16, depths=(1, 1, 2, 1), patch=1)
      >>> variables = jax.eval_shape(encoder.init, jax.random.key(0), jnp.ones((2, 32, 32, 3)))
      >>> jax.eval_shape(encoder.apply, variables, jnp.ones((2, 32, 32, 3))).shape
      (2, 128)
    """

    size: Literal["tiny", "small", "base"] = "tiny"
    """Channels of the first stage 96, 96, 128; blocks of the third 9, 27, 27."""
    patch: int = 4
    """Side and stride of the first convolution, in pixels; 1 or 2 suit images of 32 pixels."""
    in_channels: int = 3
    """Channels of the images."""
    width: int | None = None
    """Channels of the first stage, where not the size's; each further stage has twice as many."""
    depths: tuple[int, ...] | None = None
    """Blocks of each stage, where not the size's."""
    drop_path: float = 0.0
    """Rate of the last block, growing linearly from 0 at the first. Methods give the key, to the
    network that learns; in a call of your own it takes `train=True` and `rngs={"drop_path": key}`.
    """
    remat: Remat = "none"
    """What is kept for the gradient and what computed again: all, the inputs of blocks, or those
    and the results of products (see `Remat`)."""
    dtype: Dtype = "float32"
    """Type of the computation; parameters, and norms inside, are float32."""

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, axis_name: str | None = None
    ) -> jax.Array:
        """Maps images to features.

        Args:
          images: [N, H, W, in_channels], of at least `patch` * 8 pixels a side for four stages.
          train: drop paths; changes nothing else.
          axis_name: changes nothing; no statistics cross devices.

        Returns:
          [N, 8 * width] features in float32, for four stages.

        Raises:
          ValueError: for an image that is too small, or another rank or number of channels.
        """
        check_choices(self)
        width, depths = self.dimensions
        self._check(images, self.patch * 2 ** (len(depths) - 1))
        conv = partial(nn.Conv, padding="VALID", kernel_init=_START, dtype=self.dtype)
        norm = partial(nn.LayerNorm, _EPSILON, self.dtype)
        block_type = remat_block(Block, self.remat, static=(2,))
        rates = iter(drop_path_rates(self.drop_path, sum(depths)))

        x = images.astype(self.dtype)
        x = conv(width, (self.patch, self.patch), strides=self.patch, name="stem_0")(x)
        x = norm(name="stem_1")(x)
        for stage, blocks in enumerate(depths):
            if stage > 0:
                x = norm(name=f"stages_{stage}_downsample_0")(x)
                x = conv(width * 2**stage, (2, 2), strides=2, name=f"stages_{stage}_downsample_1")(
                    x
                )
            for index in range(blocks):
                name = f"stages_{stage}_blocks_{index}"
                x = block_type(next(rates), self.dtype, name=name)(x, train)
        keep_feature_map(self, x)
        x = x.astype(jnp.float32).mean((1, 2))
        return nn.LayerNorm(_EPSILON, name="head_norm")(x)

    @property
    def dimensions(self) -> tuple[int, tuple[int, ...]]:
        """Channels of the first stage and blocks of each: the size's, or those given."""
        usual_width, usual_depths = _SIZES[self.size]
        width = usual_width if self.width is None else self.width
        depths = usual_depths if self.depths is None else self.depths
        if width < 1 or not depths or min(depths) < 1:
            raise ValueError(
                f"ConvNeXt of width {width} and depths {depths}: give channels and blocks of each "
                f"stage, as in width=96, depths=(3, 3, 9, 3)"
            )
        return width, depths

    def _check(self, images: jax.Array, least: int) -> None:
        check_images(self, images, self.in_channels)
        if self.patch < 1 or min(images.shape[1:3]) < least:
            raise ValueError(
                f"ConvNeXt with patch {self.patch} shrinks images {least} times; got "
                f"{images.shape[1]}x{images.shape[2]}. Give larger images or a smaller patch"
            )


class Block(nn.Module):
    """A 7x7 depthwise convolution, a norm and two dense layers beside a shortcut."""

    drop_path: float
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        width = x.shape[-1]
        dense = partial(nn.Dense, kernel_init=_START, dtype=self.dtype)
        y = nn.Conv(
            width,
            (7, 7),
            padding=3,
            feature_group_count=width,
            kernel_init=_START,
            dtype=self.dtype,
            conv_general_dilated=convolve,
            name="conv_dw",
        )(x)
        y = nn.LayerNorm(_EPSILON, self.dtype, name="norm")(y)
        y = dense(4 * width, name="mlp_fc1")(y)
        y = dense(width, name="mlp_fc2")(nn.gelu(y, approximate=False))
        scale = self.param("gamma", nn.initializers.constant(1e-6), (width,), jnp.float32)
        return x + DropPath(self.drop_path, name="drop_path")(
            y * scale.astype(self.dtype), train=train
        )
