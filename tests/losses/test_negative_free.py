"""negative_cosine against its equation; which side the gradient reaches."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcl import losses

negative_cosine = jax.jit(losses.negative_cosine)

X, Y = np.random.default_rng(0).normal(size=(2, 5, 3))
COSINES = np.sum(X * Y, axis=1) / np.linalg.norm(X, axis=1) / np.linalg.norm(Y, axis=1)


def test_equation():
    np.testing.assert_allclose(negative_cosine(X, Y), -COSINES, rtol=1e-5)
    where = np.array([True, False, True, True, False])
    found = negative_cosine(X, Y, where=where)
    np.testing.assert_allclose(found, np.where(where, -COSINES, 0), rtol=1e-5)


def test_byol_identity():
    """BYOL's squared distance between unit vectors is 2 + 2 negative_cosine."""
    unit_x, unit_y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (X, Y))
    wanted = np.sum((unit_x - unit_y) ** 2, axis=1)
    np.testing.assert_allclose(2 + 2 * negative_cosine(X, Y), wanted, rtol=1e-5)


def test_the_caller_stops_the_gradient():
    def loss(targets, stop):
        return jnp.sum(negative_cosine(X, jax.lax.stop_gradient(targets) if stop else targets))

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    targets = jnp.asarray(Y)
    assert np.any(gradient(targets, False))
    assert not np.any(gradient(targets, True))
