"""ONNX graphs by onnxruntime: the features that jax computes, for several sizes of a batch."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import augment, encoders
from jaxcl.evaluation.embedding import evaluation_view
from jaxcl.export.onnx import onnx_model

runtime = pytest.importorskip("onnxruntime")
SMALL = {"patch": 8, "image_size": 32, "width": 32, "depth": 1, "heads": 2}
TEXT = {"width": 16, "depth": 1, "heads": 2, "max_length": 12}
ENCODERS = {
    "MLP": (encoders.MLP((8, 4)), (8, 8, 1)),
    "SmallCNN": (encoders.SmallCNN((8, 16), batch_norm_groups=2), (8, 8, 1)),
    "ResNet-18": (encoders.ResNet(18, width=8), (32, 32, 3)),
    "ResNet-50 of odd sides": (encoders.ResNet(50, width=4), (33, 31, 3)),
    "WideResNet": (encoders.WideResNet(10, 1), (16, 16, 3)),
    "EfficientNet-Lite": (encoders.EfficientNetLite(0), (33, 32, 3)),
    "ConvNeXt": (encoders.ConvNeXt(width=8, depths=(1, 1), patch=2), (16, 16, 3)),
    "ViT with registers": (encoders.ViT(registers=2, layer_scale=0.1, **SMALL), (32, 32, 3)),
    "ViT of mean": (encoders.ViT(pool="mean", activation="quick_gelu", **SMALL), (32, 32, 3)),
    "ViT of attention": (encoders.ViT(pool="attention", **SMALL), (32, 32, 3)),
    "BERT": (encoders.bert(50, **TEXT), (12,)),
    "CLIP's texts": (encoders.clip_text(50, **TEXT), (12,)),
    "modern texts": (encoders.modern_text(50, **TEXT), (12,)),
    "wav2vec 2.0's convolutions": (encoders.wav2vec_front(8), (2000,)),
    "FrameTransformer": (
        encoders.FrameTransformer(16, 1, 2, place_kernel=8, place_groups=2),
        (20, 8),
    ),
    "GRU": (encoders.Recurrence(8), (12, 4)),
    "LSTM": (encoders.LSTMSpeaker(8, 2), (30, 5)),
    "TemporalConvolutions": (encoders.TemporalConvolutions((8, 8)), (20, 3)),
}
FAST = {"MLP", "SmallCNN"}


def rows(shape, count, *, tokens=False, seed=0):
    random = np.random.default_rng(seed)
    if not tokens:
        return random.normal(size=(count, *shape)).astype(np.float32)
    found = random.integers(0, 50, (count, *shape)).astype(np.int32)
    found[:, 9:] = -1
    return found


def check(features, inputs, batches):
    session = runtime.InferenceSession(
        onnx_model(features, inputs), providers=["CPUExecutionProvider"]
    )
    for batch in batches:
        (found,) = session.run(None, {"inputs": batch})
        expected = np.asarray(features(jnp.asarray(batch)))
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=[] if one in FAST else pytest.mark.slow) for one in ENCODERS],
)
def test_features_are_those_of_jax(name):
    encoder, shape = ENCODERS[name]
    make = functools.partial(rows, shape, tokens=len(shape) == 1 and shape[0] == 12)
    variables = jax.jit(encoder.init)(jax.random.key(0), make(2))
    # As if trained: statistics and scales of their own.
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + 0.1 * jnp.abs(jnp.sin(jnp.arange(leaf.size) + 1.0)).reshape(
            leaf.shape
        ) if "batch_stats" in str(path) else leaf,
        variables,
    )  # fmt: skip
    inputs = jax.ShapeDtypeStruct(shape, make(1).dtype)
    check(jax.jit(lambda x: encoder.apply(variables, x)), inputs, [make(n) for n in (1, 3, 8)])


@pytest.mark.slow
def test_pictures_are_prepared_within():
    """Bytes of a larger picture: scaled, resized, normalized."""
    view = evaluation_view(augment.moco_v2(32), jax.ShapeDtypeStruct((40, 48, 3), np.uint8))

    def prepared(pictures):
        return jax.vmap(view)(pictures)

    random = np.random.default_rng(0)
    batches = [random.integers(0, 256, (n, 40, 48, 3), np.uint8) for n in (1, 5)]
    check(prepared, jax.ShapeDtypeStruct((40, 48, 3), np.uint8), batches)


def test_operations_by_hand():
    def mixed(x):
        y = jax.lax.pad(x, jnp.float32(0.5), [(0, 0, 0), (1, -2, 0)])[:, ::-1]
        y = jnp.where(jnp.isfinite(y) & (y > -0.5), y, y**3)
        z = jax.lax.reduce_window(
            x[:, :, None], -jnp.inf, jax.lax.max, (1, 2, 1), (1, 2, 1), "SAME"
        )
        last = jnp.take_along_axis(x, jnp.argmax(x, axis=1)[:, None], axis=1)
        parts = [jnp.log1p(jnp.abs(y)), z[..., 0], last, jnp.clip(jnp.sign(y), -0.5, 0.5)]
        return jnp.concatenate(parts, axis=1)[:, 1::2]

    check(mixed, jax.ShapeDtypeStruct((7,), np.float32), [rows((7,), n) for n in (1, 4)])


def test_what_has_no_form_is_named():
    with pytest.raises(ValueError, match="operation 'fft' has no form in ONNX here"):
        onnx_model(lambda x: jnp.fft.rfft(x).real, jax.ShapeDtypeStruct((8,), np.float32))

    def long(x):
        return jax.lax.scan(lambda c, one: (c + one, None), x[:, 0], x.T)[0]

    with pytest.raises(ValueError, match="a recurrence of 600 steps"):
        onnx_model(long, jax.ShapeDtypeStruct((600,), np.float32))


def test_what_onnxruntime_would_refuse_is_refused_here():
    inputs = jax.ShapeDtypeStruct((6,), np.float32)
    with pytest.raises(ValueError, match="types that ONNX does not take together"):
        onnx_model(lambda x: jax.scipy.special.erfc(x.astype(jnp.float16)), inputs)
    half = encoders.SmallCNN((4,), dtype="bfloat16")
    variables = half.init(jax.random.key(0), rows((8, 8, 1), 1))
    with pytest.raises(ValueError, match="computes in bfloat16"):
        onnx_model(lambda x: half.apply(variables, x), jax.ShapeDtypeStruct((8, 8, 1), np.float32))


@pytest.mark.slow
def test_what_is_computed_again_is_inlined():
    encoder = encoders.ResNet(18, width=4, remat="blocks")
    variables = jax.jit(encoder.init)(jax.random.key(0), rows((32, 32, 3), 2))
    inputs = jax.ShapeDtypeStruct((32, 32, 3), np.float32)
    check(jax.jit(lambda x: encoder.apply(variables, x)), inputs, [rows((32, 32, 3), 3)])


def test_a_rectified_parameter_is_a_constant():
    weights = jnp.arange(-3.0, 4.0)
    inputs = jax.ShapeDtypeStruct((7,), np.float32)
    check(lambda x: x + jax.nn.relu(weights), inputs, [rows((7,), 2)])


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"jaxcl\[onnx\]"):
        onnx_model(lambda x: x, jax.ShapeDtypeStruct((8,), np.float32))
