"""Heads: the papers' widths, norms and parameter counts; the MLP and the small CNN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import encoders
from jaxcl.encoders import MLP, SmallCNN

KEY = jax.random.key(0)


def count(module, width):
    params = jax.eval_shape(lambda: module.init(KEY, jnp.ones((2, width))))["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (encoders.moco_v1_projector(), 2048 * 128 + 128),
        (encoders.moco_v2_projector(), 2048 * 2048 + 2048 + 2048 * 128 + 128),
        # Norms of the hidden layers have scale and bias, the plain output norm has neither.
        (encoders.moco_v3_projector(), 2048 * 4096 + 2 * 4096 + 4096 * 256),
        (
            encoders.moco_v3_projector(layers=3),
            2048 * 4096 + 4096 * 4096 + 4 * 4096 + 4096 * 256,
        ),
        (encoders.simclr_v1_projector(), 2048 * 2048 + 2 * 2048 + 2048 * 128 + 2 * 128),
        (
            encoders.simclr_v2_projector(),
            2 * (2048 * 2048 + 2 * 2048) + 2048 * 128 + 2 * 128,
        ),
    ],
)
def test_projectors_have_the_papers_parameters(head, expected):
    assert count(head, 2048) == expected


def test_predictor_has_the_papers_parameters():
    assert count(encoders.moco_v3_predictor(), 256) == 256 * 4096 + 2 * 4096 + 4096 * 256
    assert count(encoders.moco_v3_predictor(output_norm=True), 256) == count(
        encoders.moco_v3_predictor(), 256
    )


def test_mlp_computes_dense_layers_with_relu_between():
    x = np.random.default_rng(0).normal(size=(3, 2, 2)).astype(np.float32)
    mlp = MLP((5, 2))
    variables = mlp.init(KEY, x)
    params = jax.tree.map(np.asarray, variables["params"])
    hidden = x.reshape(3, 4) @ params["dense0"]["kernel"] + params["dense0"]["bias"]
    expected = np.maximum(hidden, 0) @ params["dense1"]["kernel"] + params["dense1"]["bias"]
    np.testing.assert_allclose(mlp.apply(variables, x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_first_layers_take_the_parameters_of_the_whole():
    head = encoders.simclr_v2_projector(4, hidden=6)
    x = jax.random.normal(KEY, (8, 5))
    variables = head.init(KEY, x)
    first = head.first_layers(1).apply(variables, x)
    params = variables["params"]
    hidden = x @ params["dense0"]["kernel"]
    expected = jax.nn.relu(hidden / jnp.sqrt(1 + 1e-5))
    np.testing.assert_allclose(first, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="no first 4"):
        head.first_layers(4)


@pytest.mark.slow
def test_small_cnn_halves_the_image_and_pools():
    images = jax.random.normal(KEY, (2, 28, 28, 1))
    cnn = SmallCNN((4, 8), pool=False)
    variables = cnn.init(KEY, images)
    flat = cnn.apply(variables, images)
    assert flat.shape == (2, 14 * 14 * 8)
    pooled = SmallCNN((4, 8)).apply(variables, images)
    np.testing.assert_allclose(pooled, flat.reshape(2, 196, 8).mean(1), rtol=1e-5, atol=1e-6)


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match=r"MLP widths are \(\): give the width of each"):
        MLP(()).init(KEY, jnp.ones((1, 2)))
    with pytest.raises(ValueError, match=r"images \[N, H, W, C\]"):
        SmallCNN().init(KEY, jnp.ones((8, 8, 1)))
