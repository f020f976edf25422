"""What a run has learned, written for others: the same features by every way back."""

import hashlib
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxcl import augment, data, encoders, methods, training
from jaxcl.cli import main
from jaxcl.export import export_run
from jaxcl.pretrained import from_pretrained, load_images
from jaxcl.training import restore_run

MEAN, STD = (0.3,), (0.4,)


def train(folder, method):
    crop = augment.RandomResizedCrop(8, scale=(0.5, 1.0))
    view = augment.Compose((crop, augment.Normalize(MEAN, STD)))
    experiment = training.Experiment(
        data=data.Digits(),
        views=augment.Views((view, view)),
        method=method,
        train=training.Train(batch_size=32, epochs=0.05),
        run=training.Run(devices=1),
    )
    training.train(experiment, folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """MoCo, with batch statistics."""
    encoder = encoders.SmallCNN((4, 8))
    method = methods.MoCo(encoder, encoders.MLP((6,)), queue_size=64)
    return train(tmp_path_factory.mktemp("runs") / "moco", method)


@pytest.fixture(scope="module")
def images():
    source = data.Digits("test").open()
    return np.stack([source[row]["image"] for row in range(9)])


@pytest.fixture(scope="module")
def features(run, images):
    restored = restore_run(run)
    method, state = restored.experiment.method, restored.state
    return method.embed(state.params, state.method, scaled(images))


def scaled(images):
    return (images.astype(np.float32) / 255 - MEAN[0]) / STD[0]


@pytest.mark.slow
def test_safetensors_come_back_as_the_same_network(run, images, features, tmp_path):
    said = export_run(run, tmp_path / "m", to="safetensors")
    model = from_pretrained(tmp_path / "m")
    assert said.startswith("wrote encoder of step 2 for safetensors")
    assert model.networks["encoder"] == restore_run(run).experiment.method.encoder
    assert (model.about["mean"], model.about["std"]) == ([0.3], [0.4])
    assert model.about["inputs"] == {"shape": [8, 8, 1], "dtype": "float32"}
    np.testing.assert_allclose(model(scaled(images)), features, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_graph_runs_without_jax(run, images, features, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    export_run(run, tmp_path / "m", to="onnx")
    session = runtime.InferenceSession(tmp_path / "m" / "model.onnx")
    (found,) = session.run(None, {"inputs": images})
    np.testing.assert_allclose(found, features, rtol=1e-4, atol=1e-5)
    card = (tmp_path / "m" / "README.md").read_text()
    assert 'onnxruntime.InferenceSession("m/model.onnx")' in card
    digest = hashlib.sha256((tmp_path / "m" / "model.onnx").read_bytes()).hexdigest()
    assert digest in card
    export_run(run, tmp_path / "h", to="onnx", heads=True)
    session = runtime.InferenceSession(tmp_path / "h" / "model.onnx")
    assert session.run(None, {"inputs": images[:2]})[0].shape == (2, 6)


@pytest.mark.slow
def test_what_is_pushed_says_where_it_is(run, images, features, tmp_path, hub, monkeypatch, capsys):
    command = ["export", str(run), "--to", "safetensors", "--out", str(tmp_path / "m")]
    assert main([*command, "--push", "me/digits", "--private"]) == 2
    assert "log in with a token" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert main([*command, "--push", "me/digits", "--private"]) == 0
    assert f"pushed to {hub.address}/me/digits/commit/" in capsys.readouterr().out
    assert hub.repositories["me/digits"].private
    model = from_pretrained("me/digits")
    np.testing.assert_allclose(model(scaled(images)), features, rtol=1e-5, atol=1e-6)
    files = hub.repositories["me/digits"].commits[hub.repositories["me/digits"].branches["main"]]
    assert b'from_pretrained("me/digits")(images)' in files["README.md"]


@pytest.mark.slow
def test_the_head_comes_along_where_it_is_asked_for(run, images, features, tmp_path):
    export_run(run, tmp_path / "m", to="safetensors", heads=True)
    found = from_pretrained(tmp_path / "m")(scaled(images))
    weights = restore_run(run).state.params["projector"]["dense0"]
    expected = features @ weights["kernel"] + weights["bias"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_program_runs_without_jaxcl(run, images, features, tmp_path):
    export_run(run, tmp_path / "m", to="stablehlo")
    np.save(tmp_path / "images.npy", images)
    script = (
        "import sys, jax, numpy as np\n"
        "from jax import export\n"
        "program = export.deserialize(open('m/model.stablehlo', 'rb').read())\n"
        "images = np.load('images.npy')\n"
        "np.save('features.npy', program.call(images))\n"
        "assert program.call(images[:2]).shape == (2, 8)\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('jaxcl', 'flax')]\n"
    )
    subprocess.run([sys.executable, "-I", "-c", script], cwd=tmp_path, check=True)
    found = np.load(tmp_path / "features.npy")  # of bytes, scaled within
    np.testing.assert_allclose(found, features, rtol=1e-4, atol=1e-5)
    about = json.loads((tmp_path / "m" / "config.json").read_text())
    assert about["inputs"] == {"shape": ["n", 8, 8, 1], "dtype": "uint8"}


@pytest.mark.slow
def test_a_card_says_what_it_is(run, tmp_path):
    export_run(run, tmp_path / "m", to="safetensors")
    card = (tmp_path / "m" / "README.md").read_text()
    content = (tmp_path / "m" / "model.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() in card
    for words in ("learned by MoCo", "2 steps of 32 examples", "`Digits`, 1,500 examples: image"):
        assert words in card
    whole = card.split("```json\n")[1].split("```")[0]
    assert json.loads(whole)["method"]["queue_size"] == 64


@pytest.mark.slow
@pytest.mark.parametrize("to", ["timm", "huggingface"])
def test_other_libraries_files_hold_the_same_features(to, tmp_path):
    encoder = encoders.ViT("tiny", patch=4, image_size=8, width=16, depth=2, heads=2, in_channels=1)
    run = train(tmp_path / "run", methods.SimCLR(encoder, encoders.MLP((6,))))
    export_run(run, tmp_path / "m", to=to)
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype(np.float32)
    state = restore_run(run).state
    expected = encoder.apply({"params": state.params["encoder"]}, images)
    found = load_images(tmp_path / "m", heads=2)(images)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_weights_of_others_are_rewritten(tmp_path, capsys):
    encoder = encoders.ViT("tiny", patch=4, image_size=8, depth=1)
    variables = jax.jit(encoder.init)(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    from jaxcl.pretrained import save_images

    save_images(tmp_path / "timm", encoder, variables, to="timm")
    assert main(["convert", str(tmp_path / "timm"), "--out", str(tmp_path / "ours")]) == 0
    assert "wrote the ViT" in capsys.readouterr().out
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    found = from_pretrained(tmp_path / "ours")(images)
    np.testing.assert_allclose(found, encoder.apply(variables, images), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--to", "keras"], "--to 'keras': expected one of safetensors, torchvision"),
        (["--to", "timm"], "timm has no build for SmallCNN: ResNet, ViT, ConvNeXt"),
        (["--to", "timm", "--heads"], "timm has no place for a projector"),
        (["--to", "safetensors", "--tower", "text"], "MoCo has one encoder, no tower 'text'"),
    ],
)
def test_what_cannot_be_exported_is_one_line(run, tmp_path, capsys, options, words):
    out = tmp_path / "m"
    assert main(["export", str(run), "--out", str(out), *options]) == 2
    complaint = capsys.readouterr().err
    assert words in complaint
    assert "Traceback" not in complaint
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "nowhere", "--to", "timm", "--out", "o"], "nowhere"),
        (["export", "r", "--to", "stablehlo", "--out", "o", "--push", "a/b"], "but safetensors"),
        (["convert", "nowhere.pth", "--out", "o"], "is missing: give a file of weights"),
        (["convert", ".", "--out", "o"], "holds no weights"),
    ],
)
def test_what_is_not_there_is_one_line(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def damage(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, **changes}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"library": "timm"}, "was not written by jaxcl: load_images, load_text"),
        ({"format": 99}, "has format 99, and this version of jaxcl reads 1"),
        ({"networks": {"encoder": {"class": "os.system"}}}, "is damaged"),
        ({"networks": {"encoder": {"class": "jaxcl.data.digits.Digits"}}}, "encoder is no network"),
        (
            {"inputs": {"shape": [8, 8, 3], "dtype": "float32"}},
            r"misshapen: params/encoder/conv0/kernel is \[3, 3, 1, 4\], expected",
        ),
    ],
)
def test_a_folder_that_is_not_what_it_says_is_refused(run, tmp_path, change, words):
    export_run(run, tmp_path / "m", to="safetensors")
    damage(tmp_path / "m", **change)
    with pytest.raises(ValueError, match=words):
        from_pretrained(tmp_path / "m")


@pytest.mark.slow
def test_arrays_that_do_not_fit_are_named(run, tmp_path):
    import safetensors.numpy

    export_run(run, tmp_path / "m", to="safetensors")
    path = tmp_path / "m" / "model.safetensors"
    arrays = safetensors.numpy.load_file(path)
    arrays["params/encoder/more"] = arrays.pop("params/encoder/conv0/kernel")
    arrays["params/encoder/norm0/scale"] = np.zeros(3, np.float32)
    safetensors.numpy.save_file(arrays, path)
    words = r"(?s)missing: params/encoder/conv0/kernel.*left over: params/encoder/more.*misshapen"
    with pytest.raises(ValueError, match=words):
        from_pretrained(tmp_path / "m")
