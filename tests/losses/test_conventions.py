"""What every loss keeps to: masked rows, finite values, float types, traced hyper-parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import losses

N, M, D = 6, 5, 8
WHERE = np.array([True, False, True, True, False, True])

triplet = functools.partial(losses.triplet, margin=0.5)
clip = functools.partial(losses.clip, logit_scale=2.0)
siglip = functools.partial(losses.siglip, logit_scale=1.0, logit_bias=-3.0)
LABELS = "[N] integers"

# name: the loss, and the shapes of its arrays
LOSSES = {
    "info_nce in batch": (losses.info_nce, [(N, D), (N, D)]),
    "info_nce shared": (losses.info_nce, [(N, D), (N, D), (M, D)]),
    "info_nce own": (losses.info_nce, [(N, D), (N, D), (N, M, D)]),
    "nt_xent": (losses.nt_xent, [(N, D), (N, D)]),
    "nt_xent memory": (losses.nt_xent, [(N, D), (N, D), (M, D)]),
    "dcl": (losses.dcl, [(N, D), (N, D)]),
    "dclw": (losses.dclw, [(N, D), (N, D)]),
    "hard_nt_xent": (losses.hard_nt_xent, [(N, D), (N, D)]),
    "debiased nt_xent": (functools.partial(losses.hard_nt_xent, beta=0), [(N, D), (N, D)]),
    "sup_con": (losses.sup_con, [(N, D), LABELS]),
    "clip": (clip, [(N, D), (N, D)]),
    "siglip": (siglip, [(N, D), (N, D)]),
    "triplet": (triplet, [(N, D), (N, D), (N, D)]),
    "triplet cosine": (functools.partial(triplet, distance="cosine"), [(N, D), (N, D), (N, M, D)]),
    "distance_difference": (losses.distance_difference, [(N, D), (N, D), (N, M, D)]),
    "negative_cosine": (losses.negative_cosine, [(N, D), (N, D)]),
}
WITH_TEMPERATURE = [
    name
    for name in LOSSES
    if name.startswith(("info_nce", "nt_xent", "dcl", "hard", "debiased", "sup_con"))
]
COSINE = [name for name in LOSSES if name != "triplet"]


def inputs_of(name, seed=0):
    shapes = LOSSES[name][1]
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return [
        jnp.array([0, 1, 0, 1, 1, 0]) if shape is LABELS else jax.random.normal(key, shape)
        for key, shape in zip(keys, shapes, strict=True)
    ]


def is_float(x):
    return jnp.issubdtype(x.dtype, jnp.floating)


def values_and_gradients(loss, inputs, **options):
    def mean_loss(*inputs):
        values = loss(*inputs, **options)
        return jnp.mean(values), values

    floats = [i for i, x in enumerate(inputs) if is_float(x)]
    gradients, values = jax.grad(mean_loss, floats, has_aux=True)(*inputs)
    return values, gradients


@pytest.mark.parametrize("name", LOSSES)
def test_masked_rows_are_as_if_absent(name):
    """NaN in them reaches nothing; the others have the losses and gradients of a batch without."""
    loss, inputs = LOSSES[name][0], inputs_of(name)
    with_where = jax.jit(lambda inputs, where: values_and_gradients(loss, inputs, where=where))
    by_row = [len(x) == N for x in inputs]
    poisoned = [
        x.at[~WHERE].set(jnp.nan) if rows and is_float(x) else x
        for x, rows in zip(inputs, by_row, strict=True)
    ]
    values, gradients = with_where(poisoned, jnp.asarray(WHERE))

    present = [x[WHERE] if rows else x for x, rows in zip(inputs, by_row, strict=True)]
    without = jax.jit(lambda inputs: values_and_gradients(loss, inputs))
    wanted_values, wanted_gradients = without(present)
    counts = np.tile(WHERE, len(values) // N)
    np.testing.assert_allclose(values[counts], wanted_values, rtol=1e-5, atol=1e-6)
    assert not np.any(values[~counts])
    by_row = [rows for x, rows in zip(inputs, by_row, strict=True) if is_float(x)]
    for gradient, wanted, rows in zip(gradients, wanted_gradients, by_row, strict=True):
        # The mean is over all N rows, of which WHERE.sum() are left.
        found = (gradient[WHERE] if rows else gradient) * (N / WHERE.sum())
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
        if rows:
            assert not np.any(gradient[~WHERE])

    for nothing in jax.tree.leaves(with_where(poisoned, jnp.zeros(N, bool))):
        assert not np.any(nothing)


@pytest.mark.parametrize("name", LOSSES)
def test_nan_in_a_row_that_counts_is_not_hidden(name):
    inputs = inputs_of(name)
    inputs[0] = inputs[0].at[2].set(jnp.nan)
    assert np.isnan(LOSSES[name][0](*inputs)[2])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)])
def test_half_precision(name, dtype):
    """All is computed in float32, from the rounded inputs; rows of 1e4 do not overflow."""
    loss = LOSSES[name][0]
    inputs = [(x * 1e4).astype(dtype) if is_float(x) else x for x in inputs_of(name)]
    values = loss(*inputs)
    assert values.dtype == jnp.float32
    in_float32 = (x.astype(jnp.float32) if is_float(x) else x for x in inputs)
    np.testing.assert_allclose(values, loss(*in_float32), rtol=1e-6)
    gradients = jax.eval_shape(lambda *inputs: values_and_gradients(loss, inputs)[1], *inputs)
    assert all(gradient.dtype == dtype for gradient in gradients)


# What losses commonly break on, as functions of an array of ordinary rows.
EXTREMES = {
    "zero rows": lambda x: x.at[:2].set(0),
    "all zero": jnp.zeros_like,
    "all rows equal": jnp.ones_like,
    "large rows": lambda x: x * 1e4,
    "small rows": lambda x: x * 1e-4,
    "tiny rows": lambda x: x * 1e-30,
}


@pytest.mark.parametrize("name", LOSSES)
def test_finite_at_extremes(name):
    options = {"temperature": 1e-3} if name in WITH_TEMPERATURE else {}

    def evaluate(inputs):
        return values_and_gradients(LOSSES[name][0], inputs, **options)

    inputs = inputs_of(name)
    stacked = [
        jnp.stack([change(x) if is_float(x) else x for change in EXTREMES.values()]) for x in inputs
    ]
    for found in jax.tree.leaves(jax.jit(jax.vmap(evaluate))(stacked)):
        broken = ~np.all(np.isfinite(found), axis=tuple(range(1, found.ndim)))
        assert not np.any(broken), np.array(list(EXTREMES))[broken]
    one_row = [x[:1] if len(x) == N else x for x in inputs]
    found = jax.tree.leaves(jax.jit(evaluate)(one_row))
    assert all(np.all(np.isfinite(x)) for x in found)


@pytest.mark.parametrize("name", COSINE)
def test_cosine_ignores_length(name):
    loss, inputs = LOSSES[name][0], inputs_of(name)
    lengths = jnp.array([1e-3, 0.1, 1, 3, 40, 1e3])
    scaled = [inputs[0] * lengths[:, None], *inputs[1:]]
    np.testing.assert_allclose(loss(*scaled), loss(*inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", WITH_TEMPERATURE)
def test_dot_takes_rows_as_they_are(name):
    loss, inputs = LOSSES[name][0], inputs_of(name)
    unit = [x / jnp.linalg.norm(x, axis=-1, keepdims=True) if is_float(x) else x for x in inputs]
    np.testing.assert_allclose(loss(*unit, similarity="dot"), loss(*inputs), rtol=1e-5, atol=1e-6)
    longer = [2 * x if is_float(x) else x for x in unit]
    found = loss(*longer, similarity="dot", temperature=0.4)
    # The weights of dclw see the length too, and the bound of the debiased losses is for unit rows.
    if name not in ("dclw", "hard_nt_xent", "debiased nt_xent"):
        np.testing.assert_allclose(found, loss(*inputs, temperature=0.1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", WITH_TEMPERATURE)
def test_temperature_may_be_traced(name):
    loss, inputs = LOSSES[name][0], inputs_of(name)

    def mean_loss(temperature):
        return jnp.mean(loss(*inputs, temperature=temperature))

    # Two at once: a population in one program.
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(mean_loss)))(jnp.array([0.1, 0.2]))
    np.testing.assert_allclose(values, [mean_loss(0.1), mean_loss(0.2)], rtol=1e-5)
    numeric = (mean_loss(0.202) - mean_loss(0.198)) / 0.004
    np.testing.assert_allclose(slopes[1], numeric, rtol=2e-3)


def test_margin_and_sigma_may_be_traced():
    inputs = inputs_of("triplet")
    jitted = jax.jit(lambda margin: losses.triplet(*inputs, margin=margin))
    np.testing.assert_allclose(jitted(0.7), losses.triplet(*inputs, margin=0.7), rtol=1e-6)
    jitted = jax.jit(lambda sigma: losses.dclw(*inputs[:2], sigma=sigma))
    np.testing.assert_allclose(jitted(0.7), losses.dclw(*inputs[:2], sigma=0.7), rtol=1e-5)


def test_numpy_inputs_are_taken():
    inputs = [np.asarray(x) for x in inputs_of("nt_xent")]
    np.testing.assert_array_equal(losses.nt_xent(*inputs), losses.nt_xent(*inputs_of("nt_xent")))
