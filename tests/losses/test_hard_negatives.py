"""hard_nt_xent against the authors' algorithm, written as loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxcl import losses

hard_nt_xent = jax.jit(losses.hard_nt_xent)

N, D = 7, 4
RANDOM = np.random.default_rng(0)
VIEWS = RANDOM.normal(size=(2, N, D))
IDS = np.array([0, 1, 2, 1, 3, 4, 5])
WHERE = np.array([1, 1, 1, 1, 0, 1, 1], bool)


def slow(temperature, tau_plus, beta, ids, where):
    rows = np.concatenate(VIEWS)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    ids, where = np.tile(ids, 2), np.tile(where, 2)
    found = []
    for i in range(2 * N):
        positive = np.exp(rows[i] @ rows[(i + N) % (2 * N)] / temperature)
        negatives = np.array(
            [
                np.exp(rows[i] @ rows[j] / temperature)
                for j in range(2 * N)
                if ids[j] != ids[i] and where[j]
            ]
        )
        count = len(negatives)
        weights = negatives**beta / np.mean(negatives**beta)
        g = (np.sum(weights * negatives) - tau_plus * count * positive) / (1 - tau_plus)
        g = max(g, count * np.exp(-1 / temperature))
        found.append(-np.log(positive / (positive + g)) if where[i] else 0)
    return found


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("tau_plus", "beta"), [(0.1, 1.0), (0.1, 0), (0.0, 2.0), (0.9, 0.5), (0.3, 0.0)]
)
def test_equals_the_algorithm(tau_plus, beta, masked):
    ids, where = (IDS, WHERE) if masked else (np.arange(N), np.ones(N, bool))
    found = hard_nt_xent(
        *VIEWS,
        temperature=0.4,
        tau_plus=tau_plus,
        beta=beta,
        ids=ids,
        where=jnp.asarray(where),
    )
    wanted = slow(0.4, tau_plus, beta, ids, where)
    np.testing.assert_allclose(found, wanted, rtol=5e-5, atol=1e-6)


@pytest.mark.slow
def test_without_either_correction_it_is_nt_xent():
    found = hard_nt_xent(*VIEWS, temperature=0.3, tau_plus=0.0, beta=0)
    np.testing.assert_allclose(found, jax.jit(losses.nt_xent)(*VIEWS, temperature=0.3), rtol=1e-5)


@pytest.mark.slow
def test_gradients_by_finite_differences():
    with jax.enable_x64(True):

        def total(z0, z1, temperature, beta):
            options = {"temperature": temperature, "beta": beta, "where": jnp.asarray(WHERE)}
            return jnp.sum(hard_nt_xent(z0, z1, tau_plus=0.05, **options))

        check_grads(
            jax.jit(total), (*map(jnp.asarray, VIEWS), 0.4, 0.7), order=1, modes=["rev"], rtol=1e-6
        )


def test_where_the_bound_holds_negatives_get_no_gradient():
    """With tau_plus near 1 nothing is left of the negatives but the bound."""
    z0 = jnp.asarray(VIEWS[0], jnp.float32)

    def total(z0, tau_plus):
        return jnp.sum(hard_nt_xent(z0, z0 + 1e-3, tau_plus=tau_plus, beta=0))

    of_negatives = jax.jit(jax.grad(total))
    gradient = of_negatives(z0, 0.99)
    assert np.all(np.isfinite(gradient))
    assert np.abs(gradient).max() < 1e-2 * np.abs(of_negatives(z0, 0.0)).max()
