"""Learned scales: where they start, the clamp and what gradient passes it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl.losses.scales import (
    init_learnable_temperature,
    init_scale_and_bias,
    learnable_temperature,
)


def test_start_values():
    np.testing.assert_allclose(init_learnable_temperature(), np.log(1 / 0.07), rtol=1e-6)
    np.testing.assert_allclose(init_learnable_temperature(0.5), np.log(2), rtol=1e-6)
    assert init_learnable_temperature().dtype == jnp.float32
    scale, bias = init_scale_and_bias()
    np.testing.assert_allclose([scale, bias], [np.log(10), -10], rtol=1e-6)
    np.testing.assert_allclose(init_scale_and_bias(2.0, -1.0), [np.log(2), -1], rtol=1e-6)


@pytest.mark.parametrize("max_scale", [0.5, 1.0, 100.0, 1e6])
def test_clamp_is_never_exceeded(max_scale):
    scales = jnp.linspace(-3, 30, 100)
    found = jnp.exp(jax.vmap(lambda s: learnable_temperature(s, max_scale=max_scale))(scales))
    wanted = np.minimum(np.exp(scales), max_scale)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert np.all(found <= max_scale)


def test_half_precision_parameter():
    found = learnable_temperature(jnp.asarray(2.0, jnp.bfloat16))
    assert found.dtype == jnp.float32
    assert found == 2


def test_gradient_passes_the_clamp():
    """Descent on (log scale - target)^2 from beyond the bound comes back; so does the tangent."""

    def loss(parameter):
        return (learnable_temperature(parameter) - 2) ** 2

    parameter = jnp.asarray(6.0)
    slope = jax.jit(jax.grad(loss))(parameter)
    np.testing.assert_allclose(slope, 2 * (np.log(100) - 2), rtol=1e-5)
    for _ in range(60):
        parameter = parameter - 0.1 * jax.grad(loss)(parameter)
    np.testing.assert_allclose(parameter, 2, atol=1e-3)
