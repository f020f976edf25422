"""info_nce and nt_xent against their equations, written as loops in float64."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxcl import losses

# As their users do: whole programs, and so few compilations.
info_nce = jax.jit(losses.info_nce, static_argnames="similarity")
nt_xent = jax.jit(losses.nt_xent)

N, M, D = 6, 5, 4


@pytest.fixture(scope="module")
def draws():
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(N, D)),
        "y": rng.normal(size=(N, D)),
        "shared": rng.normal(size=(M, D)),
        "own": rng.normal(size=(N, M, D)),
    }


WHERE = np.array([True, True, False, True, True, True])
IDS = np.array([3, 7, 7, 3, 1, 2])
SHARED_IDS = np.array([3, 8, 2, 9, 3])
OWN_IDS = np.random.default_rng(1).integers(0, 5, (N, M))


def similarity_of(kind, x, y):
    return x @ y if kind == "dot" else x @ y / np.linalg.norm(x) / np.linalg.norm(y)


def anchor_loss(anchor, positive, negatives, temperature, kind="cosine"):
    """-log(exp(s_p / t) / (exp(s_p / t) + sum over negatives of exp(s_n / t)))."""
    numerator = np.exp(similarity_of(kind, anchor, positive) / temperature)
    others = [np.exp(similarity_of(kind, anchor, n) / temperature) for n in negatives]
    return -np.log(numerator / (numerator + sum(others)))


def check(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("kind", ["cosine", "dot"])
def test_info_nce_with_in_batch_negatives(draws, kind):
    x, y = draws["x"], draws["y"]
    wanted = [
        anchor_loss(x[i], y[i], [y[j] for j in range(N) if j != i], 0.3, kind) for i in range(N)
    ]
    check(info_nce(x, y, temperature=0.3, similarity=kind), wanted)


def test_info_nce_leaves_out_equal_ids_and_rows_that_do_not_count(draws):
    x, y = draws["x"], draws["y"]
    wanted = [
        anchor_loss(x[i], y[i], [y[j] for j in range(N) if IDS[j] != IDS[i] and WHERE[j]], 0.3)
        if WHERE[i]
        else 0
        for i in range(N)
    ]
    check(info_nce(x, y, temperature=0.3, ids=IDS, where=WHERE), wanted)


@pytest.mark.parametrize("kind", ["shared", "own"])
def test_info_nce_with_given_negatives(draws, kind):
    x, y, negatives = draws["x"], draws["y"], draws[kind]
    each = np.broadcast_to(negatives, (N, M, D))
    check(
        info_nce(x, y, negatives, temperature=0.3),
        [anchor_loss(x[i], y[i], each[i], 0.3) for i in range(N)],
    )
    negative_ids = SHARED_IDS if kind == "shared" else OWN_IDS
    each_ids = np.broadcast_to(negative_ids, (N, M))
    wanted = [
        anchor_loss(x[i], y[i], each[i][each_ids[i] != IDS[i]], 0.3) if WHERE[i] else 0
        for i in range(N)
    ]
    found = info_nce(
        x, y, negatives, temperature=0.3, ids=IDS, negative_ids=negative_ids, where=WHERE
    )
    check(found, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [1, 4, None])
def test_ids_of_shared_negatives_may_differ_by_query(draws, block_size):
    options = {"block_size": block_size, "backend": "tiled"}
    x, y, negatives = draws["x"], draws["y"], draws["shared"]
    wanted = [
        anchor_loss(x[i], y[i], negatives[OWN_IDS[i] != IDS[i]], 0.3) if WHERE[i] else 0
        for i in range(N)
    ]
    ids = {"ids": IDS, "negative_ids": OWN_IDS, "where": WHERE, "temperature": 0.3}
    check(losses.info_nce(x, y, negatives, **ids, **options), wanted)

    def gradient(**how):
        return jax.grad(lambda *rows: losses.info_nce(*rows, **ids, **how).sum(), (0, 1, 2))(
            x, y, negatives
        )

    gradients = gradient(**options), gradient(backend="dense")
    chex.assert_trees_all_close(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_nt_xent(draws, masked):
    views = np.stack([draws["x"], draws["y"]])  # [2, N, D]
    ids = IDS if masked else np.arange(N)
    where = WHERE if masked else np.ones(N, bool)
    wanted = []
    for view in (0, 1):
        for i in range(N):
            others = [
                views[v, j] for v in (0, 1) for j in range(N) if ids[j] != ids[i] and where[j]
            ]
            loss = anchor_loss(views[view, i], views[1 - view, i], others, 0.4)
            wanted.append(loss if where[i] else 0)
    options = {"ids": ids, "where": where} if masked else {}
    check(nt_xent(*views, temperature=0.4, **options), wanted)


def test_nt_xent_with_a_memory_leaves_out_equal_ids(draws):
    views, shared = np.stack([draws["x"], draws["y"]]), draws["shared"]
    wanted = []
    for view in (0, 1):
        for i in range(N):
            others = [
                views[v, j] for v in (0, 1) for j in range(N) if IDS[j] != IDS[i] and WHERE[j]
            ]
            others += [shared[j] for j in range(M) if SHARED_IDS[j] != IDS[i]]
            loss = anchor_loss(views[view, i], views[1 - view, i], others, 0.4)
            wanted.append(loss if WHERE[i] else 0)
    found = nt_xent(*views, shared, temperature=0.4, ids=IDS, negative_ids=SHARED_IDS, where=WHERE)
    check(found, wanted)


@pytest.mark.parametrize("loss", [info_nce, nt_xent], ids=["info_nce", "nt_xent"])
def test_no_negative_no_loss(draws, loss):
    """A single row, or a batch of equal ids, has nothing to be told from."""
    one = loss(draws["x"][:1], draws["y"][:1])
    same = loss(draws["x"], draws["y"], ids=jnp.zeros(N, int))
    assert not np.any(one)
    assert not np.any(same)


def test_chance_level():
    """Where all similarities are equal the loss is the log of the number of candidates."""
    rows = jnp.ones((N, D))
    check(info_nce(rows, rows), [np.log(N)] * N)
    check(info_nce(rows, rows, jnp.ones((M, D))), [np.log(1 + M)] * N)
    check(nt_xent(rows, rows), [np.log(2 * N - 1)] * 2 * N)


def test_permuting_rows_permutes_losses(draws):
    order = np.array([3, 1, 5, 0, 2, 4])
    x, y = draws["x"], draws["y"]
    check(info_nce(x[order], y[order]), info_nce(x, y)[order])
    first, second = jnp.split(nt_xent(x, y), 2)
    check(nt_xent(y, x), jnp.concatenate([second, first]))


@pytest.mark.slow
def test_gradients_by_finite_differences(draws):
    with jax.enable_x64(True):
        x, y, own = (jnp.asarray(draws[name]) for name in ("x", "y", "own"))

        def total(x, y, own, temperature):
            given = info_nce(
                x, y, own, temperature=temperature, ids=IDS, negative_ids=OWN_IDS, where=WHERE
            )
            in_batch = info_nce(x, y, temperature=temperature, ids=IDS, where=WHERE)
            return jnp.sum(given) + jnp.sum(in_batch)

        check_grads(jax.jit(total), (x, y, own, 0.3), order=1, modes=["rev"], rtol=1e-6)
