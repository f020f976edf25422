"""What the CPU is told changes no value, whatever is done with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl.encoders.convolution import convolve, once

OPTIONS = {
    "window_strides": (2, 2),
    "padding": [(1, 1), (1, 1)],
    "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_and_gradients_are_those_of_jax(dtype):
    images = jax.random.normal(jax.random.key(0), (3, 8, 8, 2), dtype)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 2, 4), dtype)

    def results(function):
        def loss(images, kernel):
            return jnp.square(function(images, kernel, **OPTIONS)).sum()

        return jax.jit(jax.value_and_grad(loss, (0, 1)))(images, kernel)

    for ours, theirs in zip(
        jax.tree.leaves(results(convolve)),
        jax.tree.leaves(results(jax.lax.conv_general_dilated)),
        strict=True,
    ):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(
            ours.astype(np.float32),
            theirs.astype(np.float32),
            rtol=1e-5 if dtype == jnp.float32 else 2e-2,
        )


@pytest.mark.parametrize("first", [0.0, -3.5, 1e30, np.inf])
def test_once_is_exact(first):
    x = jnp.array([[first, 0.1], [1e-30, -7.0]])
    np.testing.assert_array_equal(jax.jit(once)(x), x)
    _, tangent = jax.jvp(once, (x,), (jnp.ones_like(x),))
    np.testing.assert_array_equal(tangent, np.ones((2, 2)))
    np.testing.assert_array_equal(jax.grad(lambda x: (once(x) * 3).sum())(x), np.full((2, 2), 3.0))
    np.testing.assert_array_equal(jax.vmap(once)(x), x)


def test_once_takes_what_is_empty():
    assert once(jnp.zeros((0, 3))).shape == (0, 3)


def test_only_the_cpu_is_told():
    """Elsewhere nothing is left of it."""
    traced = jax.jit(once).trace(jnp.ones((2, 2)))
    assert "divide" in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "divide" not in traced.lower(lowering_platforms=("tpu",)).as_text()
