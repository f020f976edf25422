"""What the losses over statistics of a batch keep to.

Masked rows, finite values, float types, traced hyper-parameters.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batch_loss_cases import LOSSES, SCALARS, WHERE, N, inputs_of

# Golden values and equations of these losses are in the fast tests.
pytestmark = pytest.mark.slow


def value_and_gradients(loss, inputs, **options):
    def mean_loss(*inputs):
        values = loss(*inputs, **options)
        return jnp.mean(values), values

    gradients, values = jax.grad(mean_loss, range(len(inputs)), has_aux=True)(*inputs)
    return values, gradients


@pytest.mark.parametrize("name", LOSSES)
def test_masked_rows_are_as_if_absent(name):
    """NaN in them reaches nothing; the others have the losses and gradients of a batch without."""
    loss, inputs = LOSSES[name][0], inputs_of(name)
    poisoned = [x.at[~WHERE].set(jnp.nan) for x in inputs]
    with_where = jax.jit(lambda inputs, where: value_and_gradients(loss, inputs, where=where))
    values, gradients = with_where(poisoned, WHERE)
    without = jax.jit(functools.partial(value_and_gradients, loss))
    wanted, wanted_gradients = without([x[WHERE] for x in inputs])

    # A mean of values is over all N rows, of which WHERE.sum() are left.
    factor = 1 if name in SCALARS else N / WHERE.sum()
    if name in SCALARS:
        np.testing.assert_allclose(values, wanted, rtol=1e-5)
    else:
        np.testing.assert_allclose(values[WHERE], wanted, rtol=1e-4, atol=1e-5)
        assert not np.any(values[~WHERE])
    for found, expected in zip(gradients, wanted_gradients, strict=True):
        np.testing.assert_allclose(
            factor * found[WHERE], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()
        )
        assert not np.any(found[~WHERE])
    for nothing in jax.tree.leaves(with_where(poisoned, jnp.zeros(N, bool))):
        assert not np.any(nothing)


@pytest.mark.parametrize("name", LOSSES)
def test_nan_in_a_row_that_counts_is_not_hidden(name):
    inputs = inputs_of(name)
    inputs[0] = inputs[0].at[2].set(jnp.nan)
    values = LOSSES[name][0](*inputs)
    assert np.isnan(values if name in SCALARS else values[2])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)])
def test_half_precision(name, dtype):
    """All is computed in float32, from the rounded inputs."""
    loss, inputs = LOSSES[name][0], [x.astype(dtype) for x in inputs_of(name)]
    values = loss(*inputs)
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, loss(*(x.astype(jnp.float32) for x in inputs)), rtol=1e-6)
    np.testing.assert_allclose(np.mean(values), np.mean(loss(*inputs_of(name))), rtol=1e-2)
    gradients = jax.eval_shape(lambda *inputs: value_and_gradients(loss, inputs)[1], *inputs)
    assert all(gradient.dtype == dtype for gradient in gradients)


EXTREMES = {
    "zero rows": lambda x: x.at[:2].set(0),
    "all zero": jnp.zeros_like,
    "all rows equal": lambda x: jnp.broadcast_to(x[:1], x.shape),
    "a constant dimension": lambda x: x.at[:, 0].set(3.7),
    "two equal dimensions": lambda x: x.at[:, 0].set(x[:, 1]),
    "large rows": lambda x: x * 1e4,
    "small rows": lambda x: x * 1e-4,
    "tiny rows": lambda x: x * 1e-30,
}
LOW_TEMPERATURE = {
    "swav": {"temperature": 1e-3, "epsilon": 1e-3},
    "swav memory": {"temperature": 1e-3, "epsilon": 1e-3},
    "dino": {"student_temperature": 1e-3, "teacher_temperature": 1e-3},
}


@pytest.mark.parametrize("name", LOSSES)
def test_finite_at_extremes(name):
    def evaluate(inputs):
        return value_and_gradients(LOSSES[name][0], inputs, **LOW_TEMPERATURE.get(name, {}))

    inputs = inputs_of(name)
    stacked = [jnp.stack([change(x) for change in EXTREMES.values()]) for x in inputs]
    for found in jax.tree.leaves(jax.jit(jax.vmap(evaluate))(stacked)):
        broken = ~np.all(np.isfinite(found), axis=tuple(range(1, found.ndim)))
        assert not np.any(broken), np.array(list(EXTREMES))[broken]
    found = jax.tree.leaves(jax.jit(evaluate)([x[:1] for x in inputs]))
    assert all(np.all(np.isfinite(x)) for x in found)


@pytest.mark.parametrize("name", ["tico", "mmcr"])
def test_cosine_ignores_length(name):
    loss, inputs = LOSSES[name][0], inputs_of(name)
    lengths = 10 ** jnp.linspace(-3, 3, N)[:, None]
    found = loss(inputs[0] * lengths, *inputs[1:])
    np.testing.assert_allclose(found, loss(*inputs), rtol=1e-5, atol=1e-6)
    unit = [x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in inputs]
    np.testing.assert_allclose(loss(*unit, similarity="dot"), loss(*inputs), rtol=1e-5, atol=1e-6)
    assert abs(jnp.mean(loss(*inputs, similarity="dot") - loss(*inputs))) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_order_of_rows_does_not_matter(name):
    loss, inputs = LOSSES[name][0], inputs_of(name)
    order = np.random.default_rng(0).permutation(N)
    wanted = loss(*inputs)
    found = loss(*(x[order] for x in inputs))
    wanted = wanted if name in SCALARS else wanted[order]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "option", "low", "high"),
    [
        ("barlow_twins", "lambd", 0.1, 0.3),
        ("vicreg", "nu", 1.0, 9.0),
        ("swav", "temperature", 0.2, 0.5),
        ("swav", "epsilon", 0.2, 0.5),
        ("dino", "student_temperature", 0.2, 0.5),
        ("dino", "teacher_temperature", 0.2, 0.5),
        ("tico", "rho", 1.0, 9.0),
        ("w_mse", "epsilon", 0.1, 0.2),
    ],
)
def test_hyper_parameters_may_be_traced(name, option, low, high):
    def mean_loss(value):
        return jnp.mean(LOSSES[name][0](*inputs_of(name), **{option: value}))

    # Two at once: a population in one program.
    found = jax.jit(jax.vmap(mean_loss))(jnp.array([low, high]))
    np.testing.assert_allclose(found, [mean_loss(low), mean_loss(high)], rtol=1e-5)
    assert abs(found[0] - found[1]) > 1e-3
