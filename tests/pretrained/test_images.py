"""Image encoders from others' checkpoints: each name in its place, features as PyTorch's."""

import argparse
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from weights import CASES, GOLDEN, IMAGES, arrays_of, formula_weights, write

from jaxcl import augment, data, encoders, methods, training
from jaxcl.pretrained import ImageWeights, load_images

OPTIONS = {"open_clip quick": {"activation": "quick_gelu"}}
FAST = {"torchvision", "timm ViT", "timm ConvNeXt", "Hugging Face ViT", "CLIP"}
LAYOUTS = [pytest.param(case, marks=[] if case in FAST else [pytest.mark.slow]) for case in CASES]


def deviation(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("case", LAYOUTS)
def test_features_are_those_of_pytorch(tmp_path, case):
    model = load_images(write(tmp_path / "m", case), **OPTIONS.get(case, {}))
    found = model(IMAGES, batch_size=4)
    assert deviation(found, GOLDEN[f"{case}/features"]) < 1e-4


class BigVisionBlock(nn.Module):
    """A block by big_vision's names, of flax's own attention."""

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm(name="LayerNorm_0")(x)
        x = x + nn.MultiHeadDotProductAttention(4, name="MultiHeadDotProductAttention_0")(y, y)
        return x + BigVisionMLP(name="MlpBlock_0")(nn.LayerNorm(name="LayerNorm_1")(x))


class BigVisionMLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.gelu(nn.Dense(4 * x.shape[-1], name="Dense_0")(x))
        return nn.Dense(x.shape[-1], name="Dense_1")(y)


class BigVisionPool(nn.Module):
    @nn.compact
    def __call__(self, x):
        probe = self.param("probe", nn.initializers.normal(1.0), (1, 1, x.shape[-1]))
        probe = jnp.tile(probe, (len(x), 1, 1))
        x = nn.MultiHeadDotProductAttention(4, name="MultiHeadDotProductAttention_0")(probe, x)
        return (x + BigVisionMLP(name="MlpBlock_0")(nn.LayerNorm(name="LayerNorm_0")(x)))[:, 0]


class BigVisionEncoder(nn.Module):
    @nn.compact
    def __call__(self, x):
        for block in range(2):
            x = BigVisionBlock(name=f"encoderblock_{block}")(x)
        return nn.LayerNorm(name="encoder_norm")(x)


class BigVisionViT(nn.Module):
    """The ViT of big_vision/models/vit.py by its names, written anew."""

    pool: str

    @nn.compact
    def __call__(self, images):
        x = nn.Conv(32, (16, 16), strides=16, padding="VALID", name="embedding")(images)
        x = x.reshape(len(x), -1, 32)
        x = x + self.param("pos_embedding", nn.initializers.normal(0.5), (1, x.shape[1], 32))
        if self.pool == "tok":
            token = self.param("cls", nn.initializers.normal(1.0), (1, 1, 32))
            x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x], axis=1)
        x = BigVisionEncoder(name="Transformer")(x)
        if self.pool == "map":
            return BigVisionPool(name="MAPHead_0")(x)
        return x[:, 0] if self.pool == "tok" else x.mean(1)


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["map", "tok"])
@pytest.mark.parametrize("stacked", [False, True])
def test_features_are_those_of_big_visions_layout(tmp_path, pool, stacked):
    model = BigVisionViT(pool)
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    named = traverse_util.flatten_dict(shapes["params"], sep="/")
    arrays = {
        name: np.asarray(formula_weights(name, leaf.shape[::-1])).T for name, leaf in named.items()
    }
    params = traverse_util.unflatten_dict(arrays, sep="/")
    expected = jax.jit(model.apply)({"params": params}, IMAGES)
    if stacked:
        blocks = [name for name in arrays if "encoderblock_0/" in name]
        for name in blocks:
            both = [arrays.pop(name), arrays.pop(name.replace("encoderblock_0", "encoderblock_1"))]
            arrays[name.replace("encoderblock_0", "encoderblock")] = np.stack(both)
    path = numbers(tmp_path / "vit.npz", **{f"params/img/{n}": a for n, a in arrays.items()})
    found = load_images(path)
    assert found.encoder.heads == 4
    assert deviation(found(IMAGES), expected) < 1e-4


@pytest.mark.parametrize("of", ["student", "teacher"])
def test_one_of_several_encoders_is_named(tmp_path, of):
    path = write(tmp_path, "DINO")
    student = {"student": "student.module.backbone.", "teacher": "teacher.backbone."}[of]
    kernel = load_images(path, part=of).variables["params"]["conv1"]["kernel"]
    np.testing.assert_array_equal(
        kernel.transpose(3, 2, 0, 1), arrays_of("DINO")[f"{student}conv1.weight"]
    )


def lose(arrays):
    del arrays["state_dict.module.encoder_q.layer2.0.bn1.running_var"]
    arrays["state_dict.module.encoder_q.bn1.bias"] = np.zeros(7, np.float32)
    arrays["state_dict.module.encoder_q.layer5.0.conv1.weight"] = np.zeros((1, 1), np.float32)


def rename_copy(arrays):
    for name in [name for name in arrays if "encoder_k" in name]:
        arrays[name.replace("encoder_k", "encoder_too")] = arrays.pop(name)


