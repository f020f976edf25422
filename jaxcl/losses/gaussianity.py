"""How far rows are from a standard normal distribution, seen along random directions."""

import jax
import jax.numpy as jnp

from jaxcl.losses.moments import count_rows, sum_over_devices
from jaxcl.similarity import AxisName, at_least_float32, l2_normalize
from jaxcl.similarity.checks import (
    Scalar,
    check_count,
    check_embeddings,
    check_key,
    check_scalar,
    check_where,
)


def sig_reg(
    key: jax.Array,
    x: jax.Array,
    *,
    directions: int = 256,
    knots: int = 17,
    largest: Scalar = 3.0,
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """SIGReg: rows like an isotropic Gaussian (LeJEPA: Balestriero & LeCun, 2025).

    The mean over random unit directions a of the Epps-Pulley statistic of the N projections, N
    times the integral of |phi(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) over t from -largest to largest,
    with phi(t) = mean_n exp(i t a . x_n): by the trapezoid rule, twice that from 0.

    Args:
      key: draws the directions; a new one each step, the same on every device.
      x: [N, D] embeddings as they are; gradients flow.
      directions: how many are drawn, >= 1; each is D numbers.
      knots: where the integrand is formed from 0 to `largest`, >= 2.
      largest: end of the integral; float or scalar array, > 0.
      axis_name: mapped axis whose other devices' rows are in the distribution too.
      where: [N] bool, rows that count, or None: all.

    Returns:
      Scalar of the whole batch, the same on every device, >= 0; 0 if no row counts. Of rows drawn
      from the Gaussian it stays bounded as N grows, of others it grows with N.

    Raises:
      ValueError: if shapes disagree, a number is out of range or the axis name is unknown.
      TypeError: if `x` is not floating point, `where` not bool or `key` not a key.

    Example:
      >>> import jax
      >>> rows = jax.random.normal(jax.random.key(0), (512, 8))
      >>> key = jax.random.key(1)
      >>> bool(sig_reg(key, rows) < 2), bool(sig_reg(key, 2 * rows) > 20)
      (True, True)
    """
    check_key(key)
    sizes: dict[str, int] = {}
    x = at_least_float32(check_embeddings("x", x, "N D", sizes))
    check_count("directions", directions)
    check_count("knots", knots, at_least=2)
    check_scalar("largest", largest, above=0)
    where = check_where(where, sizes)
    count = count_rows(sizes["N"], where, axis_name)
    # The same directions at any default precision: wider draws would be other numbers.
    drawn = l2_normalize(jax.random.normal(key, (directions, sizes["D"]), jnp.float32))
    if where is not None:
        x = jnp.where(where[:, None], x, 0)
    along = jnp.einsum("nd,ad->na", x, drawn, precision=jax.lax.Precision.HIGHEST)
    counts = jnp.ones(sizes["N"]) if where is None else where.astype(jnp.float32)

    def deviation(t: jax.Array) -> jax.Array:
        """|phi(t) - exp(-t^2 / 2)|^2 for each direction; one knot's waves are held at a time."""
        phases = t * along
        waves = jnp.stack([counts @ jnp.cos(phases), counts @ jnp.sin(phases)])
        real, imaginary = sum_over_devices(waves, axis_name) / jnp.maximum(count, 1)
        return jnp.square(real - jnp.exp(-(t**2) / 2)) + jnp.square(imaginary)

    t = jnp.linspace(0, 1, knots) * largest
    deviations = jax.lax.map(jax.checkpoint(deviation), t)  # [knots, directions]
    integrals = 2 * jax.scipy.integrate.trapezoid(
        deviations * jnp.exp(-(t**2) / 2)[:, None], t, axis=0
    )
    return jnp.where(count > 0, count * jnp.mean(integrals), 0)
