"""alignment, uniformity and koleo against the evaluation's figures and obvious NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import losses
from jaxcl.evaluation import geometry

# As their users do: whole programs, and so few compilations.
alignment, koleo = jax.jit(losses.alignment), jax.jit(losses.koleo)
uniformity = jax.jit(losses.uniformity, static_argnames=["backend", "block_size"])

N, D = 40, 5
RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(2, N, D)).astype(np.float32)
WITH_ZEROS = np.where(np.arange(N)[:, None] % 7 == 0, 0, X)


def unit(rows):
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("x", [X, WITH_ZEROS, X[:1]])
@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.0])
def test_alignment_is_the_evaluation_s(x, alpha):
    y = Y[: len(x)]
    found = jnp.mean(alignment(x, y, alpha=alpha))
    np.testing.assert_allclose(found, geometry.alignment(x, y, alpha=alpha), rtol=1e-6)


@pytest.mark.parametrize(
    "x",
    [X, WITH_ZEROS, X[:2], np.repeat(X[:1], 5, axis=0), X[0] + 1e-3 * X],
    ids=["random", "zero rows", "two rows", "collapsed", "nearly collapsed"],
)
@pytest.mark.parametrize("t", [0.5, 2.0])
def test_uniformity_is_the_evaluation_s(x, t):
    found = uniformity(x, t=t)
    # In collapse the figure is near 0, and the cosines' rounding of 1e-7 is all there is.
    np.testing.assert_allclose(found, geometry.uniformity(x, t=t), rtol=1e-6, atol=2e-6)


@pytest.mark.slow
def test_backends_of_uniformity_agree():
    gradient = jax.jit(
        jax.value_and_grad(losses.uniformity), static_argnames=["backend", "block_size"]
    )
    value, slope = gradient(jnp.asarray(X), backend="dense")
    for block_size in (1, 7, 64):
        found = gradient(jnp.asarray(X), backend="tiled", block_size=block_size)
        np.testing.assert_allclose(found[0], value, rtol=1e-6)
        np.testing.assert_allclose(found[1], slope, rtol=1e-4, atol=1e-7)


def test_koleo_is_its_equation():
    rows = unit(X)
    distances = np.linalg.norm(rows[:, None] - rows, axis=2) + 9 * np.eye(N)
    found = koleo(X)
    np.testing.assert_allclose(found, -np.log(distances.min(axis=1)), rtol=1e-5, atol=1e-6)
    blurred = koleo(X, epsilon=0.5)
    np.testing.assert_allclose(blurred, -np.log(distances.min(axis=1) + 0.5), rtol=1e-5, atol=1e-6)


def test_koleo_holds_no_matrix():
    rows = jnp.zeros((8192, 32))
    gradient = jax.jit(jax.grad(lambda rows: jnp.mean(losses.koleo(rows))))
    temporaries = gradient.lower(rows).compile().memory_analysis().temp_size_in_bytes
    assert temporaries < 4 * 8192**2 / 4


def test_koleo_pushes_both_of_a_pair():
    rows = jnp.array([[1.0, 0.0], [1.0, 0.2], [-1.0, 0.0]])
    gradient = jax.jit(jax.grad(lambda rows: koleo(rows)[0]))(rows)
    assert gradient[0, 1] > 0  # a step against it leads away from row 1
    assert gradient[1, 1] < 0
    assert not np.any(gradient[2])


@pytest.mark.parametrize("loss", [lambda x: jnp.mean(koleo(x)), uniformity])
def test_descent_spreads_rows(loss):
    """From one corner of the sphere to all of it."""
    start = jnp.asarray(X[:12, :3]) * 0.1 + jnp.array([1.0, 0, 0])

    def step(rows, _):
        rows = rows - 0.1 * jax.grad(loss)(rows)
        return rows / jnp.linalg.norm(rows, axis=1, keepdims=True), None

    end, _ = jax.lax.scan(step, start, length=300)
    assert jnp.linalg.norm(jnp.mean(end, axis=0)) < 0.2
    assert geometry.uniformity(end) < -1.9 < geometry.uniformity(start)


def test_too_few_rows_are_worth_nothing():
    assert uniformity(X[:1]) == 0
    assert not np.any(koleo(X[:1]))
    only = jnp.arange(N) == 3
    assert uniformity(X, where=only) == 0
    assert not np.any(koleo(X, where=only))
