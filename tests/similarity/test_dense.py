"""The masked log-sum-exp over similarities, against loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl.similarity import masked_logsumexp, similarity_logsumexp

N, M, D = 5, 7, 4
RNG = np.random.default_rng(0)
QUERIES, KEYS, OWN = RNG.normal(size=(N, D)), RNG.normal(size=(M, D)), RNG.normal(size=(N, M, D))
QUERY_IDS, KEY_IDS = RNG.integers(0, 3, N), RNG.integers(0, 3, M)
KEY_WHERE = np.array([1, 1, 0, 1, 0, 1, 1], bool)


def reference(keys, temperature, counts):
    each = np.broadcast_to(keys, (N, M, D))
    return [
        np.log(sum(np.exp(QUERIES[i] @ each[i, j] / temperature) for j in range(M) if counts[i, j]))
        for i in range(N)
    ]


@pytest.mark.parametrize("keys", [KEYS, OWN], ids=["shared", "own"])
def test_values(keys):
    everything = np.ones((N, M), bool)
    found = similarity_logsumexp(QUERIES, keys, temperature=0.5)
    np.testing.assert_allclose(found, reference(keys, 0.5, everything), rtol=1e-5)

    counts = (QUERY_IDS[:, None] != KEY_IDS) & KEY_WHERE
    assert np.all(np.any(counts, axis=1))
    found = similarity_logsumexp(
        QUERIES, keys, temperature=0.5, query_ids=QUERY_IDS, key_ids=KEY_IDS, key_where=KEY_WHERE
    )
    np.testing.assert_allclose(found, reference(keys, 0.5, counts), rtol=1e-5)


def test_order_of_keys_does_not_matter():
    order = RNG.permutation(M)
    options = {"temperature": 0.5, "query_ids": QUERY_IDS}
    found = similarity_logsumexp(QUERIES, KEYS[order], key_ids=KEY_IDS[order], **options)
    wanted = similarity_logsumexp(QUERIES, KEYS, key_ids=KEY_IDS, **options)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_without_a_key_minus_infinity_and_no_gradient():
    def total(queries, keys):
        values = similarity_logsumexp(queries, keys, temperature=0.5, key_where=jnp.zeros(M, bool))
        return jnp.sum(jax.nn.softplus(values)), values

    gradients, values = jax.grad(total, argnums=(0, 1), has_aux=True)(
        *map(jnp.asarray, (QUERIES, KEYS))
    )
    np.testing.assert_array_equal(values, -np.inf)
    assert not any(np.any(gradient) for gradient in gradients)


def test_gradient_is_the_softmax_over_what_counts():
    """Also where an entry that does not count is the largest, and where none counts."""
    logits = jnp.array([[1.0, 2.0, 3.0], [1000.0, -1000.0, 0.0], [5.0, 6.0, 7.0]])
    counts = jnp.array([[True, False, True], [False, True, True], [False, False, False]])
    gradient = jax.grad(lambda logits: jnp.sum(masked_logsumexp(logits, counts)))(logits)
    low, high = 1 / (1 + np.e**2), 1 / (1 + np.e**-2)
    np.testing.assert_allclose(gradient, [[low, 0, high], [0, 0, 1], [0, 0, 0]], rtol=1e-6)


def test_large_logits_do_not_overflow():
    found = masked_logsumexp(jnp.array([[1e4, 1e4], [-1e4, -1e4]]), jnp.ones((2, 2), bool))
    np.testing.assert_allclose(found, [1e4 + np.log(2), -1e4 + np.log(2)], rtol=1e-6)
