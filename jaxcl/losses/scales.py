"""Learned scales of similarities: how a parameter starts, and how it is read."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcl.similarity import at_least_float32
from jaxcl.similarity.checks import Scalar, check_scalar


def init_learnable_temperature(temperature: Scalar = 0.07) -> jax.Array:
    """The parameter of a learned temperature: -log(temperature) (CLIP: Radford et al., 2021, 2.3).

    Args:
      temperature: to begin with, > 0; float or scalar array.

    Returns:
      Scalar, float32: the logarithm of what similarities are multiplied by.

    Raises:
      ValueError: if temperature <= 0.

    Example:
      >>> round(float(init_learnable_temperature(0.07)), 4)
      2.6593
    """
    check_scalar("temperature", temperature, above=0)
    return -jnp.log(jnp.float32(temperature))


def learnable_temperature(logit_scale: jax.Array, *, max_scale: float = 100.0) -> jax.Array:
    """The logarithmic scale clamped, so that similarities are multiplied by at most `max_scale`.

    CLIP clips the parameter after each step (Radford et al., 2021, section 2.5). Here what is read
    of it is clipped, which needs no hand in the optimizer. The gradient with respect to the clamped
    scale is passed to the parameter as it is, so that one beyond the bound is not stuck there.

    Args:
      logit_scale: scalar parameter, as `init_learnable_temperature` gives it.
      max_scale: bound of its exponential, > 0.

    Returns:
      Scalar, float32, for `clip(..., logit_scale=...)`; losses that divide by a temperature take
      `jnp.exp(-...)` of it.

    Raises:
      ValueError: if `logit_scale` has axes or max_scale <= 0.
      TypeError: if `logit_scale` is not floating point.

    Example:
      >>> import jax.numpy as jnp
      >>> print(jnp.exp(learnable_temperature(jnp.array(9.0))).round(2))
      100.0
    """
    logit_scale = jnp.asarray(logit_scale)
    if not jnp.issubdtype(logit_scale.dtype, jnp.floating):
        raise TypeError(f"logit_scale has dtype {logit_scale.dtype}, expected floating point")
    check_scalar("logit_scale", logit_scale)
    check_scalar("max_scale", max_scale, above=0)
    # A few roundings below, lest the exponential come out above the bound.
    bound = np.float32(math.log(max_scale))
    return _clamp(at_least_float32(logit_scale), float(bound - 4 * np.spacing(abs(bound))))


@jax.custom_jvp
def _clamp(value: jax.Array, bound: float) -> jax.Array:
    return jnp.minimum(value, bound)


@_clamp.defjvp
def _clamp_jvp(
    primals: tuple[jax.Array, float], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return _clamp(*primals), tangents[0]


class ScaleAndBias(NamedTuple):
    """SigLIP's two learned scalars, named as `siglip` takes them: `siglip(x, y, **s._asdict())`.

    Attributes:
      logit_scale: logarithm of what similarities are multiplied by.
      logit_bias: what is added to them then.
    """

    logit_scale: jax.Array
    logit_bias: jax.Array


def init_scale_and_bias(scale: Scalar = 10.0, bias: Scalar = -10.0) -> ScaleAndBias:
    """SigLIP's parameters as they start (Zhai et al., 2023, section 3.2): log 10 and -10.

    The bias makes up for the many more negatives than positives: at the start no pair is far from
    what it should be. The scale has no bound: published models have learned more than 100.

    Args:
      scale: that similarities are multiplied by to begin with, > 0.
      bias: that is added to them then.

    Returns:
      Both as scalars in float32.

    Raises:
      ValueError: if scale <= 0 or one of them has axes.

    Example:
      >>> init_scale_and_bias()._asdict()
      {'logit_scale': Array(2.3025851, dtype=float32), 'logit_bias': Array(-10., dtype=float32)}
    """
    check_scalar("scale", scale, above=0)
    check_scalar("bias", bias)
    return ScaleAndBias(jnp.log(jnp.float32(scale)), jnp.asarray(bias, jnp.float32))
