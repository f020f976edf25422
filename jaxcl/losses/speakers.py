"""Losses that compare an utterance with the mean of each speaker's."""

import jax
import jax.numpy as jnp

from jaxcl.losses.class_sums import class_numbers
from jaxcl.similarity import AxisName, gather_rows, l2_normalize, prepare, row_numbers
from jaxcl.similarity.checks import (
    Scalar,
    check_choice,
    check_embeddings,
    check_integers,
    check_scalar,
    check_where,
)
from jaxcl.similarity.rows import product


def ge2e(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    scale: Scalar = 10.0,
    bias: Scalar = -5.0,
    contrast: str = "softmax",
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """Generalized end-to-end loss: each row against the centroids of all classes (Wan et al.,
    2018).

    S_k = scale * cosine to the centroid of class k + bias, of the row's own class that of its other
    rows (eq. 9). "softmax" (eq. 6): -S_own + log of the sum over classes of exp(S_k). "contrast"
    (eq. 7): 1 - sigmoid(S_own) + the largest sigmoid(S_k) of another class. Memory is rows times
    rows.

    Args:
      embeddings: [N, D], normalized here; gradients flow, through centroids too.
      labels: [N] integers, the rows' classes (speakers).
      scale: multiplies cosines, usually learned; > 0.
      bias: added then, usually learned; "softmax" does not depend on it.
      contrast: "softmax", the authors' choice without a text, or "contrast", theirs with one.
      axis_name: mapped axis whose other devices' rows are of the centroids too.
      where: [N] bool, rows that count, or None: all.

    Returns:
      [N] loss of each row; 0 where `where` is False or a row is alone in its class. The paper's is
      its sum.

    Raises:
      ValueError: if shapes disagree, scale <= 0, or contrast or axis name are unknown.
      TypeError: if embeddings are not floating point, labels not integers or `where` not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> rows = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
      >>> print(ge2e(rows, jnp.array([0, 0, 1, 1]), scale=2.0).round(4))  # log(1 + exp(0 - 2))
      [0.1269 0.1269 0.1269 0.1269]
    """
    sizes: dict[str, int] = {}
    embeddings = check_embeddings("embeddings", embeddings, "N D", sizes)
    labels = check_integers("labels", labels, "N", sizes)
    check_scalar("scale", scale, above=0)
    check_scalar("bias", bias)
    check_choice("contrast", contrast, ("softmax", "contrast"))
    where = check_where(where, sizes)
    counts = jnp.ones(sizes["N"], bool) if where is None else where

    rows = prepare(embeddings, "cosine", where)
    class_of = class_numbers(gather_rows(labels, axis_name))  # [G], and at most G classes
    totals = jax.ops.segment_sum(gather_rows(rows, axis_name), class_of, len(class_of))
    members = jax.ops.segment_sum(
        gather_rows(counts, axis_name).astype(jnp.int32), class_of, len(class_of)
    )
    own = class_of[row_numbers(sizes["N"], axis_name)]
    is_own = own[:, None] == jnp.arange(len(class_of))  # [N, G]
    # The direction of a sum is that of the mean.
    to_own = jnp.sum(rows * l2_normalize(totals[own] - rows), axis=1)
    cosines = product("nd,gd->ng", rows, l2_normalize(totals))
    scores = scale * jnp.where(is_own, to_own[:, None], cosines) + bias
    own_score = scale * to_own + bias
    if contrast == "softmax":
        scores = jnp.where(members > 0, scores, -jnp.inf)
        losses = jax.nn.logsumexp(scores, axis=1, where=members > 0) - own_score
    else:
        is_other = (members > 0) & ~is_own
        other = jnp.max(jax.nn.sigmoid(scores), axis=1, where=is_other, initial=0)
        losses = jax.nn.sigmoid(-own_score) + other
    return jnp.where(counts & (members[own] > 1), losses, 0)
