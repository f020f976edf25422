"""Losses over all pairs of rows that labels call positive or negative, or over those mined.

Each holds the [N, G] similarities or distances of this device's rows and those of all devices.
"""

import jax
import jax.numpy as jnp

from jaxcl.losses.moments import count_rows, sum_over_devices
from jaxcl.losses.pairwise import PairMasks, labelled_rows
from jaxcl.similarity import AxisName, Reduction, gather_rows, reduce_rows
from jaxcl.similarity.checks import Scalar, check_scalar


def _over_pairs(reduction: Reduction, logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Each row of logits [N, G] reduced over the entries in the mask, [N]."""
    return reduce_rows(reduction, jnp.where(mask, logits, -jnp.inf))[0]


def multi_similarity(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    alpha: Scalar,
    beta: Scalar,
    base: Scalar,
    pairs: PairMasks | None = None,
    similarity: str = "cosine",
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """Multi-similarity: pairs weigh by their own similarity and by the others' (Wang et al., 2019).

    log(1 + sum_p exp(-alpha (s_ip - base))) / alpha + log(1 + sum_n exp(beta (s_in - base))) / beta
    over the other rows p of the anchor's class and the rows n of other classes. The paper's loss is
    over mined pairs, and has alpha 2, beta 50, base 1; its authors' code has beta 40, base 0.5:

      pairs = multi_similarity_pairs(embeddings, labels)
      multi_similarity(embeddings, labels, alpha=2.0, beta=40.0, base=0.5, pairs=pairs)

    Args:
      embeddings: [N, D]; gradients flow.
      labels: [N] integers, the rows' classes.
      alpha: sharpness over positives; float or scalar array, > 0.
      beta: sharpness over negatives; float or scalar array, > 0.
      base: similarity that parts positives from negatives; float or scalar array.
      pairs: masks [N, G], as a miner returns: pairs outside them do not count, whatever the labels
        say. None: all do.
      similarity: "cosine", or "dot" for embeddings that are normalized already.
      axis_name: mapped axis whose other devices' rows are positives and negatives too.
      where: [N] bool, rows that count, or None: all.

    Returns:
      [N] loss of each anchor; 0 where `where` is False or an anchor is in no pair. One without
      positives has the term of its negatives still.
      The paper's loss is its mean over the rows that count.

    Raises:
      ValueError: if shapes disagree, alpha or beta <= 0, or similarity or axis name are unknown.
      TypeError: if embeddings are not floating point, labels not integers or masks not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> rows = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
      >>> options = {"alpha": 1.0, "beta": 1.0, "base": 0.0}
      >>> # log(1 + 1/e) + log(1 + 1) for rows of class 0; the other one has no positive: log(1 + 2)
      >>> print(multi_similarity(rows, jnp.array([0, 0, 1]), **options))
      [1.0064089 1.0064089 1.0986123]
    """
    check_scalar("alpha", alpha, above=0)
    check_scalar("beta", beta, above=0)
    check_scalar("base", base)
    rows = labelled_rows(embeddings, labels, pairs, axis_name, where)
    above_base = rows.similarities(similarity, axis_name) - base  # [N, G]
    positives = _over_pairs("log1p_sumexp", -alpha * above_base, rows.pairs.positives)
    negatives = _over_pairs("log1p_sumexp", beta * above_base, rows.pairs.negatives)
    return positives / alpha + negatives / beta


def circle(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    margin: Scalar,
    gamma: Scalar,
    pairs: PairMasks | None = None,
    similarity: str = "cosine",
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """Circle loss: each similarity weighs by how far it is from its optimum (Sun et al., 2020).

    log(1 + sum_n exp(gamma a_n (s_n - margin)) sum_p exp(-gamma a_p (s_p - 1 + margin))) (eq. 6),
    p the other rows of the anchor's class, n those of other classes, with a_n = max(0, s_n +
    margin) and a_p = max(0, 1 + margin - s_p) (eq. 5, its optima as set for eq. 8). The weights
    a are constants to the gradient, as in the gradients that the paper gives. It has margin 0.4 and
    gamma 80 for retrieval, 0.25 and 256 for faces.

    Args:
      embeddings: [N, D]; gradients flow.
      labels: [N] integers, the rows' classes.
      margin: 0 to 1; float or scalar array.
      gamma: scale, > 0; float or scalar array.
      pairs: masks [N, G], as a miner returns: pairs outside them do not count, whatever the labels
        say. None: all do.
      similarity: "cosine", or "dot" for embeddings that are normalized already; the optima are
        those of unit rows.
      axis_name: mapped axis whose other devices' rows are positives and negatives too.
      where: [N] bool, rows that count, or None: all.

    Returns:
      [N] loss of each anchor; 0 where `where` is False, or an anchor has no positive or no
      negative. The paper's loss is its mean over the rows that count.

    Raises:
      ValueError: if shapes disagree, margin is outside 0 to 1, gamma <= 0, or similarity or axis
        name are unknown.
      TypeError: if embeddings are not floating point, labels not integers or masks not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> rows = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
      >>> print(circle(rows, jnp.array([0, 0, 1]), margin=0.0, gamma=1.0))  # log(1 + 1)
      [0.6931472 0.6931472 0.       ]
    """
    check_scalar("margin", margin, at_least=0, at_most=1)
    check_scalar("gamma", gamma, above=0)
    rows = labelled_rows(embeddings, labels, pairs, axis_name, where)
    similarities = rows.similarities(similarity, axis_name)  # [N, G]
    constant = jax.lax.stop_gradient(similarities)
    of_positives = -jax.nn.relu(1 + margin - constant) * (similarities - (1 - margin))
    of_negatives = jax.nn.relu(constant + margin) * (similarities - margin)
    return jax.nn.softplus(
        _over_pairs("logsumexp", gamma * of_positives, rows.pairs.positives)
        + _over_pairs("logsumexp", gamma * of_negatives, rows.pairs.negatives)
    )


def lifted_structure(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    margin: Scalar = 1.0,
    distance: str = "euclidean",
    pairs: PairMasks | None = None,
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """Lifted structure: a positive pair against the negatives of both its rows (Song et al., 2016).

    Of positive pairs (i, j): max(0, J_ij)^2 / 2, with J_ij = log(sum_n exp(margin - d_in) + sum_m
    exp(margin - d_jm)) + d_ij (eq. 4), n the rows of other classes than i's, m than j's. The
    paper's loss is the mean over positive pairs. Each anchor has the sum over its own, scaled so
    that the mean over the anchors of all devices is that.

    Args:
      embeddings: [N, D]; gradients flow. The Euclidean distances take them as they are.
      labels: [N] integers, the rows' classes.
      margin: how far negatives are to be; float or scalar array, >= 0.
      distance: "euclidean", "squared_euclidean" or "cosine" (1 - cosine).
      pairs: masks [N, G], as a miner returns: pairs outside them do not count, whatever the labels
        say. None: all do. A pair that counts one way only, (i, j) without (j, i), counts half.
      axis_name: mapped axis whose other devices' rows are positives and negatives too.
      where: [N] bool, rows that count, or None: all.

    Returns:
      [N] loss of each anchor; 0 where `where` is False or an anchor has no positive. The paper's
      loss is its mean over the rows that count.

    Raises:
      ValueError: if shapes disagree, margin < 0, or distance or axis name are unknown.
      TypeError: if embeddings are not floating point, labels not integers or masks not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> rows = jnp.array([[0.0], [2.0], [1.0]])  # each row of class 0 is 1 from the negative
      >>> print(lifted_structure(rows, jnp.array([0, 0, 1])).mean())  # (log(2) + 2)^2 / 2
      3.6265209
    """
    check_scalar("margin", margin, at_least=0)
    rows = labelled_rows(embeddings, labels, pairs, axis_name, where)
    distances = rows.distances(distance, axis_name)  # [N, G]
    positives = rows.pairs.positives
    negatives = _over_pairs("logsumexp", margin - distances, rows.pairs.negatives)
    # Of a pair without any negative J is finite, and far below 0, where its gradient is 0.
    negatives = jnp.maximum(negatives, jnp.finfo(negatives.dtype).min)
    pushing = jnp.logaddexp(negatives[:, None], gather_rows(negatives, axis_name))
    terms = jnp.where(positives, jnp.square(jax.nn.relu(pushing + distances)), 0)
    anchors = count_rows(len(terms), where, axis_name)
    count = sum_over_devices(jnp.sum(positives, dtype=terms.dtype), axis_name)
    return jnp.sum(terms, axis=1) * anchors / (2 * jnp.maximum(count, 1))
