"""Batch normalization over all devices, over one device, or over groups of one device's batch."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl.encoders.convolution import once

_FEW = 64
"""Values of a channel up to which batch statistics are taken in two passes."""


class BatchNorm(nn.Module):
    """Batch normalization (Ioffe & Szegedy, 2015) with a choice of who shares statistics.

    Numerics follow PyTorch's: epsilon 1e-5, running statistics that keep 0.9 of their old value, an
    unbiased running variance. Statistics are computed in float32 whatever the input's type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> x = jnp.arange(8.0).reshape(4, 2)
      >>> y, _ = BatchNorm().init_with_output(jax.random.key(0), x, train=True)
      >>> [round(float(v), 4) for v in y[:, 0]]
      [-1.3416, -0.4472, 0.4472, 1.3416]
    """

    groups: int | None = None
    """None: the global batch, on all devices, shares statistics. An integer: each device's batch is
    cut into that many consecutive groups with statistics of their own (1: the device's batch), as
    MoCo wants it."""
    momentum: float = 0.9
    """Share of the old running statistics that an update keeps (PyTorch's 0.1 is 0.9 here)."""
    epsilon: float = 1e-5
    """Added to the variance."""
    affine: bool = True
    """Learn a scale and a bias."""
    zero_init_scale: bool = False
    """Start the scale at 0, so that a residual branch starts as nothing."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the output."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, axis_name: str | None = None) -> jax.Array:
        """Normalizes `x`.

        Args:
          x: [N, ..., C].
          train: normalize by the batch's statistics and update the running ones; else use the
            running ones.
          axis_name: mapped axis of the devices. Normalization crosses it where `groups` is None;
            the running statistics are averaged over it always, so that every device holds the same.

        Returns:
          [N, ..., C] of type `dtype`.

        Raises:
          ValueError: if `groups` does not divide N.
        """
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        initializing = self.is_initializing()
        if train:
            mean, var, count = self._batch_statistics(
                x, running_mean.value, None if initializing else axis_name
            )
            if not initializing:
                self._update_running(running_mean, running_var, mean, var, count, axis_name)
        else:
            mean, var = running_mean.value, running_var.value

        multiplier = jax.lax.rsqrt(var + self.epsilon)
        offset = -mean * multiplier
        if self.affine:
            start = nn.initializers.zeros if self.zero_init_scale else nn.initializers.ones
            scale = self.param("scale", start, (channels,), jnp.float32)
            bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
            multiplier, offset = multiplier * scale, offset * scale + bias
        return _scale_and_shift(x, multiplier, offset).astype(self.dtype)

    def _batch_statistics(
        self, x: jax.Array, near: jax.Array, axis_name: str | None
    ) -> tuple[jax.Array, jax.Array, int]:
        """Mean and biased variance, [C] or [groups, C], and how many values each rests on."""
        if self.groups is not None:
            if x.shape[0] % self.groups:
                raise ValueError(
                    f"BatchNorm: {self.groups} groups do not divide a device's batch of "
                    f"{x.shape[0]}; choose a divisor, or groups=None for the whole batch"
                )
            x = x.reshape(self.groups, x.shape[0] // self.groups, *x.shape[1:])
        axes = tuple(range(0 if self.groups is None else 1, x.ndim - 1))
        count = x.size // (x.shape[-1] * (self.groups or 1))
        crosses = self.groups is None and axis_name is not None
        # Both moments in one pass over x and one exchange. E[d^2] - E[d]^2 cancels where the mean
        # is large beside the deviation: so d is from the running mean, which is soon near, or, as
        # that of a few values may be anywhere and costs nothing to see first, from their own.
        x = x.astype(jnp.float32)
        if count <= _FEW and not crosses:
            near = jax.lax.stop_gradient(x.mean(axes, keepdims=True))
        sums = jnp.stack([_sums(x, axes), _sums(jnp.square(x - near), axes)])
        moments = sums / count
        if crosses:
            moments = jax.lax.pmean(moments, axis_name)
            count *= jax.lax.axis_size(axis_name)
        mean, square = moments
        offset = mean - near.reshape(mean.shape if near.ndim > 1 else near.shape)
        return mean, jnp.maximum(square - jnp.square(offset), 0), count

    def _update_running(
        self,
        running_mean: nn.Variable,
        running_var: nn.Variable,
        mean: jax.Array,
        var: jax.Array,
        count: int,
        axis_name: str | None,
    ) -> None:
        var = var * (count / max(count - 1, 1))
        if self.groups is not None:
            mean, var = mean.mean(0), var.mean(0)
            if axis_name is not None:
                mean, var = jax.lax.pmean((mean, var), axis_name)
        keep = self.momentum
        running_mean.value = keep * running_mean.value + (1 - keep) * jax.lax.stop_gradient(mean)
        running_var.value = keep * running_var.value + (1 - keep) * jax.lax.stop_gradient(var)


def _scale_and_shift(x: jax.Array, multiplier: jax.Array, offset: jax.Array) -> jax.Array:
    """x * multiplier + offset in float32, with one [C] for all rows or [groups, C] for consecutive
    groups of them."""
    if multiplier.ndim == 1:
        return x * _spread(multiplier, x.shape, 1) + _spread(offset, x.shape, 1)
    groups, channels = multiplier.shape
    grouped = x.reshape(groups, x.shape[0] // groups, *x.shape[1:])

    def of_groups(values: jax.Array) -> jax.Array:
        aligned = values.reshape(groups, *(1,) * (grouped.ndim - 2), channels)
        return _spread(aligned, grouped.shape, 2)

    return (grouped * of_groups(multiplier) + of_groups(offset)).reshape(x.shape)


def _sums(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Sums over rows and places, first down the columns of images: on CPU a short sum of long rows
    is several times as fast as one long sum for each channel."""
    rows, *places = axes
    if not places:
        return x.sum(rows)
    # `once` keeps the compiler from making one sum of the two again.
    return once(x.sum(places[0], keepdims=True)).sum(axes)


def _spread(values: jax.Array, shape: tuple[int, ...], column: int) -> jax.Array:
    """Broadcasts to `shape`, but for the columns, so that gradients are summed as `_sums` sums."""
    if column >= len(shape) - 1:  # rows without places
        return values
    return once(jnp.broadcast_to(values, (*shape[:column], 1, *shape[column + 1 :])))
