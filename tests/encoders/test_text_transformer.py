"""Text transformers against transformers' models with random weights, and what holds for any."""

import functools
import json
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl.encoders import TextTransformer, bert, clip_text, modern_text
from jaxcl.encoders.text import pool_tokens, rotate
from jaxcl.pretrained import names
from jaxcl.pretrained import text as pretrained

SAVED = dict(np.load(Path(__file__).parents[1] / "reference" / "text.npz"))
KEY = jax.random.key(0)
LLAMA = names.Names(
    {"tokens": "embed_tokens", "final_norm": "norm"},
    "layers.{}",
    {
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "out": "self_attn.o_proj",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
        "attention_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
    },
)
SIZES = {"width": 24, "depth": 2, "heads": 4, "hidden": 40, "max_length": 12}
ENCODERS = {
    "bert": (bert(60, dropout=0.0, **SIZES), pretrained._BERT),
    "roberta": (
        bert(
            60,
            dropout=0.0,
            types=1,
            position_offset=2,
            epsilon=1e-5,
            **(SIZES | {"max_length": 10}),
        ),
        pretrained._BERT,
    ),
    "clip": (clip_text(60, activation="quick_gelu", **SIZES), pretrained._CLIP),
    "llama": (modern_text(60, causal=True, **SIZES), LLAMA),
}


@functools.partial(jax.jit, static_argnames=("encoder", "train"))
def apply(encoder, variables, tokens, key=None, **options):
    rngs = None if key is None else {"dropout": key}
    return encoder.apply(variables, tokens, rngs=rngs, **options)


def golden(name):
    """The encoder, its parameters there and the tokens."""
    encoder, renames = ENCODERS[name]
    tokens = jnp.asarray(SAVED["tokens"])
    shapes = jax.eval_shape(encoder.init, KEY, tokens)["params"]
    prefix = f"{name}/params/"
    arrays = {key.removeprefix(prefix): SAVED[key] for key in SAVED if key.startswith(prefix)}
    params = names.from_torch(
        arrays, shapes, renames, ignored=lambda name: name.startswith("pooler.")
    )
    return encoder, {"params": params}, tokens


@pytest.mark.parametrize("name", ENCODERS)
def test_every_token_is_as_transformers_has_it(name):
    encoder, variables, tokens = golden(name)
    found = apply(encoder.clone(pool="none"), variables, tokens)
    there = np.asarray(tokens) >= 0
    expected = SAVED[f"{name}/hidden"]
    np.testing.assert_allclose(np.asarray(found)[there], expected[there], rtol=1e-4, atol=2e-5)


def test_a_config_of_each_family_gives_its_encoder(tmp_path):
    for name in ("bert", "roberta", "clip"):
        encoder, _ = ENCODERS[name]
        config = json.loads(str(SAVED[f"{name}/config"]))
        read = pretrained._encoder(config, tmp_path, pool=encoder.pool)
        assert read == encoder.clone()


def test_clips_features_are_those_of_the_end_of_the_text():
    encoder, variables, tokens = golden("clip")
    found = apply(encoder, variables, tokens)
    np.testing.assert_allclose(found, SAVED["clip/pooled"], rtol=1e-4, atol=2e-5)


def test_berts_pooler_is_its_dense_layer_of_the_class_token():
    encoder, variables, tokens = golden("bert")
    own = encoder.clone(pool="class", pooler=True)
    pooler = {
        "kernel": SAVED["bert/params/pooler.dense.weight"].T,
        "bias": SAVED["bert/params/pooler.dense.bias"],
    }
    found = apply(own, {"params": variables["params"] | {"pooler": pooler}}, tokens)
    np.testing.assert_allclose(found, SAVED["bert/pooled"], rtol=1e-4, atol=2e-5)


