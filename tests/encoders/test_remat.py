"""Rematerialization: the same gradients and statistics, with less kept for the backward pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl.encoders import ConvNeXt, ResNet, ViT, WideResNet

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)
ENCODERS = {
    "resnet": functools.partial(ResNet, 18, stem="cifar", width=4, zero_init_residual=False),
    "bottlenecks": functools.partial(
        ResNet, 50, stem="cifar", width=2, zero_init_residual=False, batch_norm_groups=2
    ),
    "wide": functools.partial(WideResNet, 10, 1),
    "vit": functools.partial(ViT, width=8, depth=3, heads=2, patch=4, image_size=16),
    "convnext": functools.partial(ConvNeXt, width=4, depths=(2, 2), patch=2),
}


def loss(encoder, variables, params):
    features, after = encoder.apply(
        {**variables, "params": params}, IMAGES, train=True, mutable=["batch_stats"]
    )
    return jnp.sum(jnp.square(features[:, :3])), after


def kept(encoder, variables):
    """Bytes that the backward pass keeps, the parameters aside."""
    _, pull = jax.eval_shape(
        lambda params: jax.vjp(functools.partial(loss, encoder, variables), params),
        variables["params"],
    )
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(pull))


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_less_is_kept_and_nothing_else_changes(name):
    plain = ENCODERS[name]()
    variables = jax.jit(plain.init)(KEY, IMAGES)
    results, sizes = {}, {}
    for remat in ("none", "products", "blocks"):
        encoder = ENCODERS[name](remat=remat)
        gradient = jax.value_and_grad(functools.partial(loss, encoder, variables), has_aux=True)
        results[remat] = jax.jit(gradient)(variables["params"])
        sizes[remat] = kept(encoder, variables)
    for remat in ("products", "blocks"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5),
            results[remat],
            results["none"],
        )
    assert sizes["blocks"] < sizes["products"] < sizes["none"]


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="remat is 'some', expected 'none' or 'blocks' or"):
        ResNet(18, remat="some").init(KEY, IMAGES)
