"""Decoupled contrastive losses: the positive pair is left out of the softmax's denominator."""

import jax
import jax.numpy as jnp

from jaxcl.losses.two_views import two_views
from jaxcl.similarity import AxisName, Backend, Execution, gather_rows, reduce_rows
from jaxcl.similarity.checks import Scalar, check_scalar


def _decoupled(negatives: jax.Array, positive: jax.Array) -> jax.Array:
    """negatives - positive for each anchor; 0 where there are no negatives to be told from."""
    return jnp.where(jnp.isneginf(negatives), 0, negatives - jnp.tile(positive, 2))


def dcl(
    z0: jax.Array,
    z1: jax.Array,
    *,
    temperature: Scalar = 0.1,
    similarity: str = "cosine",
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
    ids: jax.Array | None = None,
    block_size: int | None = None,
    backend: Backend = "auto",
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
      block_size: rows of similarities held at a time; None: by size.
      backend: "dense", "tiled", "ring", or "auto": by size (`jaxcl.similarity.Execution`).

    Returns:
      [2N] loss of each anchor, z0's first, in nats; it may be negative. 0 where `where` is False or
      an anchor has no negatives. The paper's loss is its mean over the rows that count.

    Raises:
      ValueError: if shapes disagree, temperature <= 0, similarity or axis name are unknown.
      TypeError: if embeddings are not floating point, ids not integers or `where` not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> views = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> print(dcl(views, views, temperature=1.0))  # log(2) - 1
      [-0.30685282 -0.30685282 -0.30685282 -0.30685282]
    """
    execution = Execution(axis_name, block_size, backend)
    views = two_views(
        z0,
        z1,
        temperature=temperature,
        similarity=similarity,
        execution=execution,
        where=where,
        ids=ids,
    )
    [negatives] = views.negatives("logsumexp", [temperature], execution)
    return _decoupled(negatives, views.similarity / temperature)


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
    block_size: int | None = None,
    backend: Backend = "auto",
) -> jax.Array:
    """DCLW: DCL with more weight on positives that are far apart (Yeh et al., 2022).

    The positive of row i is weighted by 2 - exp(s_i / sigma) / mean over rows of exp(s / sigma), s
    being the similarity of a row's two views. The weights are constants to the gradient, as in
    lightly's `DCLWLoss`; other implementations differentiate them.

    Args:
      z0: [N, D] embeddings of one view; gradients flow into both.
      z1: [N, D] of the other; row i shows what row i of z0 shows.
      temperature: divides similarities; float or scalar array, > 0.
      sigma: sharpness of the weights; float or scalar array, > 0. Large: all 1, which is DCL.
      similarity: "cosine", or "dot" for embeddings that are normalized already.
      axis_name: mapped axis whose other devices' rows are negatives too, and enter the mean.
      where: [N] bool, rows that count, or None: all.
      ids: [N] integers; rows with equal ids are never each other's negatives.
      block_size: rows of similarities held at a time; None: by size.
      backend: "dense", "tiled", "ring", or "auto": by size (`jaxcl.similarity.Execution`).

    Returns:
      [2N] loss of each anchor, z0's first, in nats; it may be negative. 0 where `where` is False or
      an anchor has no negatives. The paper's loss is its mean over the rows that count.

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
    execution = Execution(axis_name, block_size, backend)
    views = two_views(
        z0,
        z1,
        temperature=temperature,
        similarity=similarity,
        execution=execution,
        where=where,
        ids=ids,
    )
    sharpened = jax.lax.stop_gradient(views.similarity / sigma)
    everywhere = gather_rows(views.where, axis_name)
    logits = jnp.where(everywhere, gather_rows(sharpened, axis_name), -jnp.inf)
    _, log_total = reduce_rows("logsumexp", logits[None])
    weight = 2 - jnp.exp(sharpened - log_total) * jnp.sum(everywhere)
    [negatives] = views.negatives("logsumexp", [temperature], execution)
    return _decoupled(negatives, weight * views.similarity / temperature)
