"""Losses over distances to one positive and to negatives."""

import jax
import jax.numpy as jnp

from jaxcl.losses.distances import distance_function
from jaxcl.losses.matched import only_counted
from jaxcl.similarity.checks import Scalar, check_embeddings, check_scalar, check_where


def _distance_differences(
    anchor: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    distance: str,
    where: jax.Array | None,
) -> tuple[jax.Array, jax.Array | None]:
    """d(anchor, positive) - d(anchor, negative), [N, K], and `where`, both checked."""
    sizes: dict[str, int] = {}
    anchor = check_embeddings("anchor", anchor, "N D", sizes)
    positive = check_embeddings("positive", positive, "N D", sizes)
    if jnp.ndim(negative) not in (2, 3):
        raise ValueError(f"negative has shape {jnp.shape(negative)}, expected [N, D] or [N, K, D]")
    negative = check_embeddings(
        "negative", negative, "N D" if jnp.ndim(negative) == 2 else "N K D", sizes
    )
    if negative.ndim == 2:
        negative = negative[:, None]
    where = check_where(where, sizes)
    if where is not None:
        anchor, positive = (jnp.where(where[:, None], rows, 0) for rows in (anchor, positive))
        negative = jnp.where(where[:, None, None], negative, 0)
    between = distance_function(distance)
    return between(anchor, positive)[:, None] - between(anchor[:, None], negative), where


def _mean_over_negatives(terms: jax.Array, where: jax.Array | None) -> jax.Array:
    return only_counted(jnp.mean(terms, axis=1), where)


def triplet(
    anchor: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    *,
    margin: Scalar,
    distance: str = "euclidean",
    where: jax.Array | None = None,
) -> jax.Array:
    """Triplet loss: negatives `margin` farther than the positive (Schroff et al., 2015, eq. 3).

    max(0, d(anchor, positive) - d(anchor, negative) + margin). FaceNet's distance is
    "squared_euclidean" between normalized embeddings; Euclidean distances take embeddings as they
    are.

    Args:
      anchor: [N, D] embeddings; gradients flow into all three.
      positive: [N, D]; row i matches anchor i.
      negative: [N, D], or [N, K, D]: K negatives each, over whose terms the mean is taken.
      margin: >= 0, in units of the distance; float or scalar array.
      distance: "euclidean", "squared_euclidean" or "cosine" (1 - cosine).
      where: [N] bool, rows that count, or None: all.

    Returns:
      [N] loss of each anchor; 0 where `where` is False.

    Raises:
      ValueError: if shapes disagree, margin < 0 or the distance is unknown.
      TypeError: if embeddings are not floating point or `where` is not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> anchor = jnp.array([[0.0, 0.0]])
      >>> near, far = jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 5.5]])
      >>> print(triplet(anchor, near, far, margin=1.0))  # 5 - 5.5 + 1
      [0.5]
    """
    check_scalar("margin", margin, at_least=0)
    differences, where = _distance_differences(anchor, positive, negative, distance, where)
    return _mean_over_negatives(jax.nn.relu(differences + margin), where)


def distance_difference(
    anchor: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    *,
    distance: str = "cosine",
    where: jax.Array | None = None,
) -> jax.Array:
    """d(anchor, positive) - d(anchor, negative), unclipped: a triplet loss without margin or hinge.

    With an unbounded distance it has no minimum; "cosine" keeps it within [-2, 2].

    Args:
      anchor: [N, D] embeddings; gradients flow into all three.
      positive: [N, D]; row i matches anchor i.
      negative: [N, D], or [N, K, D]: K negatives each, over whose terms the mean is taken.
      distance: "cosine" (1 - cosine), "euclidean" or "squared_euclidean".
      where: [N] bool, rows that count, or None: all.

    Returns:
      [N] loss of each anchor; 0 where `where` is False.

    Raises:
      ValueError: if shapes disagree or the distance is unknown.
      TypeError: if embeddings are not floating point or `where` is not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> x, y = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
      >>> print(distance_difference(x, x, y))  # 0 - 1
      [-1.]
    """
    differences, where = _distance_differences(anchor, positive, negative, distance, where)
    return _mean_over_negatives(differences, where)
