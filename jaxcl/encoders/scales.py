"""Learned scales of similarities as modules, for models that keep them among their parameters."""

import flax.linen as nn
import jax

from jaxcl.losses.scales import (
    ScaleAndBias,
    init_learnable_temperature,
    init_scale_and_bias,
    learnable_temperature,
)


class LearnableTemperature(nn.Module):
    """CLIP's learned temperature: one scalar parameter, `logit_scale` (see
    `jaxcl.losses.scales.learnable_temperature`).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> logit_scale, variables = LearnableTemperature(0.1).init_with_output(jax.random.key(0))
      >>> print(jnp.exp(logit_scale).round(4), list(variables["params"]))
      10.0 ['logit_scale']
    """

    temperature: float = 0.07
    """To begin with."""
    max_scale: float = 100.0
    """What similarities are multiplied by at most."""

    @nn.compact
    def __call__(self) -> jax.Array:
        """Reads the parameter.

        Returns:
          Scalar, float32: the logarithmic scale, clamped, for `clip(..., logit_scale=...)`.
        """
        logit_scale = self.param(
            "logit_scale", lambda key: init_learnable_temperature(self.temperature)
        )
        return learnable_temperature(logit_scale, max_scale=self.max_scale)


class SigmoidScaleAndBias(nn.Module):
    """SigLIP's learned scale and bias: two scalar parameters, `logit_scale` and `logit_bias`.

    Example:
      >>> import jax
      >>> read, _ = SigmoidScaleAndBias().init_with_output(jax.random.key(0))
      >>> print(*read)
      2.3025851 -10.0
    """

    scale: float = 10.0
    """What similarities are multiplied by to begin with."""
    bias: float = -10.0
    """What is added to them then, to begin with."""

    @nn.compact
    def __call__(self) -> ScaleAndBias:
        """Reads the parameters.

        Returns:
          Scalars in float32, for `siglip(image, text, **read._asdict())`.
        """
        start = init_scale_and_bias(self.scale, self.bias)
        return ScaleAndBias(
            logit_scale=self.param("logit_scale", lambda key: start.logit_scale),
            logit_bias=self.param("logit_bias", lambda key: start.logit_bias),
        )