VARIANTS = {
    "bert": bert(50, **SIZES),
    "class": bert(50, pool="class", **SIZES),
    "max": bert(50, pool="max", **SIZES),
    "last": bert(50, pool="last", **SIZES),
    "clip": clip_text(50, **SIZES),
    "modern": modern_text(50, **SIZES),
    "offset": bert(50, position_offset=2, **SIZES),
}
TOKENS = jnp.array([[5, 17, 9, 3], [5, 8, 3, -1], [7, -1, -1, -1]])


def init(encoder, tokens=TOKENS):
    """Variables with all biases and scales away from 0 and 1."""
    variables = jax.jit(encoder.init)(KEY, tokens)
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(
        structure,
        [x + 0.2 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)],
    )


def fast(*names):
    """All variants, those not named marked slow."""
    return [
        pytest.param(name, marks=[] if name in names else pytest.mark.slow) for name in VARIANTS
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", fast("bert", "clip"))
def test_neither_padding_nor_other_rows_change_features(name):
    encoder = VARIANTS[name]
    variables = init(encoder)
    features = apply(encoder, variables, TOKENS)
    longer = jnp.pad(TOKENS, [(0, 0), (0, 5)], constant_values=-1)
    np.testing.assert_allclose(apply(encoder, variables, longer), features, atol=2e-6)
    for row, length in enumerate((4, 3, 1)):
        alone = apply(encoder, variables, TOKENS[row : row + 1, :length])
        np.testing.assert_allclose(alone[0], features[row], atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", fast("bert"))
def test_a_text_without_tokens_has_features_0_and_finite_gradients(name):
    encoder = VARIANTS[name].clone(pooler=True)
    variables, empty = init(encoder), jnp.full((2, 4), -1)
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)  # biases do not count either
    grads = jax.grad(lambda v: apply(encoder, v, empty).sum())(variables)
    np.testing.assert_array_equal(apply(encoder, variables, empty), 0)
    chex.assert_tree_all_finite(grads)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sees_later"), [("bert", True), ("clip", False)])
def test_who_sees_what_comes_later(name, sees_later):
    encoder = VARIANTS[name].clone(pool="none")
    variables = init(encoder)
    before = apply(encoder, variables, TOKENS)[0, :3]
    after = apply(encoder, variables, TOKENS.at[0, 3].set(11))[0, :3]
    assert bool(jnp.abs(before - after).max() > 1e-3) is sees_later


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "modern"])
def test_order_matters(name):
    encoder = VARIANTS[name]
    variables = init(encoder)
    turned = apply(encoder, variables, TOKENS[:1, ::-1])
    assert float(jnp.abs(turned - apply(encoder, variables, TOKENS[:1])).max()) > 1e-2


@pytest.mark.slow
def test_token_types_are_added():
    encoder = VARIANTS["bert"]
    variables = init(encoder)
    plain = apply(encoder, variables, TOKENS)
    zeros = apply(encoder, variables, TOKENS, types=jnp.zeros_like(TOKENS))
    ones = apply(encoder, variables, TOKENS, types=jnp.ones_like(TOKENS))
    np.testing.assert_array_equal(plain, zeros)
    swapped = {"params": variables["params"] | {"types": variables["params"]["types"][::-1]}}
    np.testing.assert_allclose(apply(encoder, swapped, TOKENS), ones, atol=1e-6)
    assert float(jnp.abs(ones - plain).max()) > 1e-2


@pytest.mark.slow
def test_rotary_products_hang_on_the_distance_alone():
    query, key = jax.random.normal(KEY, (2, 1, 1, 1, 8))
    turned = [rotate(jnp.broadcast_to(x, (1, 9, 1, 8)))[0, :, 0] for x in (query, key)]
    products = turned[0] @ turned[1].T  # [T, T]
    for distance in range(-8, 9):
        line = jnp.diagonal(products, distance)
        np.testing.assert_allclose(line, line[0], atol=1e-5)
    np.testing.assert_allclose(products[0, 0], (query * key).sum(), rtol=1e-5)


