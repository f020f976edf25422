"""Shuffled BatchNorm: rows change places between devices before an encoder and return after it."""

import jax
import jax.numpy as jnp

from jaxcl.similarity import gather_rows, row_numbers


def shuffle_rows(key: jax.Array, rows: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Permutes the rows of the global batch (He et al., 2020, section 3.3).

    The permutation hangs on the key and the global batch size alone, so one device with g groups of
    BatchNorm sees the same groups as g devices. No gradient passes.

    Args:
      key: the same on every device.
      rows: [N, ...] this device's rows.
      axis_name: mapped axis of the devices.

    Returns:
      [N, ...] this device's part of the permuted global batch.
    """
    everything = gather_rows(jax.lax.stop_gradient(rows), axis_name)
    order = jax.random.permutation(key, everything.shape[0])
    return everything[order[row_numbers(rows.shape[0], axis_name)]]


def unshuffle_rows(key: jax.Array, rows: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Undoes `shuffle_rows` with the same key."""
    everything = gather_rows(jax.lax.stop_gradient(rows), axis_name)
    order = jnp.argsort(jax.random.permutation(key, everything.shape[0]))
    return everything[order[row_numbers(rows.shape[0], axis_name)]]
