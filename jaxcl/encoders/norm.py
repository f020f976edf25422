"""Batch normalization over all devices, over one device, or over groups of one device's batch."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl.choices import Dtype, check_choices
from jaxcl.encoders.once import once

_FEW = 64
"""Values of a channel up to which batch statistics are taken in two passes."""
_UNROLLED = 16
"""Most rows that are summed at once."""


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
    dtype: Dtype = "float32"
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
        check_choices(self)
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
        """Mean and biased variance, [groups, C], and how many values each rests on."""
        if self.groups is not None and (self.groups < 1 or x.shape[0] % self.groups):
            raise ValueError(
                f"BatchNorm: {self.groups} groups do not divide a device's batch of "
                f"{x.shape[0]}; choose a divisor, or groups=None for the whole batch"
            )
        x = _folded(x.astype(jnp.float32), self.groups or 1)
        count = x.size // (x.shape[0] * x.shape[-1])
        crosses = self.groups is None and axis_name is not None
        # Both moments in one pass over x and one exchange. E[d^2] - E[d]^2 cancels where the mean
        # is large beside the deviation: so d is from the running mean, which is soon near, or, as
        # that of a few values may be anywhere and costs nothing to see first, from their own.
        near = near[None]
        if count <= _FEW and not crosses:
            near = jax.lax.stop_gradient(x.mean((1, 2, 3)))
        deviations = x - near[:, None, None, None]
        moments = jnp.stack([_sums(x), _sums(jnp.square(deviations))]) / count
        if crosses:
            moments = jax.lax.pmean(moments, axis_name)
            count *= jax.lax.axis_size(axis_name)
        mean, square = moments
        return mean, jnp.maximum(square - jnp.square(mean - near), 0), count

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
        mean, var = mean.mean(0), var.mean(0)
        if self.groups is not None and axis_name is not None:
            mean, var = jax.lax.pmean((mean, var), axis_name)
        keep = self.momentum
        running_mean.value = keep * running_mean.value + (1 - keep) * jax.lax.stop_gradient(mean)
        running_var.value = keep * running_var.value + (1 - keep) * jax.lax.stop_gradient(var)


def _scale_and_shift(x: jax.Array, multiplier: jax.Array, offset: jax.Array) -> jax.Array:
    """x * multiplier + offset in float32, with one [C] for all rows or [groups, C] for consecutive
    groups of them."""
    multiplier, offset = jnp.atleast_2d(multiplier), jnp.atleast_2d(offset)
    folded = _folded(x, len(multiplier))
    return (folded * _spread(multiplier, folded) + _spread(offset, folded)).reshape(x.shape)


def _folded(x: jax.Array, groups: int) -> jax.Array:
    """[N, ..., W, C] as [groups, rows, few rows, W, C], for `_sums`."""
    width = x.shape[-2] if x.ndim > 2 else 1
    rows = x.size // (groups * width * x.shape[-1])
    few = next((each for each in range(_UNROLLED, 1, -1) if rows % each == 0), 1)
    return x.reshape(groups, rows // few, few, width, x.shape[-1])


def _sums(folded: jax.Array) -> jax.Array:
    """[groups, C] sums, first of few rows: XLA's compiler for CPU takes one channel after another,
    but a sum that is short enough to be unrolled for several channels at once, 5 times as fast."""
    # `once` keeps the compiler from making one sum of the two again.
    return once(folded.sum(2)).sum((1, 2))


def _spread(values: jax.Array, folded: jax.Array) -> jax.Array:
    """[groups, C] values to multiply or add, so that gradients are summed as `_sums` sums."""
    groups, rows, _, width, channels = folded.shape
    values = values[:, None, None, None, :]
    return once(jnp.broadcast_to(values, (groups, rows, 1, width, channels)))
