"""sinkhorn, and swav and dino of many views, against slow NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import losses

# As their users do: whole programs, and so few compilations.
dino = jax.jit(losses.dino)
sinkhorn = jax.jit(losses.sinkhorn, static_argnames="iterations")
swav = jax.jit(losses.swav)
update_center = jax.jit(losses.update_center)

V, N, K, M = 4, 6, 5, 7
RNG = np.random.default_rng(0)
SCORES = RNG.uniform(-1, 1, size=(V, N, K))
MEMORY = RNG.uniform(-1, 1, size=(2, M, K))
CENTER = RNG.normal(size=K)


def numpy_sinkhorn(scores, epsilon, iterations):
    q = np.exp(scores / epsilon)
    for _ in range(iterations):
        q = q / q.sum(axis=0)
        q = q / q.sum(axis=1, keepdims=True)
    return q


def numpy_cross_entropy(targets, logits):
    predictions = np.exp(logits) / np.exp(logits).sum()
    return -sum(t * np.log(p) for t, p in zip(targets, predictions, strict=True))


@pytest.mark.parametrize("iterations", [1, 3, 30])
def test_sinkhorn_equation(iterations):
    wanted = numpy_sinkhorn(SCORES[0], 0.3, iterations)
    found = sinkhorn(SCORES[0], epsilon=0.3, iterations=iterations)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    both = np.concatenate([SCORES[0], MEMORY[0]])
    wanted = numpy_sinkhorn(both, 0.3, iterations)[:N]
    found = sinkhorn(SCORES[0], MEMORY[0], epsilon=0.3, iterations=iterations)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_sinkhorn_shares_prototypes_equally():
    """In the limit rows sum to 1 and columns to N / K, as the transport polytope asks."""
    assignments = sinkhorn(SCORES[0], epsilon=0.3, iterations=200)
    np.testing.assert_allclose(assignments.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(assignments.sum(axis=0), N / K, rtol=1e-4)


def test_sinkhorn_does_not_overflow():
    """exp(scores / epsilon) would be far beyond float64; what all scores share does not matter."""
    scores = np.round(SCORES[0] * 16) / 16  # float32 has their sum with 1024 exactly
    for shift in (-1024, 1024):
        np.testing.assert_allclose(
            sinkhorn(scores + shift, epsilon=0.25), numpy_sinkhorn(scores, 0.25, 3), rtol=1e-5
        )
    extreme = sinkhorn(SCORES[0] * 1e4, epsilon=1e-3)
    assert np.all(np.isfinite(extreme))
    np.testing.assert_allclose(extreme.sum(axis=1), 1, rtol=1e-5)


def test_no_gradient_through_assignments():
    gradient = jax.grad(lambda scores: jnp.sum(sinkhorn(scores) ** 2))(jnp.asarray(SCORES[0]))
    assert not np.any(gradient)


@pytest.mark.parametrize("memory", [None, MEMORY])
def test_swav_of_many_crops(memory):
    """Two views are assigned; each is predicted from the three others."""
    wanted = np.zeros(N)
    for assigned in range(2):
        rows = SCORES[assigned]
        if memory is not None:
            rows = np.concatenate([rows, memory[assigned]])
        assignments = numpy_sinkhorn(rows, 0.2, 3)
        for view in range(V):
            if view != assigned:
                for n in range(N):
                    wanted[n] += numpy_cross_entropy(assignments[n], SCORES[view, n] / 0.3) / 6
    found = swav(SCORES, memory, temperature=0.3, epsilon=0.2)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_dino_of_many_crops_with_a_center():
    wanted = np.zeros(N)
    for t in range(2):
        for s in range(V):
            if s != t:
                for n in range(N):
                    targets = np.exp((MEMORY[t, n] - CENTER) / 0.2)
                    targets /= targets.sum()
                    wanted[n] += numpy_cross_entropy(targets, SCORES[s, n] / 0.5) / 6
    found = dino(SCORES, MEMORY[:, :N], CENTER, student_temperature=0.5, teacher_temperature=0.2)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_update_center():
    wanted = 0.7 * CENTER + 0.3 * SCORES.mean(axis=(0, 1))
    np.testing.assert_allclose(update_center(CENTER, SCORES, momentum=0.7), wanted, rtol=1e-5)
    where = np.array([True, False, True, True, False, False])
    poisoned = np.where(where[:, None], SCORES, np.nan)
    wanted = 0.7 * CENTER + 0.3 * SCORES[:, where].mean(axis=(0, 1))
    found = update_center(CENTER, poisoned, momentum=0.7, where=where)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    none = np.zeros(N, bool)
    np.testing.assert_allclose(update_center(CENTER, SCORES, where=none), CENTER, rtol=1e-6)
