"""Choosing rows from a memory: at random, the nearest, the hardest."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcl.memory.bank import Bank, ShardedBank, on_every_device, outside_is_size
from jaxcl.memory.queue import Queue
from jaxcl.similarity import AxisName, axis_size, l2_normalize
from jaxcl.similarity.checks import check_at_least_one, check_embeddings, check_integers


class Chosen(NamedTuple):
    """Rows chosen from a memory.

    Attributes:
      embeddings: [n, D] or [N, k, D], as they are stored.
      indices: [n] or [N, k] int32, their rows in the memory.
    """

    embeddings: jax.Array
    indices: jax.Array


def draw(
    key: jax.Array,
    memory: Queue | Bank | ShardedBank,
    n: int,
    *,
    axis_name: AxisName | None = None,
) -> Chosen:
    """Rows drawn at random, each independently of the others: a row may come twice.

    With replacement, as instance discrimination draws its noise, the cost does not grow with the
    memory, and n may exceed its size.

    Args:
      key: PRNG key; of a sharded bank the same on every device.
      memory: a queue or a bank.
      n: rows to draw, >= 1.
      axis_name: of a sharded bank, the mapped axis that it is spread over. Every device gets all n
        rows, the very rows that a bank on one device would give.

    Returns:
      embeddings [n, D] and indices [n].

    Raises:
      ValueError: if n is below 1, the axis is not mapped, or a sharded bank comes without it.

    Example:
      >>> import jax
      >>> from jaxcl.memory import init_bank
      >>> draw(jax.random.key(0), init_bank(jax.random.key(1), 100, 8), 5).embeddings.shape
      (5, 8)
    """
    check_at_least_one(n=n)
    axis_size(axis_name)  # a name that is not mapped is an error whatever follows
    if isinstance(memory, ShardedBank):
        indices = jax.random.randint(key, (n,), 0, memory.size, dtype=jnp.int32)
        return Chosen(jax.lax.stop_gradient(on_every_device(memory, indices, axis_name)), indices)
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
            jnp.arange(len(queries))[:, None], outside_is_size(exclude, size)
        ].set(-jnp.inf, mode="drop")
    indices = jax.lax.top_k(similarities, k)[1]
    return Chosen(rows[indices], indices)
