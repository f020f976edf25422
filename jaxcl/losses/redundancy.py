"""Losses that keep the dimensions of embeddings apart: no negatives, statistics of the batch."""

import jax
import jax.numpy as jnp

from jaxcl.losses.matched import prepare_matched
from jaxcl.losses.moments import center_rows, second_moment, square_off_diagonal, sum_over_devices
from jaxcl.similarity import AxisName
from jaxcl.similarity.checks import Scalar, check_scalar


def barlow_twins(
    z0: jax.Array,
    z1: jax.Array,
    *,
    lambd: Scalar = 5e-3,
    epsilon: Scalar = 1e-5,
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """Barlow Twins: the views' cross-correlation is to be identity (Zbontar et al., 2021, eq. 1).

    sum_i (1 - C_ii)^2 + lambd sum_i sum_{j != i} C_ij^2, C_ij being the correlation over the batch
    of dimension i of one view with dimension j of the other (eq. 2). `epsilon` is of the authors'
    code, whose BatchNorm adds it to the variances; it keeps a dimension that does not vary finite.

    Args:
      z0: [N, D] embeddings of one view, raw; gradients flow into both.
      z1: [N, D] of the other; row i shows what row i of z0 shows.
      lambd: weight of the terms off the diagonal; float or scalar array, >= 0.
      epsilon: added to each variance; float or scalar array, > 0.
      axis_name: mapped axis whose other devices' rows are part of the batch. Devices exchange
        [D, D] sums, not rows.
      where: [N] bool, rows that count, or None: all.

    Returns:
      Scalar, the loss of the whole batch, the same on every device; 0 if no row counts.

    Raises:
      ValueError: if shapes disagree, lambd < 0, epsilon <= 0 or the axis name is unknown.
      TypeError: if embeddings are not floating point or `where` is not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> views = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
      >>> float(barlow_twins(views, views)) < 1e-6  # uncorrelated, and the views agree
      True
      >>> print(round(float(barlow_twins(views, -views)), 3))  # 2 (1 + 1)^2
      8.0
    """
    z0, z1, where = prepare_matched({"z0": z0, "z1": z1}, where, "dot")
    check_scalar("lambd", lambd, at_least=0)
    check_scalar("epsilon", epsilon, above=0)

    def standardize(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        centered, count = center_rows(rows, where, axis_name)
        squares = sum_over_devices(jnp.sum(jnp.square(centered), axis=0), axis_name)
        return centered / jnp.sqrt(squares / jnp.maximum(count, 1) + epsilon), count

    (z0, count), (z1, _) = standardize(z0), standardize(z1)
    correlation = second_moment(z0, z1, axis_name) / jnp.maximum(count, 1)  # [D, D]
    on_diagonal = jnp.sum(jnp.square(1 - jnp.diagonal(correlation)))
    loss = on_diagonal + lambd * square_off_diagonal(correlation)
    return jnp.where(count > 0, loss, 0)


def vicreg(
    z0: jax.Array,
    z1: jax.Array,
    *,
    lambd: Scalar = 25.0,
    mu: Scalar = 25.0,
    nu: Scalar = 1.0,
    gamma: Scalar = 1.0,
    epsilon: Scalar = 1e-4,
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """VICReg: views alike, dimensions that vary and do not covary (Bardes et al., 2022, eq. 6).

    lambd s(z0, z1) + mu (v(z0) + v(z1)) / 2 + nu (c(z0) + c(z1)), with s the mean squared
    difference; v the mean over dimensions of max(0, gamma - sqrt(variance + epsilon)) (eq. 1, 2); c
    the sum of squared covariances of different dimensions, divided by D (eq. 3, 4). Variances and
    covariances divide by N - 1. The paper's eq. 5 has no mean over dimensions in s, and its eq. 6
    does not halve v; the authors' code, with these weights, does both, and so does this.

    Args:
      z0: [N, D] embeddings of one view, raw; gradients flow into both.
      z1: [N, D] of the other; row i shows what row i of z0 shows.
      lambd: weight of the invariance; float or scalar array, >= 0, as the next two.
      mu: weight of the variances.
      nu: weight of the covariances.
      gamma: standard deviation that each dimension is to have at least; float or scalar array.
      epsilon: added to each variance; float or scalar array, > 0.
      axis_name: mapped axis whose other devices' rows are part of the batch. Devices exchange
        [D, D] sums, not rows.
      where: [N] bool, rows that count, or None: all.

    Returns:
      Scalar, the loss of the whole batch, the same on every device; 0 if no row counts.

    Raises:
      ValueError: if shapes disagree, a weight or gamma is negative, epsilon <= 0 or the axis name
        is unknown.
      TypeError: if embeddings are not floating point or `where` is not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> views = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
      >>> print(vicreg(views, views))  # alike, variances above 1, no covariance
      0.0
      >>> print(vicreg(views, views + 1.0))  # 25 times the mean of 1
      25.0
    """
    z0, z1, where = prepare_matched({"z0": z0, "z1": z1}, where, "dot")
    for name, weight in {"lambd": lambd, "mu": mu, "nu": nu, "gamma": gamma}.items():
        check_scalar(name, weight, at_least=0)
    check_scalar("epsilon", epsilon, above=0)
    dimensions = z0.shape[1]

    def variance_and_covariance(rows: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        centered, count = center_rows(rows, where, axis_name)
        covariance = second_moment(centered, centered, axis_name) / jnp.maximum(count - 1, 1)
        deviations = jnp.sqrt(jnp.diagonal(covariance) + epsilon)
        variance = jnp.mean(jax.nn.relu(gamma - deviations))
        return variance, square_off_diagonal(covariance) / dimensions, count

    variance0, covariance0, count = variance_and_covariance(z0)
    variance1, covariance1, _ = variance_and_covariance(z1)
    squares = sum_over_devices(jnp.sum(jnp.square(z0 - z1)), axis_name)
    invariance = squares / (jnp.maximum(count, 1) * dimensions)
    loss = lambd * invariance + mu * (variance0 + variance1) / 2 + nu * (covariance0 + covariance1)
    return jnp.where(count > 0, loss, 0)
