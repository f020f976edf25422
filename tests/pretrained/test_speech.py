"""wav2vec 2.0 and HuBERT from their folders: frames as transformers has them."""

import json

import jax
import numpy as np
import pytest
from weights import GOLDEN, SOUND, SPEECH, arrays_of, write

from jaxcl import encoders, methods
from jaxcl.pretrained import SpeechWeights, from_pretrained, load_speech, save_pretrained


@pytest.mark.slow
@pytest.mark.parametrize("case", SPEECH)
def test_frames_are_those_of_pytorch(tmp_path, case):
    model = load_speech(write(tmp_path, case))
    expected = GOLDEN[f"{case}/features"]
    assert np.abs(model(SOUND) - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.slow
def test_both_names_of_a_weight_norm_are_read(tmp_path):
    def older(arrays):
        conv = "encoder.pos_conv_embed.conv."
        arrays[f"{conv}weight_g"] = arrays.pop(f"{conv}parametrizations.weight.original0")
        arrays[f"{conv}weight_v"] = arrays.pop(f"{conv}parametrizations.weight.original1")

    old = load_speech(write(tmp_path / "old", "wav2vec 2.0", older))
    new = load_speech(write(tmp_path / "new", "wav2vec 2.0"))
    jax.tree.map(np.testing.assert_array_equal, old.params, new.params)


@pytest.mark.slow
def test_it_is_saved_as_ours(tmp_path):
    model = load_speech(write(tmp_path / "theirs", "HuBERT"), pool="mean")
    save_pretrained(tmp_path / "ours", model)
    again = from_pretrained(tmp_path / "ours")
    np.testing.assert_array_equal(again(SOUND), model(SOUND))
    assert again(SOUND).shape == (2, 32)


def starts(folder, method, network):
    sound = np.zeros((1, 4000), np.float32)
    of_front = jax.eval_shape(method.encoder.init, jax.random.key(0), sound)
    if network == "encoder":
        return SpeechWeights(str(folder)).load(method.encoder, of_front)
    frames = jax.ShapeDtypeStruct((1, 12, method.encoder.width), np.float32)
    shapes = jax.eval_shape(method.context.init, jax.random.key(0), frames)
    return SpeechWeights(str(folder), network="context").load(method.context, shapes)


@pytest.mark.slow
def test_a_run_starts_from_it(tmp_path):
    folder = write(tmp_path, "wav2vec 2.0")
    context = encoders.FrameTransformer(32, 2, 4, place_kernel=16, place_groups=4, dropout=0.2)
    method = methods.Wav2Vec2(encoders.wav2vec_front(16), context=context)
    model = load_speech(folder)
    for network in ("encoder", "context"):
        found = starts(folder, method, network)["params"]
        jax.tree.map(np.testing.assert_array_equal, found, model.params[network])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 64}, "the network's width is 64 and that of .* 32"),
        ({"norm_place": "pre"}, "the network's norm_place is 'pre'"),
    ],
)
def test_a_network_of_another_size_is_named(tmp_path, changes, words):
    folder = write(tmp_path, "wav2vec 2.0")
    sizes = {"width": 32, "depth": 2, "heads": 4, "place_kernel": 16, "place_groups": 4}
    context = encoders.FrameTransformer(**{**sizes, **changes})
    with pytest.raises(ValueError, match=words):
        SpeechWeights(str(folder)).load(context, {})
    with pytest.raises(ValueError, match="the network is SampleConvolutions"):
        SpeechWeights(str(folder)).load(encoders.wav2vec_front(8), {})
    with pytest.raises(ValueError, match="expected SampleConvolutions or a FrameTransformer"):
        SpeechWeights(str(folder)).load(encoders.MLP((4,)), {})


def lose(arrays):
    del arrays["encoder.layers.1.attention.k_proj.bias"]
    arrays["encoder.layers.2.attention.k_proj.bias"] = np.zeros(3, np.float32)
    arrays["feature_projection.projection.bias"] = np.zeros(3, np.float32)


def test_weights_that_do_not_fit_are_named(tmp_path):
    words = (
        r"(?s)misshapen: feature_projection.projection.bias is \[3\].*missing: encoder.layers.1."
        r"attention.k_proj.bias.*left over: encoder.layers.2"
    )
    with pytest.raises(ValueError, match="do not fit the model") as raised:
        load_speech(write(tmp_path, "wav2vec 2.0", lose))
    for part in words.removeprefix("(?s)").split(".*"):
        assert part.replace("\\", "") in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "whisper"}, "of type 'whisper', expected wav2vec2 or hubert"),
        ({"hidden_act": "relu"}, "hidden_act 'relu', only 'gelu' is known"),
        ({"conv_dim": [16] * 6 + [32]}, "convolutions of several widths"),
    ],
)
def test_another_build_is_said(tmp_path, changes, words):
    folder = write(tmp_path, "wav2vec 2.0")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ValueError, match=words):
        load_speech(folder)


def test_large_holds_what_pretraining_added():
    assert any(name.startswith("quantizer.") for name in arrays_of("wav2vec 2.0 large"))