@pytest.mark.parametrize("pool", ["mean", "max", "class", "last"])
def test_pooling_is_numpys(pool):
    x = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    counts = (5, 2, 1)
    there = np.arange(5) < np.array(counts)[:, None]
    of_one = {
        "mean": lambda rows: rows.mean(0),
        "max": lambda rows: rows.max(0),
        "class": lambda rows: rows[0],
        "last": lambda rows: rows[-1],
    }[pool]
    expected = [of_one(rows[:count]) for rows, count in zip(x, counts, strict=True)]
    np.testing.assert_allclose(pool_tokens(jnp.asarray(x), there, pool), expected, rtol=1e-6)


@pytest.mark.slow
def test_attention_with_dropout_is_attention_where_nothing_drops():
    """The rate is so small that no weight of so few is dropped."""
    for name in ("bert", "clip"):
        encoder = VARIANTS[name].clone(dropout=0.0, attention_dropout=1e-9)
        variables = init(encoder)
        dropping = apply(encoder, variables, TOKENS, KEY, train=True)
        np.testing.assert_allclose(dropping, apply(encoder, variables, TOKENS), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("rates", [(0.5, 0.0), (0.0, 0.5)])
def test_dropout_drops_while_training_only_and_averages_out(rates):
    encoder = VARIANTS["bert"].clone(dropout=rates[0], attention_dropout=rates[1], depth=1)
    variables = init(encoder)
    plain = apply(encoder, variables, TOKENS)
    draw = jax.jit(lambda key: apply(encoder, variables, TOKENS, key, train=True))
    one, again, other = draw(KEY), draw(KEY), draw(jax.random.key(5))
    np.testing.assert_array_equal(one, again)
    assert float(jnp.abs(one - other).max()) > 1e-2
    assert float(jnp.abs(one - plain).max()) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["products", "blocks"])
def test_remat_changes_no_gradient(remat):
    encoder = bert(50, **SIZES)
    variables = init(encoder)

    def loss(variables, encoder):
        out = apply(encoder, variables, TOKENS, KEY, train=True)
        return (out**2).sum()

    plain = jax.grad(loss)(variables, encoder)
    again = jax.grad(loss)(variables, encoder.clone(remat=remat))
    chex.assert_trees_all_close(again, plain, rtol=1e-4, atol=1e-5)  # of entries up to 1.5


@pytest.mark.slow
def test_bfloat16_is_near_and_returns_float32():
    for name in ("bert", "modern"):
        encoder = VARIANTS[name]
        variables = init(encoder)
        found = apply(encoder.clone(dtype="bfloat16"), variables, TOKENS)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, apply(encoder, variables, TOKENS), rtol=0.1, atol=0.15)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: init(bert(50, width=30, heads=4)), ValueError, "heads that divide the width"),
        (lambda: init(modern_text(50, width=12, heads=4)), ValueError, "even width a head"),
        (lambda: init(VARIANTS["bert"], TOKENS[0]), ValueError, r"tokens \[N, T\]; got shape"),
        (lambda: init(VARIANTS["bert"], TOKENS * 1.0), TypeError, "integer tokens, got float32"),
        (
            lambda: init(VARIANTS["bert"], jnp.zeros((1, 13), int)),
            ValueError,
            "texts of 13 tokens are longer than TextTransformer.max_length 12",
        ),
        (lambda: init(bert(50, pool="sum")), ValueError, "pool is 'sum', expected"),
        (
            lambda: init(bert(50, **SIZES, pool="none", pooler=True)),
            ValueError,
            "a pooler takes what was pooled",
        ),
        (lambda: init(bert(50, **SIZES, dropout=1.5)), ValueError, "dropout must be 0 to below 1"),
        (
            lambda: clip_text(50, **SIZES).init(KEY, TOKENS, types=TOKENS),
            ValueError,
            "has no token types",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_embedding_tables_are_not_decayed():
    assert VARIANTS["bert"].undecayed == ("tokens", "positions", "types")
    assert VARIANTS["modern"].undecayed == ("tokens",)
    assert isinstance(VARIANTS["modern"], TextTransformer)
