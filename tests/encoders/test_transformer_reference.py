"""ViT and ConvNeXt against torchvision's at the same weights; positions against PyTorch's."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl.encoders import ConvNeXt, ViT
from jaxcl.encoders.vit import AttentionPool, interpolate_positions

REFERENCE = Path(__file__).parents[1] / "reference"
sys.path.append(str(REFERENCE))
from formula_weights import formula_images, formula_weights  # noqa: E402

GOLDEN = np.load(REFERENCE / "transformers.npz")
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
KEY = jax.random.key(0)


def vit_name(path):
    """`blocks_0/attn/qkv/kernel` as torchvision names it."""
    *modules, leaf = path
    if leaf == "cls_token":
        return "class_token"
    if leaf == "pos_embed":
        return "encoder.pos_embedding"
    if modules == ["patch_embed", "proj"]:
        return f"conv_proj.{LEAVES[leaf]}"
    if modules == ["norm"]:
        return f"encoder.ln.{LEAVES[leaf]}"
    inside = {
        "norm1": "ln_1.",
        "attn/qkv": "self_attention.in_proj_",
        "attn/proj": "self_attention.out_proj.",
        "norm2": "ln_2.",
        "mlp/fc1": "mlp.0.",
        "mlp/fc2": "mlp.3.",
    }["/".join(modules[1:])]
    layer = modules[0].removeprefix("blocks_")
    return f"encoder.layers.encoder_layer_{layer}.{inside}{LEAVES[leaf]}"


def convnext_name(path):
    """`stages_0_blocks_1/conv_dw/kernel` as torchvision names it."""
    *modules, leaf = path
    if modules == ["head_norm"]:
        return f"classifier.0.{LEAVES[leaf]}"
    kind, *numbers = modules[0].replace("_blocks", "").split("_")
    if kind == "stem":
        return f"features.0.{numbers[0]}.{LEAVES[leaf]}"
    if numbers[1] == "downsample":
        return f"features.{2 * int(numbers[0])}.{numbers[2]}.{LEAVES[leaf]}"
    block = f"features.{2 * int(numbers[0]) + 1}.{numbers[1]}"
    if leaf == "gamma":
        return f"{block}.layer_scale"
    part = {"conv_dw": 0, "norm": 2, "mlp_fc1": 3, "mlp_fc2": 5}[modules[1]]
    return f"{block}.block.{part}.{LEAVES[leaf]}"


def torch_shape(leaf, shape):
    """The shape there of a parameter whose shape here is given."""
    if leaf == "cls_token" or leaf == "pos_embed":
        return (1,) * (3 - len(shape)) + shape
    if leaf == "gamma":
        return (*shape, 1, 1)
    return (
        shape[::-1]
        if len(shape) == 2
        else tuple(shape[axis] for axis in (3, 2, 0, 1)[: len(shape)])
    )


def formula_params(encoder, images, torch_name):
    """The encoder's parameters with torchvision's values."""

    def values(path, leaf):
        names = [key.key for key in path]
        found = formula_weights(torch_name(names), torch_shape(names[-1], leaf.shape))
        if names[-1] == "kernel":
            found = found.T if found.ndim == 2 else found.transpose(2, 3, 1, 0)
        return found.reshape(leaf.shape)

    shapes = jax.eval_shape(encoder.init, KEY, images)["params"]
    return jax.tree_util.tree_map_with_path(values, shapes)


@pytest.mark.parametrize(
    ("name", "encoder", "height", "torch_name"),
    [
        ("vit", ViT("tiny", patch=16, image_size=64), 64, vit_name),
        ("convnext", ConvNeXt("tiny"), 65, convnext_name),
    ],
    ids=["vit", "convnext"],
)
def test_features_are_torchvisions_at_the_same_weights(name, encoder, height, torch_name):
    images = formula_images()[:, :height]
    params = formula_params(encoder, images, torch_name)
    found = jax.jit(encoder.apply)({"params": params}, images)
    np.testing.assert_allclose(found, GOLDEN[f"{name}/features"], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("grid", [(6, 6), (7, 10), (20, 16)])
def test_positions_are_interpolated_as_pytorch_does(grid):
    positions = formula_weights("positions", (1, 5, 14, 14))[0].reshape(5, -1).T
    found = interpolate_positions(jnp.asarray(positions), (14, 14), grid)
    wanted = GOLDEN[f"positions/{grid[0]}x{grid[1]}"][0].reshape(5, -1).T
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_attention_pool_is_one_query_and_two_layers_in_numpy():
    tokens = jax.random.normal(KEY, (2, 5, 8))
    pool = AttentionPool(heads=2, dtype="float32")
    params = pool.init(KEY, tokens)["params"]
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(KEY, x.shape), params)
    found = pool.apply({"params": params}, tokens)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    x = np.asarray(tokens, np.float64)

    def dense(x, p):
        return x @ p["kernel"] + p["bias"]

    query = dense(p["latent"], p["q"])
    keys, values = np.split(dense(x, p["kv"]), 2, axis=-1)
    pooled = np.zeros((2, 8))
    for row in range(2):
        for part in (slice(0, 4), slice(4, 8)):
            shares = np.exp(keys[row, :, part] @ query[part] / 2)
            pooled[row, part] = shares / shares.sum() @ values[row, :, part]
    y = dense(pooled, p["proj"])
    z = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)
    z = dense(z * p["norm"]["scale"] + p["norm"]["bias"], p["mlp"]["fc1"])
    z = np.asarray(jax.nn.gelu(z, approximate=False))
    np.testing.assert_allclose(found, y + dense(z, p["mlp"]["fc2"]), rtol=1e-5, atol=1e-5)


def test_parameters_of_224_pixels_serve_96():
    encoder = ViT("tiny", depth=1)
    variables = jax.jit(encoder.init)(KEY, jnp.ones((1, 96, 96, 3)))
    assert variables["params"]["pos_embed"].shape == (1 + 14 * 14, 192)
    images = jax.random.uniform(KEY, (1, 96, 96, 3))
    # The same as a ViT whose positions were made for 96 pixels and hold the interpolated ones.
    table = variables["params"]["pos_embed"]
    coarse = interpolate_positions(table[1:], (14, 14), (6, 6))
    params = variables["params"] | {"pos_embed": jnp.concatenate([table[:1], coarse])}
    wanted = ViT("tiny", depth=1, image_size=96).apply({"params": params}, images)
    np.testing.assert_allclose(encoder.apply(variables, images), wanted, rtol=1e-5, atol=1e-5)
