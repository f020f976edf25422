"""NT-Xent corrected for false negatives, and with more weight on hard ones."""

import jax
import jax.numpy as jnp

from jaxcl.losses.two_views import two_views
from jaxcl.similarity import AxisName, Backend, Execution
from jaxcl.similarity.checks import Scalar, check_scalar


def hard_nt_xent(
    z0: jax.Array,
    z1: jax.Array,
    *,
    temperature: Scalar = 0.5,
    tau_plus: Scalar = 0.1,
    beta: Scalar = 1.0,
    similarity: str = "cosine",
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
    ids: jax.Array | None = None,
    block_size: int | None = None,
    backend: Backend = "auto",
) -> jax.Array:
    """NT-Xent with hard negatives (Robinson et al., 2021); debiased where beta is 0.

    Of an anchor with positive p and M negatives n, s = cosine / temperature:

      -log(exp(s_p) / (exp(s_p) + max(g, M exp(-1 / temperature)))), with
      g = (sum_n w_n exp(s_n) - tau_plus M exp(s_p)) / (1 - tau_plus) and
      w_n = exp(beta s_n) / mean_n exp(beta s_n).

    With beta = 0 it is the debiased loss (Chuang et al., 2020), with tau_plus = 0 beside it
    NT-Xent.

    Args:
      z0: [N, D] embeddings of one view; gradients flow into both.
      z1: [N, D] of the other; row i shows what row i of z0 shows.
      temperature: divides similarities; float or scalar array, > 0.
      tau_plus: how likely a negative is of the anchor's own class, 0 to below 1; float or scalar
        array.
      beta: how much harder negatives weigh, >= 0; float or scalar array.
      similarity: "cosine", or "dot" for embeddings that are normalized already; the bound of g is
        that of unit rows.
      axis_name: mapped axis whose other devices' rows are negatives too.
      where: [N] bool, rows that count, or None: all.
      ids: [N] integers; rows with equal ids are never each other's negatives.
      block_size: rows of similarities held at a time; None: by size.
      backend: "dense", "tiled", "ring", or "auto": by size (`jaxcl.similarity.Execution`).

    Returns:
      [2N] loss of each anchor, z0's first, in nats; 0 where `where` is False or an anchor has no
      negatives. The paper's loss is its mean over the rows that count.

    Raises:
      ValueError: if shapes disagree, temperature, tau_plus or beta are out of range, or similarity,
        axis name or backend are unknown.
      TypeError: if embeddings are not floating point, ids not integers or `where` not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> views = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> print(hard_nt_xent(views, views, temperature=1.0, tau_plus=0.0))  # as nt_xent here
      [0.5514447 0.5514447 0.5514447 0.5514447]
    """
    execution = Execution(axis_name, block_size, backend)
    check_scalar("tau_plus", tau_plus, at_least=0, below=1)
    check_scalar("beta", beta, at_least=0)
    views = two_views(
        z0,
        z1,
        temperature=temperature,
        similarity=similarity,
        execution=execution,
        where=where,
        ids=ids,
    )
    negatives = views.negative_count(axis_name)
    has_negatives = negatives > 0
    # The sums over negatives as logarithms: of 1, of exp(beta s), of exp((1 + beta) s).
    count = jnp.log(jnp.maximum(negatives, 1).astype(views.anchors.dtype))
    is_debiased_only = isinstance(beta, int | float) and beta == 0
    factors = [1] if is_debiased_only else [1 + beta, beta]
    temperatures = [temperature / factor for factor in factors]
    log_sums = views.negatives("logsumexp", temperatures, execution, uniform=False)
    log_sums = tuple(jnp.where(has_negatives, log_sum, 0) for log_sum in log_sums)
    weighted = log_sums[0] if is_debiased_only else log_sums[0] - log_sums[1] + count
    positive = jnp.tile(views.similarity / temperature, 2)
    false = jnp.log(jnp.asarray(tau_plus)) + count + positive
    # log(exp(weighted) - exp(false)); where nothing is left the bound holds.
    gap = false - weighted
    left = gap < 0
    rest = weighted + jnp.log1p(-jnp.exp(jnp.where(left, gap, -1.0)))
    log_g = jnp.where(left, rest, -jnp.inf) - jnp.log1p(-jnp.asarray(tau_plus))
    log_g = jnp.maximum(log_g, count - 1 / jnp.asarray(temperature))
    return jnp.where(has_negatives, jax.nn.softplus(log_g - positive), 0)
