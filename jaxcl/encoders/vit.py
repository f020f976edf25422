"""Vision transformers, tiny to large, laid out as timm's so that its weights fit."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcl.choices import Dtype, check_choices
from jaxcl.encoders.drop_path import DropPath, drop_path_rates
from jaxcl.encoders.images import check_images
from jaxcl.encoders.remat import Remat, remat_block

_SIZES = {  # width, depth, heads
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}
_HIDDEN_FACTOR = 4
Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]
_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_tanh": partial(nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
}
# Xavier-uniform, which for `qkv` means each of its three matrices for itself.
_XAVIER = nn.initializers.xavier_uniform()
_XAVIER_QKV = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


class ViT(nn.Module):
    """Vision transformer (Dosovitskiy et al., 2021) without its classifier: pre-norm blocks, and a
    norm after the last one.

    Weights start Xavier-uniform and biases at 0, as MoCo v3's (Chen, Xie & He, 2021).
    Images may be of other sizes than `image_size`, from call to call: the same parameters serve the
    224 and the 96 pixels of multi-crop. Parameters are named as timm's: `cls_token`, `pos_embed`,
    `patch_embed/proj`, `blocks_0/attn/qkv` ..., `norm`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> encoder = ViT("tiny", patch=16)
      >>> variables = jax.eval_shape(encoder.init, jax.random.key(0), jnp.ones((2, 224, 224, 3)))
      >>> jax.eval_shape(encoder.apply, variables, jnp.ones((2, 96, 96, 3))).shape
      (2, 192)
    """

    size: Literal["tiny", "small", "base", "large"] = "small"
    """Widths 192, 384, 768, 1024; depths 12, 12, 12, 24; heads 3, 6, 12, 16."""
    patch: int = 16
    """Side of a patch, in pixels."""
    image_size: int = 224
    """Side, in pixels, of the images that learned positions are made for; for others they are
    interpolated."""
    in_channels: int = 3
    """Channels of the images."""
    width: int | None = None
    """Width of the tokens, where not the size's."""
    depth: int | None = None
    """Number of blocks, where not the size's."""
    heads: int | None = None
    """Attention heads, where not the size's; MoCo v3's small has 12."""
    pool: Literal["class", "mean", "attention"] = "class"
    """What becomes the features: the class token, the mean over patches, or a learned query's
    attention over them (MAP: Zhai et al., 2022). Only the first has a class token."""
    registers: int = 0
    """Tokens beside the class token that have no position and make no features, only room to
    compute in (Darcet et al., 2024)."""
    positions: Literal["learned", "sincos"] = "learned"
    """Learned, or fixed sines and cosines of row and column (MoCo v3), made for each image size."""
    norm_before: bool = False
    """Norm the tokens before the first block, too, and give patches no bias (CLIP: Radford et al.,
    2021)."""
    layer_scale: float | None = None
    """Where the learned scales of what blocks add begin (CaiT: Touvron et al., 2021; DINOv2); None:
    there are none."""
    activation: Activation = "gelu"
    """Between the two dense layers of a block: exact GELU; that by tanh (SigLIP); that by a sigmoid
    (CLIP)."""
    epsilon: float = 1e-6
    """That norms add to the variance; CLIP's is 1e-5."""
    frozen_patch_embedding: bool = False
    """Let no gradient reach the patch embedding, nor weight decay, which steadies training
    (MoCo v3)."""
    drop_path: float = 0.0
    """Rate of the last block, growing linearly from 0 at the first. Methods give the key, to the
    network that learns; in a call of your own it takes `train=True` and `rngs={"drop_path": key}`.
    """
    remat: Remat = "none"
    """What is kept for the gradient and what computed again: all, the inputs of blocks, or those
    and the results of products (see `Remat`)."""
    dtype: Dtype = "float32"
    """Type of the computation; parameters, and softmax and norms inside, are float32."""

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, axis_name: str | None = None
    ) -> jax.Array:
        """Maps images to features.

        Args:
          images: [N, H, W, in_channels]; `patch` divides H and W.
          train: drop paths; changes nothing else.
          axis_name: changes nothing; no statistics cross devices.

        Returns:
          [N, width] features in float32.

        Raises:
          ValueError: for a patch that does not divide the image, another rank or number of
            channels, or dimensions that do not fit.
        """
        check_choices(self)
        width, depth, heads = self.dimensions
        self._check(images)
        grid = (images.shape[1] // self.patch, images.shape[2] // self.patch)

        norm = partial(nn.LayerNorm, self.epsilon, self.dtype)
        x = PatchEmbedding(
            width,
            self.patch,
            bias=not self.norm_before,
            frozen=self.frozen_patch_embedding,
            dtype=self.dtype,
            name="patch_embed",
        )(images)
        x = self._with_registers(self._with_positions(x, grid)).astype(self.dtype)  # [N, T, width]
        if self.norm_before:
            x = norm(name="norm_pre")(x)
        block = partial(
            remat_block(Block, self.remat, static=(2,)),
            heads=heads,
            norm=norm,
            activation=self.activation,
            layer_scale=self.layer_scale,
            dtype=self.dtype,
        )
        for index, rate in enumerate(drop_path_rates(self.drop_path, depth)):
            x = block(drop_path=rate, name=f"blocks_{index}")(x, train)
        x = norm(name="norm")(x)

        if self.pool == "class":
            x = x[:, 0]
        elif self.pool == "attention":
            x = AttentionPool(heads, norm, self.activation, self.dtype, name="attn_pool")(x)
        else:
            x = x[:, self.registers :].astype(jnp.float32).mean(1)
        return x.astype(jnp.float32)

    @property
    def undecayed(self) -> tuple[str, ...]:
        """Paths of parameters that weight decay leaves alone, as in timm; and what is frozen."""
        frozen = ("patch_embed",) if self.frozen_patch_embedding else ()
        return ("cls_token", "pos_embed", "reg_token", *frozen)

    @property
    def dimensions(self) -> tuple[int, int, int]:
        """Width, depth and heads: the size's, or those given."""
        given = (self.width, self.depth, self.heads)
        width, depth, heads = (
            default if value is None else value
            for value, default in zip(given, _SIZES[self.size], strict=True)
        )
        if self.registers < 0:
            raise ValueError(f"ViT registers {self.registers}: give 0 or more")
        if min(width, depth, heads) < 1 or width % heads:
            raise ValueError(
                f"ViT of width {width}, depth {depth} and {heads} heads: give positive numbers, "
                f"and heads that divide the width"
            )
        if self.positions == "sincos" and width % 4:
            raise ValueError(
                f"ViT positions 'sincos' need a width that 4 divides, not {width}: sines and "
                f"cosines of two directions share it"
            )
        return width, depth, heads

    def _check(self, images: jax.Array) -> None:
        check_images(self, images, self.in_channels)
        sides = {"images of height": images.shape[1], "images of width": images.shape[2]}
        if self.positions == "learned":
            sides["image_size"] = self.image_size
        for name, side in sides.items():
            if self.patch < 1 or side < 1 or side % self.patch:
                smaller = side // max(self.patch, 1) * self.patch
                nearest = f"{smaller} or {smaller + self.patch}" if smaller else f"{self.patch}"
                raise ValueError(
                    f"ViT patch {self.patch} does not divide {name} {side}: resize to {nearest}, "
                    f"or choose a patch that divides {side}"
                )

    def _with_positions(self, patches: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """Adds positions to patches [N, P, D], and a class token in front where it is the pool."""
        count, dim = patches.shape[0], patches.shape[-1]
        has_class = self.pool == "class"
        of_class = jnp.zeros((has_class, dim))
        if self.positions == "sincos":
            of_patches = jnp.asarray(sincos_positions(*grid, dim))
        else:
            side = self.image_size // self.patch
            start = nn.initializers.truncated_normal(0.02)
            table = self.param("pos_embed", start, (has_class + side * side, dim), jnp.float32)
            of_class = table[:has_class]
            of_patches = interpolate_positions(table[has_class:], (side, side), grid)
        tokens = patches + of_patches
        if not has_class:
            return tokens
        token = self.param("cls_token", nn.initializers.normal(1e-6), (dim,), jnp.float32)
        return jnp.concatenate(
            [jnp.broadcast_to(token + of_class, (count, 1, dim)).astype(tokens.dtype), tokens], 1
        )

    def _with_registers(self, tokens: jax.Array) -> jax.Array:
        """Puts registers behind the class token, or in front of the patches where there is none."""
        if not self.registers:
            return tokens
        count, dim = tokens.shape[0], tokens.shape[-1]
        start = nn.initializers.normal(1e-6)
        table = self.param("reg_token", start, (self.registers, dim), jnp.float32)
        registers = jnp.broadcast_to(table, (count, *table.shape)).astype(tokens.dtype)
        first = int(self.pool == "class")
        return jnp.concatenate([tokens[:, :first], registers, tokens[:, first:]], axis=1)


class PatchEmbedding(nn.Module):
    """A linear map of each patch, which is a convolution that strides by its own size."""

    width: int
    patch: int
    bias: bool
    frozen: bool
    dtype: str

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images [N, H, W, C] to [N, P, width], patches row by row."""
        conv = nn.Conv
        if self.frozen:
            conv = nn.map_variables(
                conv, "params", jax.lax.stop_gradient, init=self.is_initializing()
            )
        x = conv(
            self.width,
            (self.patch, self.patch),
            strides=self.patch,
            padding="VALID",
            use_bias=self.bias,
            # A convolution's own fans would count the patch's pixels among its outputs too.
            kernel_init=nn.initializers.variance_scaling(
                1.0, "fan_avg", "uniform", in_axis=(0, 1, 2), out_axis=3
            ),
            dtype=self.dtype,
            name="proj",
        )(images.astype(self.dtype))
        return x.reshape(x.shape[0], -1, self.width)


class Block(nn.Module):
    """Self-attention and two dense layers, each after a norm and beside a shortcut."""

    heads: int
    drop_path: float
    norm: partial
    activation: Activation
    layer_scale: float | None
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = self.norm(name="norm1")(x)
        y = SelfAttention(self.heads, self.dtype, name="attn")(y)
        x = x + DropPath(self.drop_path, name="drop_path1")(self._scaled(y, "ls1"), train=train)
        y = self.norm(name="norm2")(x)
        y = FeedForward(self.activation, self.dtype, name="mlp")(y)
        return x + DropPath(self.drop_path, name="drop_path2")(self._scaled(y, "ls2"), train=train)

    def _scaled(self, y: jax.Array, name: str) -> jax.Array:
        if self.layer_scale is None:
            return y
        start = nn.initializers.constant(self.layer_scale)
        gamma = self.param(f"{name}_gamma", start, (y.shape[-1],), jnp.float32)
        return y * gamma.astype(self.dtype)


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017)."""

    heads: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        rows, tokens, width = x.shape
        qkv = nn.Dense(3 * width, dtype=self.dtype, kernel_init=_XAVIER_QKV, name="qkv")(x)
        qkv = qkv.reshape(rows, tokens, 3, self.heads, width // self.heads)
        y = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        return nn.Dense(width, dtype=self.dtype, kernel_init=_XAVIER, name="proj")(
            y.reshape(x.shape)
        )


class FeedForward(nn.Module):
    """Two dense layers with an activation between them."""

    activation: Activation
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        y = nn.Dense(_HIDDEN_FACTOR * width, dtype=self.dtype, kernel_init=_XAVIER, name="fc1")(x)
        y = _ACTIVATIONS[self.activation](y)
        return nn.Dense(width, dtype=self.dtype, kernel_init=_XAVIER, name="fc2")(y)


class AttentionPool(nn.Module):
    """A learned query's attention over all tokens, then two dense layers beside a shortcut (MAP:
    Zhai et al., 2022, after Lee et al., 2019)."""

    heads: int
    norm: partial
    activation: Activation
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Pools [N, T, D] to [N, D]."""
        rows, tokens, width = x.shape
        head = width // self.heads
        start = nn.initializers.truncated_normal(width**-0.5)
        latent = self.param("latent", start, (width,), jnp.float32).astype(self.dtype)
        query = nn.Dense(width, dtype=self.dtype, kernel_init=_XAVIER, name="q")(latent)
        query = jnp.broadcast_to(query.reshape(self.heads, head), (rows, 1, self.heads, head))
        kv = nn.Dense(
            2 * width,
            dtype=self.dtype,
            # Xavier-uniform for keys and values each: their bound is that of width x width.
            kernel_init=_XAVIER_QKV,
            name="kv",
        )(x).reshape(rows, tokens, 2, self.heads, head)
        y = jax.nn.dot_product_attention(query, kv[:, :, 0], kv[:, :, 1]).reshape(rows, width)
        y = nn.Dense(width, dtype=self.dtype, kernel_init=_XAVIER, name="proj")(y)
        z = self.norm(name="norm")(y)
        return y + FeedForward(self.activation, self.dtype, name="mlp")(z)


def sincos_positions(rows: int, columns: int, dim: int) -> np.ndarray:
    """Fixed positions: sines and cosines of row and column (MoCo v3, Chen, Xie & He, 2021).

    Args:
      rows: height of the grid.
      columns: its width.
      dim: width of a position; 4 divides it.

    Returns:
      [rows * columns, dim] float32, row by row: sines and cosines of the row, then of the column,
      each at dim / 4 frequencies that fall from 1 to nearly 1/10000 geometrically.
    """
    frequencies = 10000.0 ** (-np.arange(dim // 4) / (dim // 4))
    row, column = np.mgrid[:rows, :columns].reshape(2, -1, 1) * frequencies
    waves = [np.sin(row), np.cos(row), np.sin(column), np.cos(column)]
    return np.concatenate(waves, 1).astype(np.float32)


def interpolate_positions(
    positions: jax.Array, grid: tuple[int, int], new_grid: tuple[int, int]
) -> jax.Array:
    """Positions on another grid, by bicubic interpolation, antialiased where it is coarser.

    Args:
      positions: [P, D] on `grid`, row by row.
      grid: rows and columns, P in all.
      new_grid: rows and columns wanted.

    Returns:
      [P', D] on `new_grid`; the positions themselves where the grids are equal.
    """
    dim = positions.shape[-1]
    return jax.image.resize(
        positions.reshape(*grid, dim), (*new_grid, dim), method="cubic", antialias=True
    ).reshape(-1, dim)
