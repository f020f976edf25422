"""Losses over labelled pairs against their equations, written as loops in float64."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import losses

# As their users do: whole programs, and so few compilations.
circle = jax.jit(losses.circle)
lifted_structure = jax.jit(losses.lifted_structure, static_argnames="distance")
multi_similarity = jax.jit(losses.multi_similarity)
n_pairs, pair_margin = jax.jit(losses.n_pairs), jax.jit(losses.pair_margin)

N, D = 9, 3
RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(N, D))
LABELS = np.array([7, -2, 7, 7, 3, -2, 11, 7, 3])  # the only row of class 11 has no positive
EVERY = np.ones((N, N), bool)
SOME = RANDOM.random((N, N)) < 0.6
PAIRS = {"all": EVERY, "some": SOME}


def cosine(x, y):
    return x @ y / np.linalg.norm(x) / np.linalg.norm(y)


def of_pairs(i, mask):
    """Anchor i's positives and negatives."""
    others = [j for j in range(N) if j != i and mask[i, j]]
    return (
        [j for j in others if LABELS[j] == LABELS[i]],
        [j for j in others if LABELS[j] != LABELS[i]],
    )


def slow_multi_similarity(rows, mask, alpha, beta, base):
    found = []
    for i in range(N):
        positives, negatives = of_pairs(i, mask)
        pull = sum(np.exp(-alpha * (cosine(rows[i], rows[j]) - base)) for j in positives)
        push = sum(np.exp(beta * (cosine(rows[i], rows[j]) - base)) for j in negatives)
        found.append(np.log(1 + pull) / alpha + np.log(1 + push) / beta)
    return found


def slow_circle(rows, mask, margin, gamma, at=None):
    """With the weights of the rows `at`, which stay where `rows` moves."""
    at = rows if at is None else at
    found = []
    for i in range(N):
        positives, negatives = of_pairs(i, mask)
        pull = push = 0
        for j in positives:
            weight = max(0, 1 + margin - cosine(at[i], at[j]))
            pull += np.exp(-gamma * weight * (cosine(rows[i], rows[j]) - 1 + margin))
        for j in negatives:
            weight = max(0, cosine(at[i], at[j]) + margin)
            push += np.exp(gamma * weight * (cosine(rows[i], rows[j]) - margin))
        found.append(np.log(1 + pull * push))
    return found


def distance_of(name, x, y):
    if name == "cosine":
        return 1 - cosine(x, y)
    return np.sum((x - y) ** 2) ** (0.5 if name == "euclidean" else 1)


def slow_lifted_structure(rows, mask, margin, distance):
    """Eq. 4 of the paper: a scalar."""
    terms = []
    for i in range(N):
        for j in of_pairs(i, mask)[0]:
            total = sum(
                np.exp(margin - distance_of(distance, rows[k], rows[n]))
                for k in (i, j)
                for n in of_pairs(k, mask)[1]
            )
            pushing = np.log(total) + distance_of(distance, rows[i], rows[j])
            terms.append(max(0, pushing) ** 2)
    return np.mean(terms) / 2


@pytest.mark.parametrize("mask", PAIRS.values(), ids=PAIRS)
def test_multi_similarity(mask):
    options = {"alpha": 1.5, "beta": 7.0, "base": 0.3}
    found = multi_similarity(ROWS, LABELS, **options, pairs=(mask, mask))
    np.testing.assert_allclose(found, slow_multi_similarity(ROWS, mask, **options), rtol=1e-5)


@pytest.mark.parametrize("mask", PAIRS.values(), ids=PAIRS)
def test_circle(mask):
    options = {"margin": 0.3, "gamma": 6.0}
    found = circle(ROWS, LABELS, **options, pairs=(mask, mask))
    np.testing.assert_allclose(found, slow_circle(ROWS, mask, **options), rtol=1e-5, atol=1e-7)


