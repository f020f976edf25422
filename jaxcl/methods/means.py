"""Means over what counts, on all devices."""

import jax
import jax.numpy as jnp


def mean_where(losses: jax.Array, where: jax.Array | None, axis_name: str | None) -> jax.Array:
    """This device's share of the mean over what counts on all devices, whose `pmean` is the mean.

    Args:
      losses: any shape, 0 where they do not count.
      where: the same, bool, or None: all count.
      axis_name: mapped axis of the devices.

    Returns:
      Scalar.
    """
    if where is None:
        return losses.mean()
    count = where.sum(dtype=jnp.float32)
    if axis_name is not None:
        count = jax.lax.pmean(count, axis_name)
    return losses.sum() / jnp.where(count > 0, count, 1)
