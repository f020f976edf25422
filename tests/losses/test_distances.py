"""Distances against NumPy, and their gradients where a distance has none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl.losses import distances

DISTANCES = {name: jax.jit(distance) for name, distance in distances.DISTANCES.items()}

REFERENCES = {
    "euclidean": lambda x, y: np.linalg.norm(x - y),
    "squared_euclidean": lambda x, y: np.linalg.norm(x - y) ** 2,
    "cosine": lambda x, y: 1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y),
}


@pytest.mark.parametrize("name", DISTANCES)
def test_values(name):
    x, y = np.random.default_rng(0).normal(size=(2, 5, 3))
    wanted = [REFERENCES[name](*pair) for pair in zip(x, y, strict=True)]
    np.testing.assert_allclose(DISTANCES[name](x, y), wanted, rtol=1e-5)
    against_all = DISTANCES[name](jnp.asarray(x)[:, None], jnp.asarray(y)[None])  # [5, 5]
    np.testing.assert_allclose(jnp.diagonal(against_all), wanted, rtol=1e-5)


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("value", [0.0, 1.0], ids=["zero rows", "equal rows"])
def test_gradient_is_finite_without_a_direction(name, value):
    row = jnp.full(3, value)
    gradient = jax.jit(jax.grad(DISTANCES[name]))(row, row)
    np.testing.assert_allclose(gradient, jnp.zeros(3), atol=1e-6)
