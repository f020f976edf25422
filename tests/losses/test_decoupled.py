"""dcl and dclw against their equations, written as loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import losses

dcl, dclw = jax.jit(losses.dcl), jax.jit(losses.dclw)

N, D = 6, 4
IDS = np.array([3, 7, 7, 3, 1, 2])
WHERE = np.array([True, True, False, True, True, True])


@pytest.fixture(scope="module")
def views():
    return np.random.default_rng(0).normal(size=(2, N, D))


def reference(views, temperature, weights, ids, where):
    unit = views / np.linalg.norm(views, axis=-1, keepdims=True)
    wanted = []
    for view in (0, 1):
        for i in range(N):
            anchor, positive = unit[view, i], unit[1 - view, i]
            others = [unit[v, j] for v in (0, 1) for j in range(N) if ids[j] != ids[i] and where[j]]
            denominator = sum(np.exp(anchor @ other / temperature) for other in others)
            loss = np.log(denominator) - weights[i] * (anchor @ positive) / temperature
            wanted.append(loss if where[i] else 0)
    return wanted


@pytest.mark.parametrize("masked", [False, True])
def test_dcl(views, masked):
    ids, where = (IDS, WHERE) if masked else (np.arange(N), np.ones(N, bool))
    options = {"ids": ids, "where": where} if masked else {}
    found = dcl(*views, temperature=0.2, **options)
    wanted = reference(views, 0.2, np.ones(N), ids, where)
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_dclw(views, masked):
    ids, where = (IDS, WHERE) if masked else (np.arange(N), np.ones(N, bool))
    unit = views / np.linalg.norm(views, axis=-1, keepdims=True)
    sharpened = np.exp(np.sum(unit[0] * unit[1], axis=1) / 0.5)
    weights = 2 - sharpened / np.mean(sharpened[where])
    options = {"ids": ids, "where": where} if masked else {}
    found = dclw(*views, temperature=0.2, sigma=0.5, **options)
    wanted = reference(views, 0.2, weights, ids, where)
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)


def test_dclw_with_large_sigma_is_dcl(views):
    np.testing.assert_allclose(dclw(*views, sigma=1e6), dcl(*views), atol=1e-4)


@pytest.mark.parametrize("loss", [dcl, dclw], ids=["dcl", "dclw"])
def test_no_negative_no_loss(views, loss):
    assert not np.any(loss(*views[:, :1]))
    assert not np.any(loss(*views, ids=jnp.zeros(N, int)))
