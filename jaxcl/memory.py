"""Memories of embeddings: a queue (MoCo, NNCLR), and a bank with a row for every example.

Both are explicit state: arrays in, arrays out, and no gradient into what is stored. Choosing from a
memory (`draw`, `nearest`, `hardest`) works alike on both.
"""

import dataclasses
from typing import Any, NamedTuple, TypeVar

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
    check_embeddings,
    check_integers,
    check_scalar,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Queue:
    """The last K embeddings enqueued, as a ring, and what they are of where that is kept.

    Attributes:
      embeddings: [K, D].
      cursor: int32 scalar, the row that is written next: the oldest.
      labels: [K] int32, the class of each row, -1 of those that were never written; or None.
      ids: [K] int32, the example of each row, likewise; or None.
    """

    embeddings: jax.Array
    cursor: jax.Array
    labels: jax.Array | None = None
    ids: jax.Array | None = None


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


AnyBank = TypeVar("AnyBank", Bank, ShardedBank)


class Chosen(NamedTuple):
    """Rows chosen from a memory.

    Attributes:
      embeddings: [n, D] or [N, k, D], as they are stored.
      indices: [n] or [N, k] int32, their rows in the memory.
    """

    embeddings: jax.Array
    indices: jax.Array


def init_queue(
    key: jax.Array,
    size: int,
    dim: int,
    dtype: jnp.dtype = jnp.float32,
    *,
    labels: bool = False,
    ids: bool = False,
) -> Queue:
    """A queue of random unit rows, as MoCo's code starts from (He et al., 2020).

    Args:
      key: PRNG key.
      size: rows K, >= 1.
      dim: width D, >= 1.
      dtype: of the stored rows; what is enqueued is converted to it.
      labels: keep the class of each row, for supervised losses.
      ids: keep the example of each row, by which its own old rows are told from negatives.

    Returns:
      The queue, its cursor at row 0; labels and ids are -1.

    Raises:
      ValueError: if size or dim is below 1.

    Example:
      >>> import jax
      >>> init_queue(jax.random.key(0), 4096, 128).embeddings.shape
      (4096, 128)
    """
    _check_at_least_one(size=size, dim=dim)
    rows = l2_normalize(jax.random.normal(key, (size, dim)))
    unknown = jnp.full(size, -1, jnp.int32)
    return Queue(
        rows.astype(dtype),
        jnp.zeros((), jnp.int32),
        labels=unknown if labels else None,
        ids=jnp.copy(unknown) if ids else None,  # a buffer of its own, so that both can be donated
    )


