"""Rows of two arrays that belong together, one by one."""

import jax
import jax.numpy as jnp

from jaxcl.similarity import prepare
from jaxcl.similarity.checks import check_embeddings, check_where


def prepare_matched(
    rows: dict[str, jax.Array], where: jax.Array | None, similarity: str
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Two arrays checked and in float32, rows that do not count zero.

    Args:
      rows: both, [N, D], by their names; row i of one belongs to row i of the other.
      where: [N] bool, rows that count, or None: all.
      similarity: "cosine" normalizes rows, "dot" leaves them.

    Returns:
      Both arrays, and `where`, checked.

    Raises:
      ValueError: if shapes disagree or the similarity is unknown.
      TypeError: if embeddings are not floating point or `where` is not bool.
    """
    sizes: dict[str, int] = {}
    checked = [check_embeddings(name, array, "N D", sizes) for name, array in rows.items()]
    where = check_where(where, sizes)
    first, second = (prepare(array, similarity, where) for array in checked)
    return first, second, where


def only_counted(losses: jax.Array, where: jax.Array | None) -> jax.Array:
    """Losses [N], 0 where a row does not count."""
    return losses if where is None else jnp.where(where, losses, 0)
