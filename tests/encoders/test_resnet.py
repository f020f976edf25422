"""ResNets against torchvision's: parameter counts, and outputs at the same weights."""

import sys
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl.encoders import BatchNorm, ResNet
from jaxcl.encoders.resnet import BasicBlock

REFERENCE = Path(__file__).parents[1] / "reference"
sys.path.append(str(REFERENCE))
from formula_weights import formula_images, formula_weights  # noqa: E402

KEY = jax.random.key(0)


def abstract(encoder, shape=(1, 64, 64, 3)):
    return jax.eval_shape(lambda: encoder.init(KEY, jnp.ones(shape)))


@pytest.mark.parametrize(
    ("depth", "count"),
    [(18, 11_176_512), (34, 21_284_672), (50, 23_508_032), (101, 42_500_160), (152, 58_143_808)],
)
def test_parameter_count_is_torchvisions_without_classifier(depth, count):
    params = abstract(ResNet(depth))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def torch_name(path):
    """`layer1_0/downsample_conv/kernel` as torchvision names it."""
    *modules, leaf = [key.key for key in path]
    names = []
    for module in modules:
        if module.startswith("layer"):
            names += module.split("_")
        elif module.startswith("downsample"):
            names += ["downsample", "0" if module.endswith("conv") else "1"]
        else:
            names.append(module)
    renamed = {"kernel": "weight", "scale": "weight", "bias": "bias"}
    renamed |= {"mean": "running_mean", "var": "running_var"}
    return ".".join([*names, renamed[leaf]])


def formula_leaf(path, leaf):
    shape = leaf.shape
    if len(shape) == 4:  # HWIO here, OIHW there
        values = formula_weights(torch_name(path), (shape[3], shape[2], shape[0], shape[1]))
        return values.transpose(2, 3, 1, 0)
    return formula_weights(torch_name(path), shape)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [18, 50])
def test_outputs_are_torchvisions_at_the_same_weights(depth):
    golden = np.load(REFERENCE / "resnet.npz")
    encoder = ResNet(depth)
    images = formula_images()
    variables = {
        name: jax.tree_util.tree_map_with_path(formula_leaf, tree)
        for name, tree in abstract(encoder, images.shape).items()
    }
    features = jax.jit(encoder.apply)(variables, images)
    scale = np.abs(golden[f"resnet{depth}/eval"]).max()
    np.testing.assert_allclose(
        features, golden[f"resnet{depth}/eval"], rtol=1e-4, atol=2e-6 * scale
    )

    train = jax.jit(lambda v, x: encoder.apply(v, x, train=True, mutable=["batch_stats"]))
    features, updated = train(variables, images)
    np.testing.assert_allclose(features, golden[f"resnet{depth}/train"], rtol=2e-3, atol=2e-4)
    stats = updated["batch_stats"]["bn1"]
    np.testing.assert_allclose(stats["mean"], golden[f"resnet{depth}/running_mean"], atol=1e-6)
    np.testing.assert_allclose(stats["var"], golden[f"resnet{depth}/running_var"], rtol=1e-5)


def test_cifar_stem_keeps_the_resolution_and_width_scales():
    encoder = ResNet(18, stem="cifar", width=16)
    variables = abstract(encoder, (2, 32, 32, 3))
    assert variables["params"]["conv1"]["kernel"].shape == (3, 3, 3, 16)
    features = jax.eval_shape(encoder.apply, variables, jnp.ones((2, 32, 32, 3)))
    assert features.shape == (2, 128)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters():
    encoder = ResNet(18, stem="cifar", width=8, dtype="bfloat16")
    images = jnp.ones((2, 8, 8, 3))
    variables = abstract(encoder, images.shape)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    features, state = jax.eval_shape(
        lambda v: encoder.apply(v, images, capture_intermediates=True, mutable="intermediates"),
        variables,
    )
    convolved = state["intermediates"]["layer4_1"]["conv2"]["__call__"][0]
    assert convolved.dtype == jnp.bfloat16
    assert features.dtype == jnp.float32


@pytest.mark.parametrize("zero", [True, False])
def test_zero_init_residual_starts_blocks_as_the_identity(zero):
    conv = partial(nn.Conv, use_bias=False)
    block = BasicBlock(4, 1, conv, BatchNorm, zero_init_residual=zero)
    images = jax.random.uniform(KEY, (2, 6, 6, 4))
    outputs, _ = jax.jit(partial(block.init_with_output, train=False, axis_name=None))(KEY, images)
    assert np.allclose(outputs, images) == zero


@pytest.mark.parametrize("channels", [1, 6])
def test_other_channels(channels):
    encoder = ResNet(18, stem="cifar", width=8, in_channels=channels)
    features = jax.eval_shape(
        lambda x: encoder.init_with_output(KEY, x)[0], jnp.ones((2, 9, 12, channels))
    )
    assert features.shape == (2, 64)
    with pytest.raises(ValueError, match="in_channels"):
        encoder.init(KEY, jnp.ones((2, 9, 12, 3)))
