"""sup_con against its equation, written as loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import losses

sup_con = jax.jit(losses.sup_con)

N, M, D = 9, 5, 4
RANDOM = np.random.default_rng(0)
ROWS, MEMORY = RANDOM.normal(size=(N, D)), RANDOM.normal(size=(M, D))
LABELS = np.array([7, -2, 7, 7, 3, -2, 11, 7, 3])  # the only row of class 11 has no positive
MEMORY_LABELS = np.array([3, 11, 5, 7, 7])
WHERE = np.array([1, 1, 0, 1, 1, 0, 1, 1, 1], bool)


def cosine(x, y):
    return x @ y / np.linalg.norm(x) / np.linalg.norm(y)


def slow(where, with_memory, temperature):
    others = [(ROWS[j], LABELS[j], j) for j in range(N) if where[j]]
    if with_memory:
        others += [(MEMORY[j], MEMORY_LABELS[j], None) for j in range(M)]
    found = []
    for i in range(N):
        candidates = [(cosine(ROWS[i], x) / temperature, y) for x, y, j in others if j != i]
        positives = [s for s, y in candidates if y == LABELS[i]]
        if not where[i] or not positives:
            found.append(0)
            continue
        total = sum(np.exp(s) for s, _ in candidates)
        found.append(np.mean([-np.log(np.exp(s) / total) for s in positives]))
    return found


@pytest.mark.parametrize("with_memory", [False, True])
@pytest.mark.parametrize("where", [np.ones(N, bool), WHERE], ids=["all", "some"])
def test_equals_its_equation(where, with_memory):
    memory = (MEMORY, MEMORY_LABELS) if with_memory else ()
    found = sup_con(ROWS, LABELS, *memory, temperature=0.3, where=jnp.asarray(where))
    np.testing.assert_allclose(found, slow(where, with_memory, 0.3), rtol=2e-5, atol=1e-6)


def test_with_two_views_of_a_class_each_it_is_nt_xent():
    """The authors' remark: without labels, a class is an image."""
    z0, z1 = RANDOM.normal(size=(2, N, D))
    found = sup_con(np.concatenate([z0, z1]), np.tile(np.arange(N), 2), temperature=0.2)
    np.testing.assert_allclose(found, jax.jit(losses.nt_xent)(z0, z1, temperature=0.2), rtol=1e-5)
