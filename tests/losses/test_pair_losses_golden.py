"""Losses over pairs and on the sphere: golden values and gradients, and finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pair_loss_cases import LOSSES, D, N, is_float, values_and_gradients

from jaxcl.losses.labelled_pairs import circle, multi_similarity
from jaxcl.losses.n_pairs import n_pairs
from jaxcl.losses.pairs import pair_margin
from jaxcl.losses.spread import alignment, koleo, uniformity

GOLDEN = {
    "pair_margin": (pair_margin, ["x", "y", "same"]),
    "n_pairs": (n_pairs, ["anchor", "positive"]),
    "multi_similarity": (multi_similarity, ["embeddings", "labels"]),
    "circle": (circle, ["embeddings", "labels"]),
    "align": (alignment, ["x", "y"]),
    "uniform": (uniformity, ["x"]),
    "koleo": (koleo, ["x"]),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_value_and_gradients(golden, case):
    loss, names = GOLDEN[case]
    reference = golden(case)
    inputs = [jnp.asarray(reference.inputs[name]) for name in names]
    evaluate = jax.jit(lambda inputs: values_and_gradients(loss, inputs, **reference.parameters))
    values, gradients = evaluate(inputs)
    np.testing.assert_allclose(jnp.mean(values), reference.loss, rtol=1e-5)
    learned = [name for name, x in zip(names, inputs, strict=True) if is_float(x)]
    for name, gradient in zip(learned, gradients, strict=True):
        wanted = reference.gradients[name]
        # Entries that nearly cancel are off by the rounding of the others.
        np.testing.assert_allclose(
            gradient, wanted, rtol=1e-4, atol=1e-6 * np.abs(wanted).max(), err_msg=name
        )


# Not circle, whose gradient is not its slope (see test_labelled_pairs.py).
@pytest.mark.parametrize("name", [name for name in LOSSES if name != "circle"])
def test_gradients_are_slopes(name):
    loss, inputs = LOSSES[name]
    _, gradients = jax.jit(functools.partial(values_and_gradients, loss))(inputs)
    direction = jax.random.normal(jax.random.key(3), (N, D))
    with jax.enable_x64(True):
        wide = [x.astype(jnp.float64) if is_float(x) else x for x in inputs]
        step = 1e-6 * direction.astype(jnp.float64)
        mean_loss = jax.jit(lambda x: jnp.mean(loss(x, *wide[1:])))
        ahead, behind = mean_loss(wide[0] + step), mean_loss(wide[0] - step)
        numeric = float((ahead - behind) / 2e-6)
    np.testing.assert_allclose(jnp.sum(gradients[0] * direction), numeric, rtol=1e-4)
