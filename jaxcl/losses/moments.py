"""Statistics over all rows that count, on all devices; each device gets the same, with exact
gradients.

The transpose of a sum over devices sums what the losses of all devices have to say about each
device's share. So `pmean` over devices of the gradient of a loss formed of these statistics equals
the gradient of the loss of the whole batch on one device, whether every device returns the whole
batch's loss or the terms of its own rows.
"""

import jax
import jax.numpy as jnp

from jaxcl.similarity import AxisName, axis_size


def sum_over_devices(local: jax.Array, axis_name: AxisName | None) -> jax.Array:
    """The sum of what the devices hold.

    Args:
      local: any shape, this device's share.
      axis_name: the mapped axis, or None for one device.

    Returns:
      The same shape.

    Raises:
      ValueError: if `axis_name` is not mapped.
    """
    return local if axis_size(axis_name) == 1 else jax.lax.psum(local, axis_name)


def count_rows(rows: int, where: jax.Array | None, axis_name: AxisName | None) -> jax.Array:
    """How many rows count, on all devices.

    Args:
      rows: of each device.
      where: [rows] bool, rows that count, or None: all.
      axis_name: the mapped axis, or None.

    Returns:
      Scalar, float32.

    Raises:
      ValueError: if `axis_name` is not mapped.
    """
    local = jnp.float32(rows) if where is None else jnp.sum(where, dtype=jnp.float32)
    return sum_over_devices(local, axis_name)


def center_rows(
    rows: jax.Array, where: jax.Array | None, axis_name: AxisName | None
) -> tuple[jax.Array, jax.Array]:
    """Subtracts the mean of the rows that count.

    Args:
      rows: [N, D] float32, zero where `where` is False.
      where: [N] bool, rows that count, or None: all.
      axis_name: the mapped axis whose rows enter the mean, or None.

    Returns:
      [N, D] rows less the mean, zero where `where` is False, and how many rows count, a scalar.

    Raises:
      ValueError: if `axis_name` is not mapped.
    """
    count = count_rows(len(rows), where, axis_name)
    mean = sum_over_devices(jnp.sum(rows, axis=0), axis_name) / jnp.maximum(count, 1)
    centered = rows - mean
    return (centered if where is None else jnp.where(where[:, None], centered, 0)), count


def second_moment(left: jax.Array, right: jax.Array, axis_name: AxisName | None) -> jax.Array:
    """The sum over rows of the outer product of the two arrays' rows.

    Args:
      left: [N, D] float32.
      right: [N, E] float32.
      axis_name: the mapped axis whose rows enter the sum, or None.

    Returns:
      [D, E].

    Raises:
      ValueError: if `axis_name` is not mapped.
    """
    local = jnp.einsum("nd,ne->de", left, right, precision=jax.lax.Precision.HIGHEST)
    return sum_over_devices(local, axis_name)


def square_off_diagonal(matrix: jax.Array) -> jax.Array:
    """The sum of squares of a matrix [D, D] without its diagonal, a scalar."""
    on_diagonal = jnp.eye(len(matrix), dtype=bool)
    return jnp.sum(jnp.square(jnp.where(on_diagonal, 0, matrix)))
