"""N-pairs: one pair of each class, every other pair's positive a negative."""

import jax

from jaxcl.losses.contrastive import info_nce
from jaxcl.similarity import AxisName, Backend
from jaxcl.similarity.checks import check_embeddings


def n_pairs(
    anchors: jax.Array,
    positives: jax.Array,
    *,
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
    ids: jax.Array | None = None,
    block_size: int | None = None,
    backend: Backend = "auto",
) -> jax.Array:
    """N-pairs: the positive against those of other classes (Sohn, 2016, N-pair-mc).

    log(1 + sum_j exp(a_i . p_j - a_i . p_i)): `info_nce` of embeddings as they are, at temperature
    1. The paper keeps their length down with a small multiple of the mean squared length, which is
    yours to add: `weight * jnp.mean(jnp.sum(anchors**2 + positives**2, axis=1))`.

    Args:
      anchors: [N, D] embeddings, not normalized; gradients flow into both.
      positives: [N, D]; row i is of the class of anchor i.
      axis_name: mapped axis whose other devices' positives are negatives too.
      where: [N] bool, rows that count, or None: all.
      ids: [N] integers, the classes, where one may come more than once; rows with equal ids are
        never each other's negatives.
      block_size: rows of similarities held at a time; None: by size.
      backend: "dense", "tiled", "ring", or "auto": by size (`jaxcl.similarity.Execution`).

    Returns:
      [N] loss of each anchor, in nats; 0 where `where` is False or nothing is left as a negative.
      The paper's loss is its mean over the rows that count.

    Raises:
      ValueError: if shapes disagree, or axis name or backend are unknown.
      TypeError: if embeddings are not floating point, ids not integers or `where` not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> rows = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> print(n_pairs(rows, rows))  # log(1 + exp(0 - 1))
      [0.3132617 0.3132617]
    """
    return info_nce(
        check_embeddings("anchors", anchors, "N D", {}),  # which info_nce would call queries
        positives,
        temperature=1.0,
        similarity="dot",
        axis_name=axis_name,
        where=where,
        ids=ids,
        block_size=block_size,
        backend=backend,
    )