def no_encoder(arrays):
    for name in [name for name in arrays if "layer1" in name]:
        del arrays[name]


def deeper(arrays):
    for name in [name for name in arrays if "layer1.1." in name]:
        arrays[name.replace("layer1.1.", "layer1.2.")] = arrays[name].copy()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lose, r"(?s)missing: layer2.0.bn1.running_var.*left over: layer5.0.conv1.weight"),
        (lose, r"misshapen: bn1.bias is \[7\], expected \[8\]"),
        (rename_copy, "there are 2 image encoders.*name one by part"),
        (no_encoder, "no image encoder is among"),
        (deeper, "a ResNet of 3, 2, 2, 2 blocks without bottlenecks is none of depth 18, 34"),
    ],
)
def test_what_does_not_fit_is_said_at_once(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        load_images(write(tmp_path, "MoCo v2", change))


def test_an_unknown_part_is_said(tmp_path):
    with pytest.raises(ValueError, match="no image encoder stands below 'pupil': there are"):
        load_images(write(tmp_path, "DINO"), part="pupil")


@pytest.mark.parametrize("kept", [0, 5, 1000, -1])
def test_half_a_file_is_said(tmp_path, kept):
    path = write(tmp_path, "torchvision")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load_images(path)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda f: f / "none.safetensors", FileNotFoundError, "is missing: give a file of weights"),
        (lambda f: f, FileNotFoundError, "holds no weights: expected one of model.safetensors"),
        (lambda f: text(f / "notes.txt"), ValueError, "weights are read from .safetensors, .npz"),
        (lambda f: text(f / "weights.npz"), ValueError, "weights.npz"),
        (lambda f: objects(f / "objects.npz"), ValueError, "holds what is no array"),
        (lambda f: numbers(f / "empty.npz"), ValueError, "holds no arrays"),
        (lambda f: index(f), ValueError, "names '../other.safetensors', which is not beside it"),
    ],
)
def test_files_that_hold_no_weights_are_refused(tmp_path, make, error, words):
    with pytest.raises(error, match=words):
        load_images(make(tmp_path))


def text(path):
    path.write_text("no weights")
    return path


def objects(path):
    np.savez(path, weights=np.array([{"a": 1}], object))
    return path


def numbers(path, **arrays):
    np.savez(path, **arrays)
    return path


def index(folder):
    weights = {"conv1.weight": "../other.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    return folder


class Touch:
    """What pickles as a call that leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    torch = pytest.importorskip("torch")
    path, touched = tmp_path / "model.pth", tmp_path / "touched"
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}, "call": Touch(touched)}, path)
    with pytest.raises(ValueError, match="holds more than weights, and loading it could run code"):
        load_images(path)
    assert not touched.exists()


@pytest.mark.parametrize("suffix", ["pth", "pth.tar", "ckpt", "bin"])
def test_files_of_torch_are_read(tmp_path, suffix):
    torch = pytest.importorskip("torch")
    nested = {"epoch": 3, "args": argparse.Namespace(lr=0.1), "optimizer": {"m": torch.ones(2)}}
    for name, array in arrays_of("MoCo v2").items():
        below = nested.setdefault("state_dict", {})
        below[name.removeprefix("state_dict.")] = torch.from_numpy(array).half()
    path = tmp_path / f"moco.{suffix}"
    torch.save(nested, path)
    found = load_images(path)(IMAGES, batch_size=4)
    assert deviation(found, GOLDEN["MoCo v2/features"]) < 0.01
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="is damaged, or no file of torch"):
        load_images(path)


def experiment(start, **encoder):
    return training.Experiment(
        data=data.Digits(),
        views=augment.simclr(32),
        method=methods.MoCo(
            encoders.ResNet(18, width=8, **encoder), encoders.MLP((8,)), queue_size=16
        ),
        start=(start,),
        train=training.Train(batch_size=8),
    )


@pytest.mark.slow
def test_parameters_and_statistics_start_from_there_and_the_targets_too(tmp_path):
    start = ImageWeights(str(write(tmp_path, "SwAV")))
    inputs = {"image": jax.ShapeDtypeStruct((32, 32, 3), np.uint8)}
    state = training.start_state(experiment(start), inputs)
    there = arrays_of("SwAV")
    for stats in (state.method.batch_stats, state.method.target_batch_stats):
        found = stats["encoder"]["layer2_1"]["bn2"]["var"]
        np.testing.assert_array_equal(found, there["module.layer2.1.bn2.running_var"])
    for params in (state.params, state.method.target_params):
        found = params["encoder"]["layer2_1"]["bn2"]["scale"]
        np.testing.assert_array_equal(found, there["module.layer2.1.bn2.weight"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "encoder", "words"),
    [
        ("timm ViT", {}, "holds a ViT, and the network is a ResNet"),
        ("SwAV", {"stem": "cifar"}, "has stem 'imagenet', and the network 'cifar'"),
        ("torchvision with bottlenecks", {}, "has depth 50, and the network 18"),
    ],
)
def test_another_encoder_is_said(tmp_path, case, encoder, words):
    start = ImageWeights(str(write(tmp_path, case)))
    inputs = {"image": jax.ShapeDtypeStruct((32, 32, 3), np.uint8)}
    with pytest.raises(training.UserError, match=words):
        training.start_state(experiment(start, **encoder), inputs)
