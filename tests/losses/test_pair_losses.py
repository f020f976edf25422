"""What the losses over pairs and on the sphere keep to.

Masked rows, finite values, float types, traced hyper-parameters.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pair_loss_cases import (
    COSINE,
    LABELS,
    LOSSES,
    SCALARS,
    WHERE,
    N,
    is_float,
    values_and_gradients,
)

# Golden values and equations of these losses are in the fast tests.
pytestmark = pytest.mark.slow


def poison(x):
    return x.at[~WHERE].set(jnp.nan) if is_float(x) else x


@pytest.mark.parametrize("name", LOSSES)
def test_masked_rows_are_as_if_absent(name):
    """NaN in them reaches nothing; the others have the losses and gradients of a batch without."""
    loss, inputs = LOSSES[name]
    poisoned = [poison(x) for x in inputs]
    with_where = jax.jit(lambda inputs, where: values_and_gradients(loss, inputs, where=where))
    values, gradients = with_where(poisoned, WHERE)
    without = jax.jit(functools.partial(values_and_gradients, loss))
    wanted, wanted_gradients = without([x[WHERE] for x in inputs])

    # A mean of values is over all N rows, of which WHERE.sum() are left.
    factor = 1 if name in SCALARS else N / WHERE.sum()
    if name in SCALARS:
        np.testing.assert_allclose(values, wanted, rtol=1e-5)
    else:
        np.testing.assert_allclose(values[WHERE], wanted, rtol=1e-5, atol=1e-6)
        assert not np.any(values[~WHERE])
    for found, expected in zip(gradients, wanted_gradients, strict=True):
        np.testing.assert_allclose(
            factor * found[WHERE], expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max()
        )
        assert not np.any(found[~WHERE])
    for nothing in jax.tree.leaves(with_where(poisoned, jnp.zeros(N, bool))):
        assert not np.any(nothing)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "multi_similarity mined"])
def test_nan_in_a_row_that_counts_is_not_hidden(name):
    loss, inputs = LOSSES[name]
    values = loss(inputs[0].at[1].set(jnp.nan), *inputs[1:])
    assert np.isnan(values if name in SCALARS else values[1])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)])
def test_half_precision(name, dtype):
    """All is computed in float32, from the rounded inputs; rows of 1e4 do not overflow."""
    loss, inputs = LOSSES[name]
    for scale in (1, 1e4):
        scaled = [x * scale if is_float(x) else x for x in inputs]
        half = [x.astype(dtype) if is_float(x) else x for x in scaled]
        rounded = [x.astype(jnp.float32) if is_float(x) else x for x in half]
        values = loss(*half)
        assert values.dtype == jnp.float32
        np.testing.assert_allclose(values, loss(*rounded), rtol=1e-6)
        np.testing.assert_allclose(np.mean(values), np.mean(loss(*scaled)), rtol=1e-2)
    gradients = jax.eval_shape(lambda *inputs: values_and_gradients(loss, inputs)[1], *half)
    assert all(gradient.dtype == dtype for gradient in gradients)


EXTREMES = {
    "zero rows": lambda x: x.at[:2].set(0),
    "all zero": jnp.zeros_like,
    "all rows equal": lambda x: jnp.broadcast_to(x[:1], x.shape),
    "two rows equal": lambda x: x.at[0].set(x[3]),
    "two rows nearly equal": lambda x: x.at[0].set(x[3] * (1 + 2e-7)),
    "large rows": lambda x: x * 1e4,
    "small rows": lambda x: x * 1e-4,
    "tiny rows": lambda x: x * 1e-30,
}


@pytest.mark.parametrize("name", LOSSES)
def test_finite_at_extremes(name):
    loss, inputs = LOSSES[name]

    def evaluate(inputs):
        return values_and_gradients(loss, inputs)

    stacked = [
        jnp.stack([change(x) if is_float(x) else x for change in EXTREMES.values()]) for x in inputs
    ]
    names = list(EXTREMES)
    if inputs[-1].dtype == LABELS.dtype:  # all positives, then all negatives
        more = [jnp.stack([x, x]) for x in inputs[:-1]] + [jnp.stack([0 * LABELS, jnp.arange(N)])]
        stacked = [jnp.concatenate(both) for both in zip(stacked, more, strict=True)]
        names += ["no negatives", "no positives"]
    for found in jax.tree.leaves(jax.jit(jax.vmap(evaluate))(stacked)):
        broken = ~np.all(np.isfinite(found), axis=tuple(range(1, found.ndim)))
        assert not np.any(broken), np.array(names)[broken]
    one_row = jax.tree.leaves(jax.jit(evaluate)([x[:1] for x in inputs]))
    assert all(np.all(np.isfinite(x)) for x in one_row)


@pytest.mark.parametrize("name", ["multi_similarity", "circle"])
def test_sharp_scales_are_finite(name):
    """As a temperature of 1e-3 is."""
    loss, inputs = LOSSES[name]
    scale = {"beta": 1e3, "alpha": 1e3} if name == "multi_similarity" else {"gamma": 1e3}
    evaluate = jax.jit(functools.partial(values_and_gradients, functools.partial(loss, **scale)))
    for change in EXTREMES.values():
        found = evaluate([change(inputs[0]), inputs[1]])
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(found))


@pytest.mark.parametrize("name", COSINE)
def test_cosine_ignores_length(name):
    loss, inputs = LOSSES[name]
    lengths = 10 ** jnp.linspace(-3, 3, N)[:, None]
    found = loss(inputs[0] * lengths, *inputs[1:])
    np.testing.assert_allclose(found, loss(*inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["multi_similarity", "circle"])
def test_dot_takes_rows_as_they_are(name):
    loss, (rows, labels) = LOSSES[name]
    unit = rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
    found = loss(unit, labels, similarity="dot")
    np.testing.assert_allclose(found, loss(rows, labels), rtol=1e-5, atol=1e-6)
    assert abs(jnp.mean(loss(rows, labels, similarity="dot") - loss(rows, labels))) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_order_of_rows_does_not_matter(name):
    loss, inputs = LOSSES[name]
    order = np.random.default_rng(0).permutation(N)
    wanted = loss(*inputs)
    found = loss(*(x[order] for x in inputs))
    wanted = wanted if name in SCALARS else wanted[order]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "option", "low", "high"),
    [
        ("pair_margin", "margin", 1.5, 3.0),
        ("multi_similarity", "alpha", 1.0, 3.0),
        ("multi_similarity", "beta", 5.0, 20.0),
        ("multi_similarity", "base", 0.2, 0.6),
        ("circle", "margin", 0.2, 0.5),
        ("circle", "gamma", 5.0, 20.0),
        ("lifted_structure", "margin", 0.5, 2.0),
        ("alignment", "alpha", 1.0, 2.5),
        ("uniformity", "t", 1.0, 3.0),
        ("koleo", "epsilon", 1e-8, 0.1),
    ],
)
def test_hyper_parameters_may_be_traced(name, option, low, high):
    loss, inputs = LOSSES[name]

    def mean_loss(value):
        return jnp.mean(loss(*inputs, **{option: value}))

    # Two at once: a population in one program.
    found = jax.jit(jax.vmap(mean_loss))(jnp.array([low, high]))
    np.testing.assert_allclose(found, [mean_loss(low), mean_loss(high)], rtol=1e-5)
    assert abs(found[0] - found[1]) > 1e-3
