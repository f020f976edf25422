"""Losses that pull positives together and need no negatives."""

import jax

from jaxcl.losses.matched import prepare_matched
from jaxcl.similarity import row_similarity


def negative_cosine(
    predictions: jax.Array, targets: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
    """-cosine of each prediction and its target (SimSiam: Chen & He, 2021, eq. 1).

    Gradients flow into both: SimSiam and BYOL stop the target's with
    `jax.lax.stop_gradient(targets)`. BYOL's squared distance of unit vectors is 2 + 2 times this
    (Grill et al., 2020, eq. 2).

    Args:
      predictions: [N, D] embeddings.
      targets: [N, D]; row i is what row i of predictions is to point to.
      where: [N] bool, rows that count, or None: all.

    Returns:
      [N], from -1 (same direction) to 1; 0 for zero rows and where `where` is False.

    Raises:
      ValueError: if shapes disagree.
      TypeError: if embeddings are not floating point or `where` is not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> print(negative_cosine(jnp.array([[2.0, 0.0]]), jnp.array([[3.0, 4.0]])))
      [-0.6]
    """
    # Rows that do not count are zero from here on, and so is their cosine.
    rows = {"predictions": predictions, "targets": targets}
    predictions, targets, _ = prepare_matched(rows, where, "cosine")
    return -row_similarity(predictions, targets)
