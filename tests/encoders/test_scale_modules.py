"""The modules that hold learned scales: parameters, what they read, what they learn with a loss."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcl.encoders.scales import LearnableTemperature, SigmoidScaleAndBias
from jaxcl.losses.image_text import clip, siglip

IMAGE, TEXT = np.random.default_rng(0).normal(size=(2, 8, 4)).astype(np.float32)


def test_temperature_starts_and_is_clamped():
    module = LearnableTemperature(0.2)
    logit_scale, variables = module.init_with_output(jax.random.key(0))
    np.testing.assert_allclose(logit_scale, np.log(5), rtol=1e-6)
    assert jax.tree.map(jnp.shape, variables) == {"params": {"logit_scale": ()}}
    beyond = {"params": {"logit_scale": jnp.asarray(9.0)}}
    np.testing.assert_allclose(jnp.exp(module.apply(beyond)), 100, rtol=1e-5)
    np.testing.assert_allclose(
        jnp.exp(LearnableTemperature(max_scale=7.0).apply(beyond)), 7, rtol=1e-5
    )


def test_clip_learns_the_temperature():
    """Of embeddings that match exactly, every step raises it, to the bound and no further."""
    module = LearnableTemperature()
    parameters = module.init(jax.random.key(0))
    optimizer = optax.sgd(300.0)

    @jax.jit
    def step(parameters, state):
        def loss(parameters):
            return jnp.mean(clip(IMAGE, IMAGE, logit_scale=module.apply(parameters)))

        value, gradient = jax.value_and_grad(loss)(parameters)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(parameters, updates), state, value

    state, read = optimizer.init(parameters), [float(module.apply(parameters))]
    for _ in range(10):
        parameters, state, _ = step(parameters, state)
        read.append(float(module.apply(parameters)))
    assert all(after >= before for before, after in itertools.pairwise(read))
    np.testing.assert_allclose(read[-1], np.log(100), rtol=1e-5)


@pytest.mark.slow
def test_siglip_takes_scale_and_bias():
    module = SigmoidScaleAndBias()
    read, variables = module.init_with_output(jax.random.key(0))
    assert jax.tree.map(jnp.shape, variables) == {"params": {"logit_scale": (), "logit_bias": ()}}
    wanted = siglip(IMAGE, TEXT, logit_scale=np.log(10.0), logit_bias=-10.0)
    np.testing.assert_allclose(siglip(IMAGE, TEXT, **read._asdict()), wanted, rtol=1e-5)
    gradient = jax.grad(lambda v: jnp.mean(siglip(IMAGE, TEXT, **module.apply(v)._asdict())))(
        variables
    )
    assert all(np.all(leaf != 0) for leaf in jax.tree.leaves(gradient))
    # Nothing bounds this scale.
    beyond = {"params": {"logit_scale": jnp.asarray(9.0), "logit_bias": jnp.asarray(-1.0)}}
    assert float(module.apply(beyond).logit_scale) == 9
