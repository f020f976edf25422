"""clip and siglip against their equations, written as loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxcl import losses

clip, siglip = jax.jit(losses.clip), jax.jit(losses.siglip)

N, D = 6, 4
RANDOM = np.random.default_rng(0)
IMAGE, TEXT = RANDOM.normal(size=(2, N, D))
IDS = np.array([3, 7, 7, 3, 1, 2])
WHERE = np.array([1, 1, 0, 1, 1, 1], bool)
CASES = {"all": (np.arange(N), np.ones(N, bool)), "some": (IDS, WHERE)}


def logits(scale, bias=0.0):
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (IMAGE, TEXT))
    return image @ text.T * np.exp(scale) + bias


@pytest.mark.parametrize("case", CASES)
def test_clip(case):
    ids, where = CASES[case]
    found = logits(1.3)
    wanted = []
    for table in (found, found.T):
        for i in range(N):
            others = [table[i, j] for j in range(N) if ids[j] != ids[i] and where[j]]
            total = np.exp(table[i, i]) + sum(np.exp(others))
            wanted.append(np.log(total) - table[i, i] if where[i] else 0)
    found = clip(IMAGE, TEXT, logit_scale=1.3, ids=ids, where=jnp.asarray(where))
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_siglip(case):
    ids, where = CASES[case]
    table = logits(1.3, -2.0)
    wanted = []
    for i in range(N):
        no = [table[i, j] for j in range(N) if ids[j] != ids[i] and where[j]]
        loss = np.log1p(np.exp(-table[i, i])) + sum(np.log1p(np.exp(no)))
        wanted.append(loss if where[i] else 0)
    options = {"logit_scale": 1.3, "logit_bias": -2.0, "ids": ids, "where": jnp.asarray(where)}
    np.testing.assert_allclose(siglip(IMAGE, TEXT, **options), wanted, rtol=2e-5, atol=1e-6)


@pytest.mark.slow
def test_gradients_by_finite_differences():
    with jax.enable_x64(True):

        def total(image, text, scale, bias):
            options = {"ids": IDS, "where": jnp.asarray(WHERE), "logit_scale": scale}
            both = clip(image, text, **options).sum()
            return both + siglip(image, text, logit_bias=bias, **options).sum()

        arguments = (jnp.asarray(IMAGE), jnp.asarray(TEXT), 1.3, -2.0)
        check_grads(jax.jit(total), arguments, order=1, modes=["rev"], rtol=1e-6)
