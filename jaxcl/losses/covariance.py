"""Losses that spread embeddings over all directions: through their covariance, their singular
values, or by whitening."""

import jax
import jax.numpy as jnp

from jaxcl.losses.matched import only_counted, prepare_matched
from jaxcl.losses.moments import center_rows, count_rows, second_moment, sum_over_devices
from jaxcl.similarity import (
    AxisName,
    at_least_float32,
    gather_rows,
    l2_normalize,
    prepare,
    row_similarity,
)
from jaxcl.similarity.checks import Scalar, check_embeddings, check_scalar, check_where


def tico(
    z0: jax.Array,
    z1: jax.Array,
    covariance: jax.Array,
    *,
    beta: Scalar = 0.9,
    rho: Scalar = 8.0,
    similarity: str = "cosine",
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """TiCo: views alike, and not along directions that were common (Zhu et al., 2022, eq. 4).

    1 - z0_i . z1_i + rho z0_i^T C z0_i for each row, of unit embeddings, with C = beta C +
    (1 - beta) mean_i z0_i z0_i^T, moved before it is used. C is a constant to the gradient.

    Args:
      z0: [N, D] embeddings of one view; gradients flow into both.
      z1: [N, D] of the other (of the target network); row i shows what row i of z0 shows.
      covariance: [D, D] that the last step returned; zeros to begin with.
      beta: share of the old covariance that stays; float or scalar array, 0 to 1.
      rho: weight of the covariance term; float or scalar array, >= 0.
      similarity: "cosine", or "dot" for embeddings that are normalized already.
      axis_name: mapped axis whose other devices' rows enter the covariance.
      where: [N] bool, rows that count, or None: all.

    Returns:
      [N] loss of each row, 0 where `where` is False; the paper's loss is its mean. And the new
      covariance [D, D] in float32, the same on every device; the old one if no row counts.

    Raises:
      ValueError: if shapes disagree, beta is outside 0 to 1, rho < 0, or similarity or axis name
        are unknown.
      TypeError: if arrays are not floating point or `where` is not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> rows = jnp.array([[2.0, 0.0], [0.0, 3.0]])
      >>> loss, covariance = tico(rows, rows, jnp.zeros((2, 2)), beta=0.0, rho=1.0)
      >>> print(loss, covariance.tolist())  # 1 - 1 + 1/2
      [0.5 0.5] [[0.5, 0.0], [0.0, 0.5]]
    """
    z0, z1, where = prepare_matched({"z0": z0, "z1": z1}, where, similarity)
    covariance = check_embeddings("covariance", covariance, "D D", {"D": z0.shape[1]})
    check_scalar("beta", beta, at_least=0, at_most=1)
    check_scalar("rho", rho, at_least=0)

    covariance = at_least_float32(covariance)
    count = count_rows(len(z0), where, axis_name)
    of_batch = second_moment(z0, z0, axis_name) / jnp.maximum(count, 1)
    moved = beta * covariance + (1 - beta) * of_batch
    covariance = jax.lax.stop_gradient(jnp.where(count > 0, moved, covariance))
    along = jnp.einsum("nd,de->ne", z0, covariance, precision=jax.lax.Precision.HIGHEST)
    losses = 1 - row_similarity(z0, z1) + rho * row_similarity(along, z0)
    return only_counted(losses, where), covariance


def mmcr(
    views: jax.Array,
    *,
    lambd: Scalar = 5e-3,
    similarity: str = "cosine",
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """MMCR: means over views spread over all directions, views over few (Yerxa et al., 2023).

    lambd mean_i |Z_i| - |C|, where |.| is the nuclear norm, the sum of singular values; Z_i holds
    the views of example i, C the examples' means over views. Where singular values are zero, to the
    precision of the arithmetic, the norm has no gradient; their directions are left out of it.

    Args:
      views: [V, N, D] embeddings of V views (a list of [N, D] is taken too), those of a momentum
        network among them where there is one; gradients flow into all. Row i of every view shows
        the same example.
      lambd: weight of the views' norms; float or scalar array, >= 0.
      similarity: "cosine" for unit embeddings, as the paper has them, or "dot" to take them as they
        are.
      axis_name: mapped axis whose other devices' rows are part of the batch. Each device decomposes
        the [devices * N, D] means of all.
      where: [N] bool, rows that count, or None: all.

    Returns:
      Scalar, the loss of the whole batch, the same on every device; 0 if no row counts. It is
      negative where means are spread.

    Raises:
      ValueError: if shapes disagree, lambd < 0, or similarity or axis name are unknown.
      TypeError: if embeddings are not floating point or `where` is not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> spread = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> print(mmcr([spread, spread], lambd=0.0))
      -2.0
      >>> print(mmcr([spread[:1], spread[1:]], lambd=0.0).round(3))  # the mean is 1/sqrt(2) long
      -0.707
    """
    sizes: dict[str, int] = {}
    views = check_embeddings("views", views, "V N D", sizes)
    where = check_where(where, sizes)
    check_scalar("lambd", lambd, at_least=0)
    by_example = prepare(jnp.swapaxes(views, 0, 1), similarity, where)  # [N, V, D]
    of_means = _nuclear_norm(gather_rows(jnp.mean(by_example, axis=1), axis_name))
    of_views = sum_over_devices(jnp.sum(_nuclear_norm(by_example)), axis_name)
    count = count_rows(sizes["N"], where, axis_name)
    return lambd * of_views / jnp.maximum(count, 1) - of_means


@jax.custom_vjp
def _nuclear_norm(matrices: jax.Array) -> jax.Array:
    """The sum of singular values of matrices [..., R, D]: [...].

    Its gradient U V^T needs no division by differences of singular values, as derivatives of the
    decomposition do, and stays finite where they coincide.
    """
    return jnp.sum(jnp.linalg.svd(matrices, full_matrices=False, compute_uv=False), axis=-1)


def _nuclear_norm_forward(matrices: jax.Array) -> tuple[jax.Array, jax.Array]:
    left, values, right = jnp.linalg.svd(matrices, full_matrices=False)
    rounding = jnp.finfo(values.dtype).eps * max(matrices.shape[-2:])
    is_zero = values <= rounding * jnp.max(values, axis=-1, keepdims=True)
    gradient = jnp.einsum(
        "...rk,...kd->...rd",
        jnp.where(is_zero[..., None, :], 0, left),
        right,
        precision=jax.lax.Precision.HIGHEST,
    )
    return jnp.sum(values, axis=-1), gradient


def _nuclear_norm_backward(gradient: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    return (cotangent[..., None, None] * gradient,)


_nuclear_norm.defvjp(_nuclear_norm_forward, _nuclear_norm_backward)


def w_mse(
    views: jax.Array,
    *,
    epsilon: Scalar = 1e-4,
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """W-MSE: squared distance of whitened, then normalized views (Ermolov et al., 2021).

    Each view is whitened over the whole batch: W (z - mean), with W the inverse Cholesky factor of
    its covariance. Of unit vectors, the squared distance is 2 - 2 cosine. To whiten in slices of
    the batch, as the paper does, map over them: `jax.vmap(w_mse, in_axes=1)(slices)` for slices
    [V, S, N / S, D] of a batch that was shuffled.

    The covariance has that factor only where rows outnumber dimensions (the authors take twice as
    many). `epsilon` blends the correlation matrix with the identity, so that any batch has one; 0
    is the paper's loss. The covariance itself, so blended, would see in which units a dimension
    comes; of standardized dimensions the whitening is the same.

    Args:
      views: [V, N, D] embeddings of V >= 2 views, raw (a list of [N, D] is taken too); gradients
        flow into all. Row i of every view shows the same example.
      epsilon: share of the identity; float or scalar array, 0 to 1.
      axis_name: mapped axis whose other devices' rows are part of the batch. Devices exchange
        [D, D] sums, not rows.
      where: [N] bool, rows that count, or None: all.

    Returns:
      [N] the mean over pairs of views, 0 to 4; 0 where `where` is False. The paper's loss is its
      mean.

    Raises:
      ValueError: if shapes disagree, there is no second view, epsilon is outside 0 to 1, or the
        axis name is unknown.
      TypeError: if embeddings are not floating point or `where` is not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> rows = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
      >>> stretched = rows * jnp.array([1.0, 50.0]) + 7.0
      >>> print(jnp.abs(w_mse([rows, stretched])).max() < 1e-5)  # the same once whitened
      True
    """
    sizes: dict[str, int] = {}
    views = check_embeddings("views", views, "V N D", sizes)
    where = check_where(where, sizes)
    check_scalar("epsilon", epsilon, at_least=0, at_most=1)
    if sizes["V"] < 2:
        raise ValueError(f"views has {sizes['V']} views, expected at least 2")
    white = jax.vmap(lambda rows: _whiten(prepare(rows, "dot", where), where, epsilon, axis_name))(
        views
    )
    white = l2_normalize(white)
    pairs = [2 - 2 * row_similarity(z0, z1) for i, z0 in enumerate(white) for z1 in white[:i]]
    losses = sum(pairs[1:], start=pairs[0]) / len(pairs)
    return only_counted(losses, where)


def _whiten(
    rows: jax.Array, where: jax.Array | None, epsilon: Scalar, axis_name: AxisName | None
) -> jax.Array:
    """Rows [N, D] with mean zero and, but for a common factor and epsilon, covariance identity."""
    centered, count = center_rows(rows, where, axis_name)
    variances = sum_over_devices(jnp.sum(jnp.square(centered), axis=0), axis_name) / jnp.maximum(
        count, 1
    )
    # A dimension that does not vary is zero already.
    unit = centered / jnp.sqrt(jnp.where(variances == 0, 1, variances))
    correlation = second_moment(unit, unit, axis_name) / jnp.maximum(count, 1)
    blended = (1 - epsilon) * correlation + epsilon * jnp.eye(len(correlation))
    factor = jnp.linalg.cholesky(blended)
    return jax.scipy.linalg.solve_triangular(factor, unit.T, lower=True).T
