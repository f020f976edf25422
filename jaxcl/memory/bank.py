"""The bank: an embedding for every example, on every device or spread over all of them."""

import dataclasses
from typing import TypeVar

import jax
import jax.numpy as jnp

from jaxcl.similarity import (
    AxisName,
    at_least_float32,
    axis_size,
    gather_rows,
    l2_normalize,
    row_numbers,
)
from jaxcl.similarity.checks import (
    Scalar,
    check_at_least_one,
    check_embeddings,
    check_integers,
    check_known_rows,
    check_scalar,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bank:
    """One embedding for every example of a data set.

    Attributes:
      embeddings: [size, D] unit rows; row i belongs to example i.
    """

    embeddings: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ShardedBank:
    """A bank of which each device of a mapped axis holds a part.

    Device d holds the examples from d * rows on, rows = ceil(size / devices); rows past the last
    example are never read or written. 14 million x 128 are 7.2 GB, on 256 devices 28 MB each.

    Attributes:
      embeddings: [rows, D] this device's unit rows.
      size: examples of the data set.
    """

    embeddings: jax.Array
    size: int = dataclasses.field(metadata={"static": True})


AnyBank = TypeVar("AnyBank", bound=Bank | ShardedBank)


def init_bank(key: jax.Array, size: int, dim: int) -> Bank:
    """A bank of random rows: uniform within +-1/sqrt(dim / 3), then normalized (Wu et al., 2018).

    Their code leaves the rows unnormalized; their expected squared length is 1.

    Args:
      key: PRNG key.
      size: examples of the data set, >= 1.
      dim: width D, >= 1.

    Returns:
      The bank, in float32.

    Raises:
      ValueError: if size or dim is below 1.

    Example:
      >>> import jax
      >>> init_bank(jax.random.key(0), 50_000, 128).embeddings.shape
      (50000, 128)
    """
    check_at_least_one(size=size, dim=dim)
    return Bank(_random_rows(key, jnp.arange(size), dim))


def init_sharded_bank(key: jax.Array, size: int, dim: int, *, axis_name: AxisName) -> ShardedBank:
    """This device's part of the very bank that `init_bank` makes of the same key.

    Args:
      key: PRNG key, the same on every device.
      size: examples of the data set, >= 1.
      dim: width D, >= 1.
      axis_name: mapped axis over whose devices the bank is spread.

    Returns:
      The part, [ceil(size / devices), dim] in float32.

    Raises:
      ValueError: if size or dim is below 1, or the axis name is not mapped.

    Example:
      >>> import jax
      >>> make = lambda _: init_sharded_bank(jax.random.key(0), 10, 8, axis_name="d")
      >>> jax.vmap(make, axis_name="d")(jax.numpy.arange(4)).embeddings.shape
      (4, 3, 8)
    """
    check_at_least_one(size=size, dim=dim)
    rows = -(-size // axis_size(axis_name))
    return ShardedBank(_random_rows(key, row_numbers(rows, axis_name), dim), size)


def _random_rows(key: jax.Array, numbers: jax.Array, dim: int) -> jax.Array:
    """Unit rows, each drawn by its number, whoever holds it."""
    bound = (dim / 3) ** -0.5

    def draw_row(number: jax.Array) -> jax.Array:
        own = jax.random.fold_in(key, number)
        return jax.random.uniform(own, (dim,), minval=-bound, maxval=bound)

    return l2_normalize(jax.vmap(draw_row)(numbers))


def lookup(
    bank: Bank | ShardedBank, indices: jax.Array, *, axis_name: AxisName | None = None
) -> jax.Array:
    """The rows of some examples.

    Args:
      bank: the bank.
      indices: [B] example numbers, this device's.
      axis_name: of a sharded bank, the mapped axis that it is spread over. Each device gets the
        rows of its own indices; what crosses the devices is all devices' indices and rows.

    Returns:
      [B, D]. An index outside [0, size) gives a row of NaN: an error is seen, and a loss' `where`
      can mask a padded row.

    Raises:
      ValueError: if indices are not of rank 1 or, in NumPy and so known before anything is
        compiled, one is neither in [0, size) nor -1; if the axis name is not mapped, or a sharded
        bank comes without it.
      TypeError: if they are not integers.

    Example:
      >>> import jax.numpy as jnp
      >>> lookup(Bank(jnp.eye(3)), jnp.array([2, 0])).tolist()
      [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    check_known_rows("indices", indices, _size(bank))
    indices = check_integers("indices", indices, "B", {})
    axis_size(axis_name)  # a name that is not mapped is an error whatever follows
    if isinstance(bank, Bank):
        rows = outside_is_size(indices, len(bank.embeddings))
        return bank.embeddings.at[rows].get(mode="fill", fill_value=jnp.nan)
    axis_name = _check_axis(axis_name)
    # Each device finds the rows that it holds of those that all want; the sum over devices, of
    # which every device keeps its own, has each row once.
    rows = _local_rows(bank, gather_rows(indices, axis_name), axis_name)
    found = bank.embeddings.at[rows].get(mode="fill", fill_value=0)
    if axis_size(axis_name) > 1:
        found = jax.lax.psum_scatter(found, axis_name, tiled=True)
    is_inside = (indices >= 0) & (indices < bank.size)
    return jnp.where(is_inside[:, None], found, jnp.nan)


def refresh(
    bank: AnyBank,
    indices: jax.Array,
    embeddings: jax.Array,
    *,
    momentum: Scalar,
    axis_name: AxisName | None = None,
) -> AnyBank:
    """Mixes embeddings into their rows: normalize(momentum * old + (1 - momentum) * new).

    Wu et al. (2018) use 0.5 with unit rows: normalize the embeddings first, unless their lengths
    are to weigh.

    Args:
      bank: the bank.
      indices: [B] example numbers. Of an example that comes twice the last row counts, the others
        are ignored. Indices outside [0, size), -1 of a padded row say, change nothing.
      embeddings: [B, D], one row an index.
      momentum: share of the old row, 0 to 1; float or scalar array.
      axis_name: mapped axis; every device takes in the rows of all devices, in the same order, of a
        sharded bank those that it holds.

    Returns:
      The new bank. Under jit with the old one donated it is written in place.

    Raises:
      ValueError: if shapes disagree, momentum is outside [0, 1], indices known as `lookup`'s are
        outside, the axis name is not mapped, or a sharded bank comes without it.
      TypeError: if embeddings are not floating point or indices not integers.

    Example:
      >>> import jax.numpy as jnp
      >>> bank = refresh(Bank(jnp.eye(2)), jnp.array([0]), jnp.array([[0.0, 2.0]]), momentum=0.0)
      >>> bank.embeddings.tolist()
      [[0.0, 1.0], [0.0, 1.0]]
    """
    size, dim = bank.embeddings.shape
    sizes = {"D": dim}
    check_known_rows("indices", indices, _size(bank))
    indices = check_integers("indices", indices, "B", sizes)
    embeddings = check_embeddings("embeddings", embeddings, "B D", sizes)
    check_scalar("momentum", momentum, at_least=0, at_most=1)
    everyones = gather_rows(indices, axis_name)
    if isinstance(bank, ShardedBank):
        rows = _local_rows(bank, everyones, _check_axis(axis_name))
    else:
        rows = outside_is_size(everyones, size)
    embeddings = gather_rows(jax.lax.stop_gradient(embeddings), axis_name)

    # XLA leaves open which of several writes to one row stays. A stable sort puts an example's rows
    # side by side in their order; all but the last of them are sent outside, where writes are
    # dropped.
    order = jnp.argsort(rows, stable=True)
    rows, embeddings = rows[order], embeddings[order]
    is_last = jnp.append(rows[1:] != rows[:-1], True)
    old = bank.embeddings.at[rows].get(mode="clip")
    new = l2_normalize(momentum * old + (1 - momentum) * at_least_float32(embeddings))
    written = bank.embeddings.at[jnp.where(is_last, rows, size)].set(
        new.astype(bank.embeddings.dtype), mode="drop"
    )
    return dataclasses.replace(bank, embeddings=written)


def on_every_device(bank: ShardedBank, indices: jax.Array, axis_name: AxisName | None) -> jax.Array:
    """The rows [n, D] of known examples [n], the same on every device, to all of them."""
    axis_name = _check_axis(axis_name)
    found = bank.embeddings.at[_local_rows(bank, indices, axis_name)].get(mode="fill", fill_value=0)
    return jax.lax.psum(found, axis_name)


def _size(bank: Bank | ShardedBank) -> int:
    return bank.size if isinstance(bank, ShardedBank) else len(bank.embeddings)


def outside_is_size(indices: jax.Array, size: int) -> jax.Array:
    """Row numbers, those outside [0, size) as `size`: jax counts negative ones from the end."""
    return jnp.where((indices >= 0) & (indices < size), indices, size).astype(jnp.int32)


def _local_rows(bank: ShardedBank, indices: jax.Array, axis_name: AxisName) -> jax.Array:
    """Rows of this device's part for example numbers; those it does not hold as their count."""
    rows = len(bank.embeddings)
    is_inside = (indices >= 0) & (indices < bank.size)
    return outside_is_size(
        jnp.where(is_inside, indices - row_numbers(rows, axis_name)[0], -1), rows
    )


def _check_axis(axis_name: AxisName | None) -> AxisName:
    if axis_name is None:
        raise ValueError("axis_name is None: a ShardedBank is spread over the devices of an axis")
    return axis_name