def enqueue(
    queue: Queue,
    keys: jax.Array,
    *,
    labels: jax.Array | None = None,
    ids: jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> Queue:
    """Writes rows over the oldest ones, first in, first out.

    Rows are stored as they come: normalize them before if they are to be unit rows.

    Args:
      queue: the queue.
      keys: [B, D], any B: one that does not divide the queue wraps round, of one larger than the
        queue the last K rows stay.
      labels: [B] integers, the rows' classes, where the queue keeps them.
      ids: [B] integers, the rows' examples, where the queue keeps them.
      axis_name: mapped axis; every device enqueues the rows of all devices, in the same order, so
        that queues that were equal stay equal.

    Returns:
      The new queue. Under jit with the old one donated it is written in place.

    Raises:
      ValueError: if widths or lengths differ, labels or ids are missing or not kept, or the axis
        name is not mapped.
      TypeError: if keys are not floating point, or labels or ids not integers.

    Example:
      >>> import jax.numpy as jnp
      >>> queue = Queue(jnp.zeros((3, 1)), jnp.int32(0))
      >>> queue = enqueue(queue, jnp.array([[1.0], [2.0], [3.0], [4.0]]))
      >>> queue.embeddings[:, 0].tolist(), int(queue.cursor)
      ([4.0, 2.0, 3.0], 1)
    """
    size, dim = queue.embeddings.shape
    sizes = {"D": dim}
    keys = check_embeddings("keys", keys, "B D", sizes)
    new: dict[str, jax.Array | None] = {"embeddings": jax.lax.stop_gradient(keys)}
    for name, values in (("labels", labels), ("ids", ids)):
        if (getattr(queue, name) is None) != (values is None):
            raise ValueError(
                f"{name} came, but the queue keeps none: start it with init_queue(..., {name}=True)"
                if values is not None
                else f"{name} are missing: the queue keeps the {name} of its rows"
            )
        new[name] = None if values is None else check_integers(name, values, "B", sizes)
    count = len(keys) * axis_size(axis_name)
    skipped = max(count - size, 0)  # overwritten within this very batch
    rows = (queue.cursor + jnp.arange(skipped, count, dtype=jnp.int32)) % size

    written: dict[str, Any] = {"cursor": (queue.cursor + count) % size}
    for name, values in new.items():
        if values is not None:
            old = getattr(queue, name)
            values = gather_rows(values, axis_name)[skipped:].astype(old.dtype)
            written[name] = old.at[rows].set(values, unique_indices=True)
    return dataclasses.replace(queue, **written)


def age(queue: Queue) -> jax.Array:
    """How many rows were enqueued after each row: 0 for the newest, K - 1 for the oldest.

    Divided by the rows of a batch, the steps that the encoder has moved on since.

    Args:
      queue: the queue.

    Returns:
      [K] int32. Rows that were never written count as written in their order before all others.

    Example:
      >>> import jax.numpy as jnp
      >>> age(Queue(jnp.zeros((4, 1)), jnp.int32(2))).tolist()
      [1, 0, 3, 2]
    """
    size = len(queue.embeddings)
    return (queue.cursor - 1 - jnp.arange(size, dtype=jnp.int32)) % size


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
    _check_at_least_one(size=size, dim=dim)
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
    _check_at_least_one(size=size, dim=dim)
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
      ValueError: if indices are not of rank 1, the axis name is not mapped, or a sharded bank comes
        without it.
      TypeError: if they are not integers.

    Example:
      >>> import jax.numpy as jnp
      >>> lookup(Bank(jnp.eye(3)), jnp.array([2, 0])).tolist()
      [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    indices = check_integers("indices", indices, "B", {})
    axis_size(axis_name)  # a name that is not mapped is an error whatever follows
    if isinstance(bank, Bank):
        rows = _outside_is_size(indices, len(bank.embeddings))
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
      ValueError: if shapes disagree, momentum is outside [0, 1], the axis name is not mapped, or a
        sharded bank comes without it.
      TypeError: if embeddings are not floating point or indices not integers.

    Example:
      >>> import jax.numpy as jnp
      >>> bank = refresh(Bank(jnp.eye(2)), jnp.array([0]), jnp.array([[0.0, 2.0]]), momentum=0.0)
      >>> bank.embeddings.tolist()
      [[0.0, 1.0], [0.0, 1.0]]
    """
    size, dim = bank.embeddings.shape
    sizes = {"D": dim}
    indices = check_integers("indices", indices, "B", sizes)
    embeddings = check_embeddings("embeddings", embeddings, "B D", sizes)
    check_scalar("momentum", momentum, at_least=0, at_most=1)
    everyones = gather_rows(indices, axis_name)
    if isinstance(bank, ShardedBank):
        rows = _local_rows(bank, everyones, _check_axis(axis_name))
    else:
        rows = _outside_is_size(everyones, size)
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


def draw(key: jax.Array, memory: Queue | Bank, n: int) -> Chosen:
    """Rows drawn at random, each independently of the others: a row may come twice.

    With replacement, as instance discrimination draws its noise, the cost does not grow with the
    memory, and n may exceed its size.

    Args:
      key: PRNG key.
      memory: a queue or a bank.
      n: rows to draw, >= 1.

    Returns:
      embeddings [n, D] and indices [n].

    Raises:
      ValueError: if n is below 1.

    Example:
      >>> import jax
      >>> draw(jax.random.key(0), init_bank(jax.random.key(1), 100, 8), 5).embeddings.shape
      (5, 8)
    """
    _check_at_least_one(n=n)
    indices = jax.random.randint(key, (n,), 0, len(memory.embeddings), dtype=jnp.int32)
    return Chosen(jax.lax.stop_gradient(memory.embeddings[indices]), indices)


def nearest(memory: Queue | Bank, queries: jax.Array, k: int) -> Chosen:
    """The k rows most alike each query, by cosine: NNCLR's positives (Dwibedi et al., 2021).

    No gradient flows, neither into the queries nor through the choice. All [N, K] similarities are
    held.

    Args:
      memory: a queue or a bank.
      queries: [N, D] embeddings.
      k: rows for each query, 1 to the memory's size.

    Returns:
      embeddings [N, k, D] and indices [N, k], most alike first; of equals the lower row first.

    Raises:
      ValueError: if widths differ, or k is below 1 or larger than the memory.
      TypeError: if queries are not floating point.

    Example:
      >>> import jax.numpy as jnp
      >>> nearest(Bank(jnp.eye(3)), jnp.array([[0.1, 2.0, 0.2]]), 2).indices.tolist()
      [[1, 2]]
    """
    return hardest(memory, queries, k)


def hardest(
    memory: Queue | Bank, queries: jax.Array, k: int, *, exclude: jax.Array | None = None
) -> Chosen:
    """The k negatives most alike each query, by cosine, some rows excepted.

    No gradient flows, neither into the queries nor through the choice. All [N, K] similarities are
    held.

    Args:
      memory: a queue or a bank.
      queries: [N, D] embeddings.
      k: rows for each query.
      exclude: [N] or [N, E] rows never chosen for that query, its own in a bank say; numbers
        outside the memory, negative ones among them, exclude nothing.

    Returns:
      embeddings [N, k, D] and indices [N, k], most alike first; of equals the lower row first.

    Raises:
      ValueError: if shapes disagree, or k is below 1 or more than the memory has left beside E
        exclusions.
      TypeError: if queries are not floating point or `exclude` not integers.

    Example:
      >>> import jax.numpy as jnp
      >>> query = jnp.array([[0.1, 2.0, 0.2]])
      >>> hardest(Bank(jnp.eye(3)), query, 1, exclude=jnp.array([1])).indices.tolist()
      [[2]]
    """
    size, dim = memory.embeddings.shape
    sizes = {"D": dim}
    queries = check_embeddings("queries", queries, "N D", sizes)
    if exclude is not None:
        axes = "N" if jnp.ndim(exclude) == 1 else "N E"
        exclude = check_integers("exclude", exclude, axes, sizes).reshape(len(queries), -1)
    left = size - (0 if exclude is None else exclude.shape[1])
    if not 1 <= k <= left:
        raise ValueError(
            f"k is {k}, expected 1 to {left}: the memory has {size} rows"
            + ("" if exclude is None else f", of which {size - left} may be excluded for a query")
        )

    rows, queries = jax.lax.stop_gradient((memory.embeddings, queries))
    similarities = jnp.einsum(
        "nd,kd->nk", l2_normalize(queries), l2_normalize(rows), precision=jax.lax.Precision.HIGHEST
    )
    if exclude is not None:
        similarities = similarities.at[
            jnp.arange(len(queries))[:, None], _outside_is_size(exclude, size)
        ].set(-jnp.inf, mode="drop")
    indices = jax.lax.top_k(similarities, k)[1]
    return Chosen(rows[indices], indices)


def _outside_is_size(indices: jax.Array, size: int) -> jax.Array:
    """Row numbers, those outside [0, size) as `size`: jax counts negative ones from the end."""
    return jnp.where((indices >= 0) & (indices < size), indices, size).astype(jnp.int32)


def _local_rows(bank: ShardedBank, indices: jax.Array, axis_name: AxisName) -> jax.Array:
    """Rows of this device's part for example numbers; those it does not hold as their count."""
    rows = len(bank.embeddings)
    is_inside = (indices >= 0) & (indices < bank.size)
    return _outside_is_size(
        jnp.where(is_inside, indices - row_numbers(rows, axis_name)[0], -1), rows
    )


def _check_axis(axis_name: AxisName | None) -> AxisName:
    if axis_name is None:
        raise ValueError("axis_name is None: a ShardedBank is spread over the devices of an axis")
    return axis_name


def _check_at_least_one(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
