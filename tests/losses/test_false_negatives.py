"""Negatives above a similarity are left out: against loops, under every backend."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl.losses import clip, info_nce, nt_xent

N, M, D = 9, 14, 3
X, Y, QUEUE = (np.random.default_rng(0).normal(size=(rows, D)) for rows in (N, N, M))
X, Y, QUEUE = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (X, Y, QUEUE))
IGNORE_ABOVE, TEMPERATURE = 0.5, 0.4


def slow(query, positive, negatives):
    kept = [query @ key / TEMPERATURE for key in negatives if query @ key <= IGNORE_ABOVE]
    positive = query @ positive / TEMPERATURE
    return np.log(np.exp(positive) + np.sum(np.exp(kept))) - positive


def others(rows, number):
    return np.delete(rows, number, axis=0)


of_views = [slow(X[i], Y[i], np.concatenate([others(X, i), others(Y, i)])) for i in range(N)]
of_views += [slow(Y[i], X[i], np.concatenate([others(X, i), others(Y, i)])) for i in range(N)]
CASES = {
    "queue": (info_nce, [X, Y, QUEUE], [slow(X[i], Y[i], QUEUE) for i in range(N)]),
    "batch": (info_nce, [X, Y], [slow(X[i], Y[i], others(Y, i)) for i in range(N)]),
    "nt_xent": (nt_xent, [X, Y], of_views),
    "clip": (
        lambda *arrays, temperature, **options: clip(
            *arrays, logit_scale=-jnp.log(temperature), **options
        ),
        [X, Y],
        [slow(X[i], Y[i], others(Y, i)) for i in range(N)]
        + [slow(Y[i], X[i], others(X, i)) for i in range(N)],
    ),
}


@pytest.mark.parametrize("block_size", [None, 4])
@pytest.mark.parametrize("case", CASES)
def test_values(case, block_size):
    loss, arrays, wanted = CASES[case]
    loss = functools.partial(
        loss, temperature=TEMPERATURE, ignore_above=IGNORE_ABOVE, block_size=block_size
    )
    found = jax.jit(loss)(*(jnp.asarray(rows, jnp.float32) for rows in arrays))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    unlimited = jax.jit(functools.partial(loss, ignore_above=None))(*arrays)
    assert (np.asarray(unlimited) > np.asarray(wanted) + 0.01).any()
