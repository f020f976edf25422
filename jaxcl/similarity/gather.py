"""Rows across devices: gathered with exact gradients, and each with its global number."""

import jax
import jax.numpy as jnp

AxisName = str | tuple[str, ...]
"""The name of a mapped axis (of pmap, shard_map or vmap), or several that are taken as one."""


def axis_size(axis_name: AxisName | None) -> int:
    """Number of devices on a mapped axis; 1 for None.

    Args:
      axis_name: the axis.

    Returns:
      Its size, a Python int.

    Raises:
      ValueError: if no surrounding pmap, shard_map or vmap maps that name, or a shard_map does that
        sums gradients by itself (`check_vma=True`, its default): by `pmean` of those they would be
        too large, once for every device.
    """
    if axis_name is None:
        return 1
    try:
        size = int(jax.lax.axis_size(axis_name))
        kind = getattr(jax.typeof(jax.lax.axis_index(axis_name)), "manual_axis_type", None)
        if getattr(kind, "varying", None):
            raise ValueError(
                "jax.shard_map sums the gradients of replicated parameters by itself unless it is "
                "told otherwise, and jaxcl's functions leave that to you: call "
                "jax.shard_map(..., check_vma=False), and jax.lax.pmean the gradients"
            )
        return size
    except NameError:
        raise ValueError(
            f"axis_name is {axis_name!r}, but no axis of that name is mapped: call in "
            "jax.pmap or jax.vmap with that axis_name, or jax.shard_map over a mesh with that "
            "axis; on one device leave it None"
        ) from None


def gather_rows(rows: jax.Array, axis_name: AxisName | None) -> jax.Array:
    """All devices' rows, device after device.

    Gradients are exact: the transpose of the gather sums, for every row, what the losses of all
    devices have to say about it. So `pmean` over devices of the gradient of each device's mean loss
    equals the gradient of the mean loss of the whole batch on one device.

    Args:
      rows: [N, ...] this device's rows.
      axis_name: the mapped axis, or None for rows as they are.

    Returns:
      [devices * N, ...].

    Raises:
      ValueError: if `axis_name` is not mapped.
    """
    if axis_size(axis_name) == 1:
        return rows
    return jax.lax.all_gather(rows, axis_name, axis=0, tiled=True)


def row_numbers(count: int, axis_name: AxisName | None) -> jax.Array:
    """The global numbers of this device's rows, by which a row is told from every other.

    Args:
      count: rows on each device.
      axis_name: the mapped axis, or None.

    Returns:
      [count] int32. Gathered with `gather_rows` beside the rows themselves, they say whose row is
      whose without anyone assuming an order.

    Raises:
      ValueError: if `axis_name` is not mapped.
    """
    first = 0 if axis_size(axis_name) == 1 else jax.lax.axis_index(axis_name) * count
    return first + jnp.arange(count, dtype=jnp.int32)
