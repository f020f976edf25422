"""The queue: the last embeddings, first in, first out (MoCo, NNCLR)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxcl.similarity import AxisName, axis_size, gather_rows, l2_normalize
from jaxcl.similarity.checks import check_at_least_one, check_embeddings, check_integers

_MOST_ROWS = 2**31 - 1


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
    check_at_least_one(size=size, dim=dim)
    if size > _MOST_ROWS:
        raise ValueError(f"size is {size}, but rows are counted in int32: at most {_MOST_ROWS}")
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
