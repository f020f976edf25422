"""barlow_twins and vicreg against loops over dimensions."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcl import losses

barlow_twins = jax.jit(losses.barlow_twins)
vicreg = jax.jit(losses.vicreg)

Z0, Z1 = np.random.default_rng(0).normal(size=(2, 10, 4)) * [1.0, 0.3, 2.0, 0.7]


def test_barlow_twins_by_loops():
    def correlation(x, y):
        x, y = x - x.mean(), y - y.mean()
        return np.mean(x * y) / np.sqrt((np.mean(x * x) + 1e-3) * (np.mean(y * y) + 1e-3))

    wanted = 0.0
    for i in range(4):
        for j in range(4):
            c = correlation(Z0[:, i], Z1[:, j])
            wanted += (1 - c) ** 2 if i == j else 0.2 * c**2
    found = barlow_twins(Z0, Z1, lambd=0.2, epsilon=1e-3)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_vicreg_by_loops():
    """Every weight, gamma and epsilon other than its default."""
    wanted = 3 * np.mean((Z0 - Z1) ** 2)
    for z in (Z0, Z1):
        covariance = np.cov(z.T)
        for i in range(4):
            wanted += 5 * max(0, 1.5 - np.sqrt(covariance[i, i] + 0.01)) / 4 / 2
            wanted += 7 * sum(covariance[i, j] ** 2 for j in range(4) if j != i) / 4
    found = vicreg(Z0, Z1, lambd=3, mu=5, nu=7, gamma=1.5, epsilon=0.01)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_barlow_twins_ignores_units_and_offsets():
    """But for epsilon, which is small beside these variances."""
    moved = 100 * Z0 * np.array([1, 2, 5, 10]) + np.array([3, -2, 0, 50])
    found = barlow_twins(moved, 100 * Z1)
    np.testing.assert_allclose(found, barlow_twins(100 * Z0, 100 * Z1), rtol=1e-4)


def test_a_mean_far_from_zero_costs_no_precision():
    """Statistics of two passes: 1e3 away, variances of 1 are right to what the inputs keep."""
    z0, z1 = (np.float32(z + 1e3) for z in (Z0, Z1))
    exact = [z.astype(np.float64) - 1e3 for z in (z0, z1)]
    np.testing.assert_allclose(barlow_twins(z0, z1), barlow_twins(*exact), rtol=1e-4)
    np.testing.assert_allclose(vicreg(z0, z1), vicreg(*exact), rtol=1e-4)


def test_collapse_is_penalized():
    constant = jnp.ones((8, 4))
    np.testing.assert_allclose(vicreg(constant, constant), 25 * (1 - 0.01), rtol=1e-5)
    np.testing.assert_allclose(barlow_twins(constant, constant), 4, rtol=1e-5)
