"""Shuffled BatchNorm: rows change places between devices before an encoder and return after it."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl.similarity import gather_rows, row_numbers
from jaxcl.similarity.gather import axis_size

_MANY = 8  # partners among whom the rows of a group count as mixed


def norm_groups(encoder: nn.Module) -> int | None:
    """Groups of batch statistics that an encoder has on each device; None: it does not say."""
    groups: int | None = getattr(encoder, "batch_norm_groups", None)
    return groups


def shuffle_rows(
    key: jax.Array, rows: jax.Array, axis_name: str | None = None, *, groups: int | None = None
) -> jax.Array:
    """Permutes the rows of the global batch (He et al., 2020, section 3.3).

    Every group of batch statistics draws the order of its rows and deals them out in equal shares,
    to all groups or to as many as divide its rows. So a device sends and receives as many rows as
    it has, by one all-to-all, however many devices there are. Where rows do not divide among at
    least 8 groups (or all), every device gathers all rows and takes those that a permutation of the
    whole batch, as in the paper, gives it.

    Which row goes where hangs on the key, the global batch size and the number of groups in all, so
    one device with g groups sees the same groups as g devices. No gradient passes.

    Args:
      key: the same on every device.
      rows: [N, ...] this device's rows.
      axis_name: mapped axis of the devices.
      groups: groups of batch statistics on each device; None: one.

    Returns:
      [N, ...] this device's part of the permuted global batch.
    """
    rows, groups = jax.lax.stop_gradient(rows), groups or 1
    partners = _partners(len(rows), groups, axis_size(axis_name))
    if partners is None:
        return _taken(rows, _whole_order(key, rows, axis_name), axis_name)
    dealt = _by_group(rows, _own_orders(key, len(rows), groups, axis_name))
    return _exchange(dealt, groups, partners, axis_name)


def unshuffle_rows(
    key: jax.Array, rows: jax.Array, axis_name: str | None = None, *, groups: int | None = None
) -> jax.Array:
    """Undoes `shuffle_rows` with the same key and groups."""
    rows, groups = jax.lax.stop_gradient(rows), groups or 1
    partners = _partners(len(rows), groups, axis_size(axis_name))
    if partners is None:
        return _taken(rows, jnp.argsort(_whole_order(key, rows, axis_name)), axis_name)
    orders = jnp.argsort(_own_orders(key, len(rows), groups, axis_name), axis=1)
    return _by_group(_exchange(rows, groups, partners, axis_name), orders)


def _partners(count: int, groups: int, devices: int) -> int | None:
    """Among how many groups each deals out its rows; None: they do not divide among enough."""
    total = groups * devices
    if count % groups:
        return None
    partners = math.gcd(count // groups, total)
    lies_well = partners % groups == 0 or groups % partners == 0
    return partners if lies_well and (partners == total or partners >= _MANY) else None


def _own_orders(key: jax.Array, count: int, groups: int, axis_name: str | None) -> jax.Array:
    """[groups, rows of a group], a permutation for each of this device's groups."""
    numbers = row_numbers(groups, axis_name)
    return jax.vmap(
        lambda number: jax.random.permutation(jax.random.fold_in(key, number), count // groups)
    )(numbers)


def _by_group(rows: jax.Array, orders: jax.Array) -> jax.Array:
    first = jnp.arange(len(orders))[:, None] * orders.shape[1]
    return rows[(first + orders).reshape(-1)]


def _exchange(rows: jax.Array, groups: int, partners: int, axis_name: str | None) -> jax.Array:
    """Piece i of the rows of group j becomes piece j of group i, in circles of `partners` groups.

    Done twice, all is as it was.
    """
    rest, piece = rows.shape[1:], len(rows) // groups // partners
    if groups % partners == 0:  # circles lie within a device
        blocks = rows.reshape(groups // partners, partners, partners, piece, *rest)
        return blocks.swapaxes(1, 2).reshape(rows.shape)
    devices = partners // groups
    blocks = rows.reshape(groups, devices, groups, piece, *rest)
    blocks = blocks.swapaxes(0, 1)  # [to device, from group, to group, ...]
    total = axis_size(axis_name)
    circles = [[*range(first, first + devices)] for first in range(0, total, devices)]
    blocks = jax.lax.all_to_all(
        blocks,
        axis_name,
        split_axis=0,
        concat_axis=0,
        tiled=True,
        axis_index_groups=circles if devices < total else None,
    )
    return jnp.moveaxis(blocks, 2, 0).reshape(rows.shape)  # [to group, from device, from group]


def _whole_order(key: jax.Array, rows: jax.Array, axis_name: str | None) -> jax.Array:
    return jax.random.permutation(key, len(rows) * axis_size(axis_name))


def _taken(rows: jax.Array, order: jax.Array, axis_name: str | None) -> jax.Array:
    everything = gather_rows(rows, axis_name)
    return everything[order[row_numbers(len(rows), axis_name)]]
