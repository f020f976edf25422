"""Normalization: lengths, zero rows, extremes, and the gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxcl.similarity import l2_normalize, prepare, row_similarity

ROWS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def test_rows_become_unit():
    wanted = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)
    np.testing.assert_allclose(l2_normalize(ROWS), wanted, rtol=1e-6)
    np.testing.assert_allclose(l2_normalize(ROWS.reshape(5, 2, 2)[:, None]).shape, (5, 1, 2, 2))


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e37])
def test_no_row_over_or_underflows(scale):
    """1e20 squared is beyond float32."""
    np.testing.assert_allclose(l2_normalize(ROWS * scale), l2_normalize(ROWS), rtol=1e-6)


@pytest.mark.slow
def test_zero_rows_stay_zero_and_have_zero_gradient():
    rows = jnp.asarray(ROWS).at[1].set(0)
    weights = jnp.roll(jnp.asarray(ROWS), 1, axis=0)
    gradient = jax.grad(lambda rows: jnp.sum(l2_normalize(rows) * weights))(rows)
    assert not np.any(l2_normalize(rows)[1])
    assert not np.any(gradient[1])
    assert np.all(np.isfinite(gradient))
    assert np.all(np.any(gradient[jnp.array([0, 2, 3, 4])], axis=1))


@pytest.mark.slow
def test_gradient_by_finite_differences():
    """The scale that keeps rows in range must leave no trace in the gradient."""
    with jax.enable_x64(True):
        rows = jnp.asarray(ROWS, jnp.float64)
        check_grads(l2_normalize, (rows,), order=2, modes=["rev"], rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_widened(dtype):
    found = l2_normalize(jnp.asarray(ROWS, dtype))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(jnp.linalg.norm(found, axis=1), 1, rtol=1e-6)
    assert prepare(jnp.asarray(ROWS, dtype), "dot").dtype == jnp.float32


@pytest.mark.slow
def test_rows_that_do_not_count_become_zero():
    where = jnp.array([True, False, True, True, False])
    rows = jnp.asarray(np.stack([ROWS, ROWS], axis=1)).at[1].set(jnp.nan)  # [5, 2, 4]
    found = prepare(rows, "cosine", where)
    np.testing.assert_array_equal(found[where], l2_normalize(rows)[where])
    assert not np.any(found[~where])


def test_row_similarity_broadcasts():
    wanted = np.sum(ROWS[:, None] * ROWS[None], axis=-1)
    np.testing.assert_allclose(row_similarity(ROWS[:, None], ROWS[None]), wanted, rtol=1e-6)
