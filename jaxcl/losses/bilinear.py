"""InfoNCE whose likeness is a learned product."""

import jax
import jax.numpy as jnp

from jaxcl.losses.contrastive import info_nce
from jaxcl.similarity import AxisName, Backend, at_least_float32
from jaxcl.similarity.checks import check_embeddings, check_where
from jaxcl.similarity.rows import product


def bilinear_nce(
    anchors: jax.Array,
    positives: jax.Array,
    weights: jax.Array,
    *,
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
    ids: jax.Array | None = None,
    block_size: int | None = None,
    backend: Backend = "auto",
) -> jax.Array:
    """InfoNCE of a W p, W learned: COLA's loss (Saeed et al., 2021, eq. 1) and CURL's (Laskin et
    al., 2020, eq. 4).

    Args:
      anchors: [N, D] embeddings, as they are; gradients flow into all three.
      positives: [N, E]; row i matches anchor i, the others are its negatives.
      weights: [D, E], W; the same on every device.
      axis_name: mapped axis whose other devices' positives are negatives too.
      where: [N] bool, rows that count, or None: all.
      ids: [N] integers; rows with equal ids are never each other's negatives.
      block_size: rows of similarities held at a time; None: by size.
      backend: "dense", "tiled", "ring", or "auto": by size (`jaxcl.similarity.Execution`).

    Returns:
      [N] loss of each anchor, in nats; 0 where `where` is False or nothing is left as a negative.
      The papers' loss is its mean over the rows that count.

    Raises:
      ValueError: if shapes disagree, or axis name or backend are unknown.
      TypeError: if embeddings are not floating point, ids not integers or `where` not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> rows = jnp.eye(2)
      >>> print(bilinear_nce(rows, rows, 2 * jnp.eye(2)).round(4))  # log(1 + exp(0 - 2))
      [0.1269 0.1269]
    """
    sizes: dict[str, int] = {}
    anchors = check_embeddings("anchors", anchors, "N D", sizes)
    positives = check_embeddings("positives", positives, "N E", sizes)
    weights = check_embeddings("weights", weights, "D E", sizes)
    where = check_where(where, sizes)
    if where is not None:
        anchors = jnp.where(where[:, None], anchors, 0)
    return info_nce(
        product("nd,de->ne", at_least_float32(anchors), at_least_float32(weights)),
        positives,
        temperature=1.0,
        similarity="dot",
        axis_name=axis_name,
        where=where,
        ids=ids,
        block_size=block_size,
        backend=backend,
    )
