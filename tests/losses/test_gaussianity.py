"""sig_reg against the integral it stands for, and where theory says what it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import losses

sig_reg = jax.jit(losses.sig_reg, static_argnames=["directions", "knots"])
KEY = jax.random.key(3)
X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32) * [0.5, 1.0, 2.0, 1.0]


def unit_directions(count):
    drawn = np.asarray(jax.random.normal(KEY, (count, X.shape[1])), np.float64)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_is_its_equation():
    found = sig_reg(KEY, X, directions=7, knots=9, largest=2.5)
    t = np.linspace(-2.5, 2.5, 17)
    wanted = []
    for direction in unit_directions(7):
        characteristic = np.exp(1j * t[:, None] * (X @ direction)).mean(1)
        integrand = np.abs(characteristic - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2)
        wanted.append(len(X) * np.trapezoid(integrand, t))
    np.testing.assert_allclose(found, np.mean(wanted), rtol=1e-5)


def test_of_collapsed_rows_it_is_the_closed_form():
    """phi is 1: the integral of (1 - g)^2 g over all t, g = exp(-t^2 / 2), by known Gaussians."""
    found = sig_reg(KEY, jnp.zeros((5, 3)), knots=4001, largest=20.0)
    wanted = np.sqrt(2 * np.pi) * (1 - 2 / np.sqrt(2) + 1 / np.sqrt(3))
    np.testing.assert_allclose(found, 5 * wanted, rtol=1e-5)


@pytest.mark.slow
def test_expectation_for_gaussian_rows_does_not_grow_with_their_number():
    """E|phi_N - phi|^2 = (1 - exp(-t^2)) / N, so N drops out of N times its integral."""
    t = np.linspace(-3, 3, 33)
    g = np.exp(-(t**2) / 2)
    wanted = np.trapezoid((1 - g**2) * g, t)
    for count in (64, 256):

        @jax.jit
        def draw(seed, count=count):
            rows = jax.random.normal(jax.random.key(100 + seed), (count, 8))
            return sig_reg(jax.random.key(seed), rows)

        np.testing.assert_allclose(np.mean([*map(draw, range(40))]), wanted, rtol=0.15)


@pytest.mark.slow
def test_descent_makes_rows_gaussian():
    @jax.jit
    def step(rows, key):
        return rows - 0.05 * jax.grad(lambda rows: losses.sig_reg(key, rows))(rows)

    rows = jnp.asarray(X[:, :2] * 0.2 + 1.0)
    for seed in range(300):
        rows = step(rows, jax.random.key(seed))
    np.testing.assert_allclose(rows.mean(0), 0, atol=0.15)
    np.testing.assert_allclose(rows.std(0), 1, atol=0.15)
