"""Decoupled contrastive losses: the positive pair is left out of the softmax's denominator."""

import jax
import jax.numpy as jnp

from jaxcl.losses.two_views import TwoViewTerms, two_view_terms
from jaxcl.similarity import AxisName, gather_rows, masked_logsumexp
from jaxcl.similarity.checks import Scalar, check_scalar


def _decoupled(terms: TwoViewTerms, positive: jax.Array) -> jax.Array:
    """negatives - positive for each anchor; 0 where there are no negatives to be told from."""
    counts = jnp.tile(terms.where, 2) & ~jnp.isneginf(terms.negatives)
    return jnp.where(counts, terms.negatives - jnp.tile(positive, 2), 0)


def dcl(
    z0: jax.Array,
    z1: jax.Array,
    *,
    temperature: Scalar = 0.1,
    similarity: str = "cosine",
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
    ids: jax.Array | None = None,
) -> jax.Array:
    """DCL: NT-Xent without the positive in the denominator (Yeh et al., 2022, eq. 6).

    Args:
      z0: [N, D] embeddings of one view; gradients flow into both.
      z1: [N, D] of the other; row i shows what row i of z0 shows.
      temperature: divides similarities; float or scalar array, > 0.
      similarity: "cosine", or "dot" for embeddings that are normalized already.
      axis_name: mapped axis whose other devices' rows are negatives too.
      where: [N] bool, rows that count, or None: all.
      ids: [N] integers; rows with equal ids are never each other's negatives.

    Returns:
      [2N] loss of each anchor, z0's first, in nats; it may be negative. 0 where `where` is False or
      an anchor has no negatives. The paper's loss is its mean.

    Raises:
      ValueError: if shapes disagree, temperature <= 0, similarity or axis name are unknown.
      TypeError: if embeddings are not floating point, ids not integers or `where` not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> views = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> print(dcl(views, views, temperature=1.0))  # log(2) - 1
      [-0.30685282 -0.30685282 -0.30685282 -0.30685282]
    """
    terms = two_view_terms(
        z0,
        z1,
        temperature=temperature,
        similarity=similarity,
        axis_name=axis_name,
        where=where,
        ids=ids,
    )
    return _decoupled(terms, terms.similarity / temperature)


def dclw(
    z0: jax.Array,
    z1: jax.Array,
    *,
    temperature: Scalar = 0.1,
    sigma: Scalar = 0.5,
    similarity: str = "cosine",
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
    ids: jax.Array | None = None,
) -> jax.Array:
    """DCLW: DCL with more weight on positives that are far apart (Yeh et al., 2022, eq. 7).

    The positive of row i is weighted by 2 - exp(s_i / sigma) / mean over rows of exp(s / sigma), s
    being the similarity of a row's two views. The weights are constants to the gradient, as in the
    authors' code.

    Args:
      z0: [N, D] embeddings of one view; gradients flow into both.
      z1: [N, D] of the other; row i shows what row i of z0 shows.
      temperature: divides similarities; float or scalar array, > 0.
      sigma: sharpness of the weights; float or scalar array, > 0. Large: all 1, which is DCL.
      similarity: "cosine", or "dot" for embeddings that are normalized already.
      axis_name: mapped axis whose other devices' rows are negatives too, and enter the mean.
      where: [N] bool, rows that count, or None: all.
      ids: [N] integers; rows with equal ids are never each other's negatives.

    Returns:
      [2N] loss of each anchor, z0's first, in nats; it may be negative. 0 where `where` is False or
      an anchor has no negatives. The paper's loss is its mean.

    Raises:
      ValueError: if shapes disagree, temperature or sigma <= 0, similarity or axis name are
        unknown.
      TypeError: if embeddings are not floating point, ids not integers or `where` not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> views = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> print(dclw(views, views, temperature=1.0))  # equal pairs: weight 1, as dcl
      [-0.30685282 -0.30685282 -0.30685282 -0.30685282]
    """
    check_scalar("sigma", sigma, above=0)
    terms = two_view_terms(
        z0,
        z1,
        temperature=temperature,
        similarity=similarity,
        axis_name=axis_name,
        where=where,
        ids=ids,
    )
    sharpened = jax.lax.stop_gradient(terms.similarity / sigma)
    everywhere = gather_rows(terms.where, axis_name)
    log_total = masked_logsumexp(gather_rows(sharpened, axis_name), everywhere)
    share = jnp.exp(sharpened - jnp.where(jnp.isneginf(log_total), 0, log_total))
    weight = jax.lax.stop_gradient(2 - share * jnp.sum(everywhere))
    return _decoupled(terms, weight * terms.similarity / temperature)
