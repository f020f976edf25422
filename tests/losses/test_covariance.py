"""tico, mmcr and w_mse against their equations in slow NumPy, gradients too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import losses

mmcr = jax.jit(losses.mmcr, static_argnames="similarity")
tico = jax.jit(losses.tico)
w_mse = jax.jit(losses.w_mse)

V, N, D = 3, 24, 4
RNG = np.random.default_rng(0)
VIEWS = RNG.normal(size=(1, N, D)) + 0.5 * RNG.normal(size=(V, N, D))
COVARIANCE = np.cov(RNG.normal(size=(9, D)).T)


def check_gradients(gradients, wanted, rtol=1e-4):
    for found, expected in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-6 * np.abs(expected).max())


def numeric_gradient(function, inputs, step=1e-5):
    """Central differences in float64."""
    gradient = np.zeros_like(inputs)
    for index in np.ndindex(inputs.shape):
        change = np.zeros_like(inputs)
        change[index] = step
        gradient[index] = (function(inputs + change) - function(inputs - change)) / (2 * step)
    return gradient


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_tico_equation():
    """Two steps: the second starts from the covariance of the first."""
    covariance, state = COVARIANCE, COVARIANCE
    for z0, z1 in [(VIEWS[0], VIEWS[1]), (VIEWS[1], VIEWS[2])]:
        u0, u1 = unit(z0), unit(z1)
        covariance = 0.8 * covariance + 0.2 * sum(np.outer(u, u) for u in u0) / N
        wanted = [1 - a @ b + 3 * a @ covariance @ a for a, b in zip(u0, u1, strict=True)]
        values, state = tico(z0, z1, state, beta=0.8, rho=3)
        np.testing.assert_allclose(values, wanted, rtol=1e-5)
        np.testing.assert_allclose(state, covariance, rtol=1e-5, atol=1e-7)


def test_tico_holds_the_covariance_constant():
    """The gradient is that of the loss with the new covariance given."""
    z0, z1 = (jnp.asarray(z, jnp.float32) for z in VIEWS[:2])
    new = tico(z0, z1, COVARIANCE)[1]
    found = jax.jit(jax.grad(lambda z0: jnp.mean(tico(z0, z1, COVARIANCE)[0])))(z0)
    wanted = jax.jit(jax.grad(lambda z0: jnp.mean(tico(z0, z1, new, beta=1.0)[0])))(z0)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)
    through_state = jax.jit(jax.grad(lambda z0: jnp.sum(tico(z0, z1, COVARIANCE)[1])))(z0)
    assert not np.any(through_state)


def numpy_mmcr(views, lambd=0.1):
    views = unit(views)
    of_views = [np.linalg.svd(views[:, n], compute_uv=False).sum() for n in range(N)]
    return lambd * np.mean(of_views) - np.linalg.svd(views.mean(axis=0), compute_uv=False).sum()


def test_mmcr_equation():
    value, gradient = jax.jit(jax.value_and_grad(lambda views: mmcr(views, lambd=0.1)))(VIEWS)
    np.testing.assert_allclose(value, numpy_mmcr(VIEWS), rtol=1e-5)
    check_gradients([gradient], [numeric_gradient(numpy_mmcr, VIEWS)], rtol=3e-4)


def test_mmcr_gradient_where_singular_values_coincide():
    """Of orthonormal means the gradient is that of minus their trace in their own directions; a
    derivative of the decomposition would divide by zero."""
    views = jnp.broadcast_to(jnp.eye(N, D), (2, N, D))
    gradient = jax.jit(jax.grad(lambda views: mmcr(views, lambd=0.0, similarity="dot")))(views)
    np.testing.assert_allclose(gradient, -views / 2, atol=1e-6)


def test_mmcr_bounds():
    """Equal unit rows give sqrt(N), the least; rows in all directions sqrt(N D), the most."""
    equal = jnp.ones((2, N, D))
    np.testing.assert_allclose(mmcr(equal, lambd=0.0), -np.sqrt(N), rtol=1e-5)
    spread = jnp.broadcast_to(jnp.tile(jnp.eye(D), (N // D, 1)), (2, N, D))
    np.testing.assert_allclose(mmcr(spread, lambd=0.0), -np.sqrt(N * D), rtol=1e-5)
    assert -np.sqrt(N * D) <= mmcr(VIEWS, lambd=0.0) <= 0


def numpy_w_mse(views):
    """Of the covariance itself, as the paper has it."""
    white = []
    for z in views:
        factor = np.linalg.inv(np.linalg.cholesky(np.cov(z.T)))
        white.append(unit(np.array([factor @ (row - z.mean(axis=0)) for row in z])))
    pairs = [(i, j) for i in range(len(views)) for j in range(i)]
    return sum(np.sum((white[i] - white[j]) ** 2, axis=1) for i, j in pairs) / len(pairs)


@pytest.mark.slow
def test_w_mse_equation():
    def mean_loss(views):
        values = w_mse(views, epsilon=0.0)
        return jnp.mean(values), values

    gradient, values = jax.jit(jax.grad(mean_loss, has_aux=True))(VIEWS)
    np.testing.assert_allclose(values, numpy_w_mse(VIEWS), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.mean(values), np.mean(numpy_w_mse(VIEWS)), rtol=1e-5)
    wanted = numeric_gradient(lambda views: np.mean(numpy_w_mse(views)), VIEWS)
    check_gradients([gradient], [wanted], rtol=3e-4)
    # The default's share of the identity is of little weight where there are enough rows.
    np.testing.assert_allclose(np.mean(w_mse(VIEWS)), np.mean(numpy_w_mse(VIEWS)), rtol=1e-3)


def test_w_mse_ignores_triangular_maps():
    """Whitening by a Cholesky factor undoes scales, offsets and lower triangular maps."""
    mixing = np.tril(RNG.normal(size=(D, D)), -1) + np.diag([1e-2, 1.0, 5.0, 300.0])
    moved = [VIEWS[0], VIEWS[1] @ mixing.T + 9, VIEWS[2] * 1e3]
    np.testing.assert_allclose(
        w_mse(moved, epsilon=0.0), w_mse(VIEWS, epsilon=0.0), rtol=1e-3, atol=1e-5
    )


@pytest.mark.slow
def test_w_mse_in_slices():
    """What the docstring says of slices of the batch."""
    slices = jnp.asarray(VIEWS).reshape(V, 2, N // 2, D)
    found = jax.vmap(w_mse, in_axes=1)(slices)
    np.testing.assert_allclose(found[1], w_mse(VIEWS[:, N // 2 :]), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_w_mse_of_fewer_rows_than_dimensions():
    views = jnp.asarray(RNG.normal(size=(2, 8, 64)), jnp.float32)
    value, gradient = jax.value_and_grad(lambda v: jnp.mean(w_mse(v)))(views)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
