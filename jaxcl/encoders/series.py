"""Networks over series: dilated convolutions over time, and encoders of images frame by frame."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl.augment import to_float
from jaxcl.choices import check_choices
from jaxcl.similarity.checks import check_at_least_one

PoolTimes = Literal["mean", "max", "last", "none"]
"""How the features of all times become one; none: they stay, [N, T, D]."""


class TemporalConvolutions(nn.Module):
    """A temporal convolutional network (Bai et al., 2018): residual blocks of two dilated
    convolutions, each block looking twice as far as the one before.

    With `causal` no output knows later inputs, and the network runs in a stream, part by part:
    called with `carry=()` at its beginning, it returns a carry beside its outputs, for the next
    call. With `mask_share` it is TS2Vec's encoder (Yue et al., 2022, section 3.2).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> encoder = TemporalConvolutions((8, 16), pool="none")
      >>> y, _ = encoder.init_with_output(jax.random.key(0), jnp.zeros((2, 50, 3)))
      >>> y.shape
      (2, 50, 16)
    """

    widths: tuple[int, ...] = (64, 64, 64, 64, 64, 64, 128)
    """Channels of each block; the last one's are the features."""
    kernel: int = 3
    """Times that a convolution sees."""
    causal: bool = True
    """See the past alone."""
    mask_share: float = 0.0
    """Share of the times, drawn for each example, that training hides behind the first layer."""
    pool: PoolTimes = "max"
    """What becomes the features."""

    @nn.compact
    def __call__(
        self,
        series: jax.Array,
        *,
        train: bool = False,
        axis_name: str | None = None,
        carry: Any = None,
    ) -> Any:
        """Maps series [N, T, C] to features.

        Args:
          series: floats; of a missing time, NaN, the first layer's output is 0. In a stream the
            next times.
          train: hide times.
          axis_name: changes nothing.
          carry: in a stream what the call before returned, () at first; None: the whole series.

        Returns:
          [N, D] features, or [N, T, D] without pool; in a stream [N, T, D] and the carry.

        Raises:
          ValueError: for another rank, or a stream through a network that sees what comes.
        """
        del axis_name
        check_choices(self)
        check_at_least_one(kernel=self.kernel, widths=min(self.widths))
        if series.ndim != 3:
            raise ValueError(f"TemporalConvolutions takes series [N, T, C]; got {series.shape}")
        streams = carry is not None
        if streams and not self.causal:
            raise ValueError("TemporalConvolutions cannot stream unless causal: it sees what comes")
        series = series.astype(jnp.float32)
        there = jnp.isfinite(series).all(-1, keepdims=True)
        if self.mask_share:
            drop = nn.Dropout(self.mask_share, deterministic=not train, name="mask")
            there &= drop(jnp.ones_like(there, jnp.float32)) > 0
        start = nn.Dense(self.widths[0], kernel_init=_START, name="start")
        x = jnp.where(there, start(jnp.where(jnp.isfinite(series), series, 0)), 0)
        carried = []
        for number, width in enumerate(self.widths):
            y = x
            for layer in range(2):
                reach = (self.kernel - 1) * 2**number
                y = nn.gelu(y)
                before = reach if self.causal else reach // 2
                if streams and carry:
                    y = jnp.concatenate([carry[2 * number + layer], y], axis=1)
                else:
                    y = jnp.pad(y, [(0, 0), (before, 0), (0, 0)])
                carried.append(y[:, y.shape[1] - reach :])
                y = jnp.pad(y, [(0, 0), (0, reach - before), (0, 0)])
                y = nn.Conv(
                    width,
                    (self.kernel,),
                    kernel_dilation=2**number,
                    padding="VALID",
                    kernel_init=_START,
                    name=f"block{number}_conv{layer}",
                )(y)
            if x.shape[-1] != width:
                x = nn.Dense(width, kernel_init=_START, name=f"block{number}_shortcut")(x)
            x += y
        if streams:
            return x, tuple(carried)
        return pool_times(x, self.pool)

    @property
    def field(self) -> int:
        """Times that one output is of."""
        return 1 + 2 * (self.kernel - 1) * (2 ** len(self.widths) - 1)


_START = nn.initializers.he_normal()


class OnFrames(nn.Module):
    """An encoder of images on each frame of a video, and what becomes of its times.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcl.encoders import SmallCNN
      >>> encoder = OnFrames(SmallCNN((8, 16)))
      >>> y, _ = encoder.init_with_output(jax.random.key(0), jnp.zeros((2, 5, 32, 32, 3)))
      >>> y.shape
      (2, 16)
    """

    encoder: nn.Module
    """Maps images [N, H, W, C] to features."""
    pool: PoolTimes = "mean"
    """What becomes the features."""

    @property
    def batch_norm_groups(self) -> int | None:
        """Who shares batch statistics in the encoder."""
        groups: int | None = getattr(self.encoder, "batch_norm_groups", None)
        return groups

    @nn.compact
    def __call__(
        self,
        frames: jax.Array,
        *,
        train: bool = False,
        axis_name: str | None = None,
        carry: Any = None,
    ) -> Any:
        """Maps videos [N, T, H, W, C], floats or uint8, to features [N, D], or [N, T, D] without
        pool; an image [N, H, W, C] is a video of one frame. In a stream, with a `carry` (which is
        nothing here), [N, T, D] and the carry.

        Raises:
          ValueError: for another rank.
        """
        if frames.ndim == 4:
            frames = frames[:, None]
        if frames.ndim != 5:
            raise ValueError(f"OnFrames takes videos [N, T, H, W, C]; got shape {frames.shape}")
        count, times = frames.shape[:2]
        images = to_float(frames.reshape(count * times, *frames.shape[2:]))
        rows = self.encoder(images, train=train, axis_name=axis_name)
        rows = rows.reshape(count, times, -1)
        return pool_times(rows, self.pool) if carry is None else (rows, ())


def pool_times(x: jax.Array, pool: PoolTimes) -> jax.Array:
    """[N, D] of [N, T, D]; as it is with "none"."""
    if pool == "none":
        return x
    if pool == "last":
        return x[:, -1]
    return x.mean(1) if pool == "mean" else x.max(1)