def test_weights_of_circle_are_constants():
    options = {"margin": 0.3, "gamma": 6.0}
    direction = RANDOM.normal(size=ROWS.shape)
    ahead, behind = (
        np.mean(slow_circle(ROWS + step * direction, EVERY, **options, at=ROWS))
        for step in (1e-6, -1e-6)
    )
    gradient = jax.jit(jax.grad(lambda rows: jnp.mean(circle(rows, LABELS, **options))))(ROWS)
    np.testing.assert_allclose(np.sum(gradient * direction), (ahead - behind) / 2e-6, rtol=1e-4)


@pytest.mark.parametrize("distance", ["euclidean", "squared_euclidean", "cosine"])
@pytest.mark.parametrize("mask", PAIRS.values(), ids=PAIRS)
def test_lifted_structure(mask, distance):
    found = lifted_structure(ROWS, LABELS, margin=0.7, distance=distance, pairs=(mask, mask))
    wanted = slow_lifted_structure(ROWS, mask, 0.7, distance)
    np.testing.assert_allclose(jnp.mean(found), wanted, rtol=1e-5)
    assert found[6] == 0
    if mask is EVERY:
        default = lifted_structure(ROWS, LABELS, margin=0.7, distance=distance)
        np.testing.assert_allclose(default, found, rtol=1e-6)


def test_pairs_from_labels_change_nothing():
    options = {"margin": 0.3, "gamma": 6.0}
    found = circle(ROWS, LABELS, **options, pairs=losses.label_pairs(LABELS))
    np.testing.assert_array_equal(found, circle(ROWS, LABELS, **options))


def test_pair_margin():
    x, y = RANDOM.normal(size=(2, N, D))
    same = RANDOM.random(N) < 0.5
    distances = np.linalg.norm(x - y, axis=1)
    wanted = [d**2 if s else max(0, 2.0 - d) ** 2 for d, s in zip(distances, same, strict=True)]
    assert 0 in wanted
    for kind in (bool, int):
        found = pair_margin(x, y, same.astype(kind), margin=2.0)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


def test_n_pairs_of_classes():
    x, y = RANDOM.normal(size=(2, N, D))
    wanted = [
        np.log(1 + sum(np.exp(x[i] @ (y[j] - y[i])) for j in range(N) if LABELS[j] != LABELS[i]))
        for i in range(N)
    ]
    np.testing.assert_allclose(n_pairs(x, y, ids=LABELS), wanted, rtol=1e-5)


@pytest.mark.slow
def test_gradient_of_distances_with_an_offset_and_close_rows():
    """Where |x|^2 + |y|^2 - 2 xy would be nothing but rounding."""
    # 1e-3 apart, 100 from the origin; multiples of 2^-17 are exact there in float32.
    random = np.random.default_rng(1)
    rows = 100 + np.round(random.normal(size=(6, 4)) * 1e-3 * 2**17) / 2**17
    labels = jnp.array([0, 0, 0, 1, 1, 1])

    def loss(rows):
        return jnp.mean(lifted_structure(rows, labels))

    # The kernels that the tests compile by would multiply out w (x - y), and lose the digits.
    flag = "xla_cpu_use_fusion_emitters"
    options = {flag: True} if flag in os.environ["XLA_FLAGS"] else {}
    slope_of = jax.jit(jax.value_and_grad(loss), compiler_options=options)
    value, gradient = slope_of(np.float32(rows))
    with jax.enable_x64(True):
        wanted, slope = jax.jit(jax.value_and_grad(loss))(rows - 100)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-5 * np.abs(slope).max())


def test_distances_are_not_held_by_dimension():
    """[N, N, D] would be 128 times the matrix."""
    rows, labels = jnp.zeros((256, 128)), jnp.zeros(256, int)
    gradient = jax.jit(jax.grad(lambda rows: jnp.mean(lifted_structure(rows, labels))))
    temporaries = gradient.lower(rows).compile().memory_analysis().temp_size_in_bytes
    assert temporaries < 16 * 4 * 256**2
