"""Vision transformers: sizes, positions, other image sizes, and what gets a gradient."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl.encoders import ViT
from jaxcl.encoders.drop_path import DropPath, drop_path_rates
from jaxcl.encoders.vit import interpolate_positions, sincos_positions

REFERENCE = Path(__file__).parents[1] / "reference"
sys.path.append(str(REFERENCE))
from formula_weights import formula_images, formula_weights  # noqa: E402

KEY = jax.random.key(0)
IMAGES = jax.random.uniform(KEY, (2, 16, 16, 3))
SMALL = {"patch": 4, "image_size": 16, "width": 16, "depth": 2, "heads": 2}


def count(encoder, size=224):
    shapes = jax.eval_shape(encoder.init, KEY, jnp.ones((1, size, size, 3)))["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("size", "width", "depth"),
    [("tiny", 192, 12), ("small", 384, 12), ("base", 768, 12), ("large", 1024, 24)],
)
def test_parameters_are_as_many_as_the_layers_have(size, width, depth):
    block = 4 * width + (3 + 1 + 4 + 4) * width**2 + (3 + 1 + 4 + 1) * width
    patches = (16 * 16 * 3 + 1) * width
    expected = patches + width + 197 * width + depth * block + 2 * width
    assert count(ViT(size)) == expected
    # What timm's vit_tiny, small, base and large_patch16_224 have without a classifier.
    timm = {"tiny": 5_524_416, "small": 21_665_664, "base": 85_798_656, "large": 303_301_632}
    assert expected == timm[size]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pool", "positions"),
    [
        ("class", "learned"),
        ("class", "sincos"),
        ("mean", "learned"),
        ("mean", "sincos"),
        ("attention", "learned"),
        ("attention", "sincos"),
    ],
)
def test_features_and_gradients_of_every_parameter(pool, positions):
    encoder = ViT(pool=pool, positions=positions, **SMALL)
    variables = jax.jit(encoder.init)(KEY, IMAGES)
    weights = jax.random.normal(KEY, (16,))

    @jax.jit
    def gradient(params):
        return jax.grad(lambda p: jnp.sum(encoder.apply({"params": p}, IMAGES) @ weights))(params)

    assert encoder.apply(variables, IMAGES).shape == (2, 16)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(variables["params"])):
        assert np.abs(leaf).max() > 0, path


def torch_name(path):
    """`blocks_0/attn/qkv/kernel` as torchvision names it."""
    *modules, leaf = [key.key for key in path]
    if not modules:
        return {"cls_token": "class_token", "pos_embed": "encoder.pos_embedding"}[leaf]
    inner = {
        "patch_embed/proj": "conv_proj.",
        "norm": "encoder.ln.",
        "norm1": "ln_1.",
        "norm2": "ln_2.",
        "attn/qkv": "self_attention.in_proj_",
        "attn/proj": "self_attention.out_proj.",
        "mlp/fc1": "mlp.0.",
        "mlp/fc2": "mlp.3.",
    }
    place = ""
    if modules[0].startswith("blocks_"):
        place = f"encoder.layers.encoder_layer_{modules.pop(0).removeprefix('blocks_')}."
    return place + inner["/".join(modules)] + ("bias" if leaf == "bias" else "weight")


def formula_leaf(path, leaf):
    name, shape = torch_name(path), leaf.shape
    if name in ("class_token", "encoder.pos_embedding"):
        return formula_weights(name, (1,) * (3 - len(shape)) + shape).reshape(shape)
    if len(shape) == 4:  # HWIO here, OIHW there
        values = formula_weights(name, (shape[3], shape[2], shape[0], shape[1]))
        return values.transpose(2, 3, 1, 0)
    return formula_weights(name, shape[::-1]).T


def test_outputs_are_torchvisions_at_the_same_weights():
    golden = np.load(REFERENCE / "transformers.npz")["vit"]
    encoder = ViT(patch=16, image_size=64, width=32, depth=2, heads=4)
    images = formula_images()[:, :64]
    shapes = jax.eval_shape(lambda: encoder.init(KEY, images))
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: formula_leaf(path[1:], leaf), shapes
    )
    features = jax.jit(encoder.apply)(variables, images)
    np.testing.assert_allclose(features, golden, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_remat_and_the_frozen_patch_embedding_change_no_value():
    plain = ViT(**SMALL)
    variables = jax.jit(plain.init)(KEY, IMAGES)

    def value_and_gradient(encoder):
        def loss(params):
            return jnp.sum(jnp.square(encoder.apply({"params": params}, IMAGES)[:, :3]))

        return jax.jit(jax.value_and_grad(loss))(variables["params"])

    value, wanted = value_and_gradient(plain)
    again, found = value_and_gradient(ViT(remat="blocks", **SMALL))
    np.testing.assert_allclose(again, value, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, wanted)
    frozen, without = value_and_gradient(ViT(frozen_patch_embedding=True, **SMALL))
    np.testing.assert_allclose(frozen, value, rtol=1e-6)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(without["patch_embed"]))
    np.testing.assert_allclose(without["pos_embed"], wanted["pos_embed"], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_frozen_patch_embedding_learns_within_a_method():
    """As every method applies it: in training, its batch statistics to be written."""
    encoder = ViT(frozen_patch_embedding=True, **SMALL)
    variables = jax.jit(encoder.init)(KEY, IMAGES)
    features, _ = encoder.apply(variables, IMAGES, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(features, encoder.apply(variables, IMAGES), rtol=1e-5, atol=1e-6)


def test_one_block_is_attention_and_two_layers_in_numpy():
    encoder = ViT(pool="mean", positions="sincos", **SMALL | {"depth": 1})
    params = jax.jit(encoder.init)(KEY, IMAGES)["params"]
    params = jax.tree.map(lambda x: x + 0.05 * jax.random.normal(KEY, x.shape), params)
    found = encoder.apply({"params": params}, IMAGES)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def norm(x, p):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * p["scale"] + p["bias"]

    def dense(x, p):
        return x @ p["kernel"] + p["bias"]

    def gelu(x):
        from math import erf

        return x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2

    patches = np.asarray(IMAGES, np.float64).reshape(2, 4, 4, 4, 4, 3).swapaxes(2, 3)
    kernel = p["patch_embed"]["proj"]["kernel"].reshape(-1, 16)
    x = patches.reshape(2, 16, -1) @ kernel + p["patch_embed"]["proj"]["bias"]
    x = x + sincos_positions(4, 4, 16)
    block = p["blocks_0"]
    q, k, v = np.split(dense(norm(x, block["norm1"]), block["attn"]["qkv"]), 3, axis=-1)
    heads = []
    for part in (slice(0, 8), slice(8, 16)):
        scores = q[..., part] @ k[..., part].swapaxes(1, 2) / np.sqrt(8)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        heads.append(shares / shares.sum(-1, keepdims=True) @ v[..., part])
    x = x + dense(np.concatenate(heads, -1), block["attn"]["proj"])
    inner = gelu(dense(norm(x, block["norm2"]), block["mlp"]["fc1"]))
    x = norm(x + dense(inner, block["mlp"]["fc2"]), p["norm"])
    np.testing.assert_allclose(found, x.mean(1), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_positions_of_another_grid():
    positions = jax.random.normal(KEY, (16, 3))
    same = interpolate_positions(positions, (4, 4), (4, 4))
    np.testing.assert_allclose(same, positions, atol=1e-6)
    ramp = jnp.repeat(jnp.arange(4.0), 4)[:, None]  # rises by row; so it does when interpolated
    finer = interpolate_positions(ramp, (4, 4), (8, 8)).reshape(8, 8)
    np.testing.assert_allclose(finer, np.broadcast_to(finer[:, :1], (8, 8)), atol=1e-6)
    assert np.all(np.diff(finer[:, 0]) > 0)
    encoder = ViT(**SMALL)
    variables = encoder.init(KEY, IMAGES)
    assert encoder.apply(variables, jnp.ones((2, 8, 24, 3))).shape == (2, 16)


def test_fixed_positions_are_waves_of_row_and_column():
    found = sincos_positions(3, 5, 8).reshape(3, 5, 8)
    for row, column in [(0, 0), (2, 1), (1, 4)]:
        angles = np.array([1, 1 / 100])  # 10000 ** (0, -1/2)
        wanted = [f(place * angles) for place in (row, column) for f in (np.sin, np.cos)]
        np.testing.assert_allclose(found[row, column], np.concatenate(wanted), rtol=1e-6)


@pytest.mark.slow
def test_dropped_paths_need_a_key_and_keep_their_mean():
    encoder = ViT(drop_path=0.5, pool="mean", **SMALL)
    variables = encoder.init(KEY, IMAGES)
    plain = encoder.apply(variables, IMAGES)
    np.testing.assert_array_equal(encoder.apply(variables, IMAGES, train=True), plain)
    rngs = {"drop_path": jax.random.key(1)}
    dropped = encoder.apply(variables, jnp.tile(IMAGES[:1], (32, 1, 1, 1)), train=True, rngs=rngs)
    assert len(np.unique(np.asarray(dropped).round(4), axis=0)) in (2, 3, 4)  # two branches drop


def test_drop_path_keeps_the_expectation_and_rates_grow():
    branch = jnp.ones((4000, 2))
    rngs = {"drop_path": KEY}
    dropped = np.asarray(DropPath(0.25).apply({}, branch, train=True, rngs=rngs))
    np.testing.assert_array_equal(dropped[:, 0], dropped[:, 1])  # a whole example or none of it
    np.testing.assert_allclose(np.unique(dropped), [0, 4 / 3], rtol=1e-6)
    # The mean's deviation is sqrt(0.25 / 0.75 / 4000) = 0.009.
    np.testing.assert_allclose(dropped.mean(), 1, atol=0.04)
    for options in ({"train": True}, {"train": False, "rngs": rngs}):
        np.testing.assert_array_equal(DropPath(0.25).apply({}, branch, **options), branch)
    np.testing.assert_allclose(drop_path_rates(0.3, 4), [0, 0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="drop_path is 1"):
        DropPath(1.0).apply({}, branch, train=False)


@pytest.mark.slow
def test_mean_pooling_without_positions_ignores_the_order_of_patches():
    encoder = ViT(pool="mean", **SMALL)
    params = jax.jit(encoder.init)(KEY, IMAGES)["params"]
    upside_down = IMAGES.reshape(2, 4, 4, 16, 3)[:, ::-1].reshape(IMAGES.shape)
    apply = jax.jit(lambda p, x: encoder.apply({"params": p}, x))
    assert np.abs(apply(params, upside_down) - apply(params, IMAGES)).max() > 1e-4
    without = params | {"pos_embed": jnp.zeros_like(params["pos_embed"])}
    np.testing.assert_allclose(apply(without, upside_down), apply(without, IMAGES), atol=1e-5)


@pytest.mark.slow
def test_parameters_for_224_pixels_serve_96():
    encoder = ViT(width=32, depth=2, heads=4)
    shapes = jax.eval_shape(lambda: encoder.init(KEY, jnp.ones((1, 224, 224, 3))))
    small = jax.jit(encoder.init)(KEY, jnp.ones((1, 96, 96, 3)))
    assert jax.tree.map(jnp.shape, small) == jax.tree.map(jnp.shape, shapes)
    features = encoder.apply(small, jax.random.uniform(KEY, (2, 96, 96, 3)))
    assert features.shape == (2, 32)
    assert np.isfinite(features).all()


@pytest.mark.slow
def test_bfloat16():
    encoder = ViT(dtype="bfloat16", **SMALL)
    variables = encoder.init(KEY, IMAGES)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    found = encoder.apply(variables, IMAGES)
    np.testing.assert_allclose(found, ViT(**SMALL).apply(variables, IMAGES), atol=0.05)
    assert found.dtype == jnp.float32


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({}, (1, 18, 16, 3), "patch 4 does not divide images of height 18: resize to 16 or 20"),
        ({"image_size": 18}, (1, 16, 16, 3), "patch 4 does not divide image_size 18"),
        ({}, (1, 16, 16, 1), "ViT takes images .* got shape .1, 16, 16, 1."),
        ({"heads": 3}, (1, 16, 16, 3), "heads that divide the width"),
        ({"width": 18, "positions": "sincos"}, (1, 16, 16, 3), "a width that 4 divides, not 18"),
        ({"size": "giant"}, (1, 16, 16, 3), "ViT: size is 'giant', expected 'tiny' or 'small'"),
    ],
)
def test_what_does_not_fit_is_named(options, shape, message):
    encoder = ViT(**SMALL | options)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(encoder.init, KEY, jnp.ones(shape))


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["class", "mean"])
def test_registers_have_no_position_and_make_no_features(pool):
    """Attention over them alone changes features; their number is no part of the pool."""
    plain = ViT(pool=pool, **SMALL)
    encoder = ViT(pool=pool, registers=3, **SMALL)
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    variables = jax.jit(encoder.init)(jax.random.key(0), images)
    table = variables["params"]["reg_token"]
    assert table.shape[0] == 3
    rest = {name: leaf for name, leaf in variables["params"].items() if name != "reg_token"}
    found, without = encoder.apply(variables, images), plain.apply({"params": rest}, images)
    assert found.shape == without.shape
    assert np.abs(found - without).max() > 1e-4
    assert "reg_token" in encoder.undecayed
    with pytest.raises(ValueError, match="ViT registers -1"):
        jax.eval_shape(ViT(registers=-1, **SMALL).init, jax.random.key(0), images)
