"""The command line on texts: a tokenizer, features, and what is found by them."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from jaxcl.cli import main
from jaxcl.data import train_tokenizer

CONFIG = """
from jaxcl import augment, data, encoders, methods, training

FOLDER = {folder!r}

def config():
    path = FOLDER + "/pictures.npz"
    texts = data.Texts(path, FOLDER + "/tokenizer.json", ("caption",), max_length=16)
    return training.Experiment(
        data=data.Paired((data.Arrays(path), texts)),
        views=augment.Views(
            (augment.RandomResizedCrop(4, scale=(0.9, 1.0)), augment.Unchanged()),
            fields=("image", "caption"),
        ),
        method=methods.clip(
            encoders.MLP((64,)),
            encoders.bert(60, width=16, depth=1, heads=2, max_length=16, dropout=0.0),
            dim=8,
        ),
        optimizer=training.AdamW(learning_rate=0.003, scaling="none"),
        train=training.Train(batch_size=16, epochs=1),
        run=training.Run(devices=1),
    )
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Sixteen plain pictures, the names of their colours, and a config."""
    folder = tmp_path_factory.mktemp("run")
    levels = (0, 255)
    colours = [(r, g, b) for r in levels for g in levels for b in (0, 120, 200, 255)]
    words = ["no", "full"]
    blues = {0: "no", 120: "some", 200: "much", 255: "full"}
    captions = [
        f"{words[r > 0]} red and {words[g > 0]} green and {blues[b]} blue" for r, g, b in colours
    ]
    images = np.broadcast_to(np.array(colours, np.uint8)[:, None, None], (16, 8, 8, 3))
    np.savez(folder / "pictures.npz", image=images, caption=np.array(captions))
    (folder / "captions.txt").write_text("\n".join([*captions, "", " "]) + "\n")
    (folder / "config.py").write_text(CONFIG.format(folder=str(folder)))
    out = ["--out", str(folder / "tokenizer.json")]
    make = ["tokenizer", str(folder / "captions.txt"), "--kind", "wordpiece", "--vocabulary", "60"]
    assert main([*make, *out]) == 0
    return folder, captions


@pytest.fixture(scope="module")
def begun(written):
    """One step."""
    folder, _ = written
    assert main(["train", str(folder / "config.py"), "--out", str(folder / "run")]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(written):
    """Learned by heart."""
    folder, captions = written
    out = ["--out", str(folder / "trained"), "--train.epochs", "300"]
    assert main(["train", str(folder / "config.py"), *out]) == 0
    return folder, captions


def test_the_tokenizer_says_how_long_texts_are(written, capsys, tmp_path):
    folder, _ = written
    out = tmp_path / "new" / "own.json"
    files = [str(folder / "captions.txt"), str(folder / "pictures.npz")]
    assert main(["tokenizer", files[0], "--vocabulary", "300", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "tokens, of 16 texts" in said
    assert "'no red and no green and no blue': [CLS]" in said
    assert json.loads(out.read_text())["model"]["type"] == "BPE"
    both = ["tokenizer", files[1], "--column", "caption", "--vocabulary", "300", "--out", str(out)]
    assert main(both) == 0


def test_a_run_keeps_its_tokenizer(written, begun, capsys, tmp_path):
    folder, captions = written
    run, out = begun / "run", str(tmp_path / "texts.npz")
    before = (folder / "tokenizer.json").read_text()
    assert main(["embed", str(run), "--text", str(folder / "captions.txt"), "--out", out]) == 0
    first = np.load(out)["features"]
    other = train_tokenizer([*captions, "another word"], vocabulary=58, kind="wordpiece")
    try:
        other.tokenizer.save(str(folder / "tokenizer.json"))
        assert main(["embed", str(run), "--text", str(folder / "captions.txt"), "--out", out]) == 0
        np.testing.assert_array_equal(np.load(out)["features"], first)
        capsys.readouterr()
        assert main(["train", str(run)]) == 2
        said = capsys.readouterr().err
        assert "is not the tokenizer that the run was trained with" in said
    finally:
        (folder / "tokenizer.json").write_text(before)


@pytest.mark.slow
def test_texts_find_pictures_and_pictures_texts(trained, capsys, tmp_path):
    folder, captions = trained
    pictures, texts = str(tmp_path / "pictures.npz"), str(tmp_path / "texts.npz")
    run = str(folder / "trained")
    assert main(["embed", run, str(folder / "pictures.npz"), "--out", pictures]) == 0
    assert main(["embed", run, "--text", str(folder / "captions.txt"), "--out", texts]) == 0
    assert "16 x 8 features" in capsys.readouterr().out
    embedded = np.load(texts)
    assert embedded["names"].tolist() == captions
    np.testing.assert_allclose(np.linalg.norm(embedded["features"], axis=1), 1, rtol=1e-5)
    first = []
    for row, caption in enumerate(captions):
        assert main(["search", run, "--index", pictures, "--query", caption, "--count", "1"]) == 0
        first.append(int(capsys.readouterr().out.split()[1]) == row)
    assert np.mean(first) >= 0.75  # of 16, where chance is 1
    sheet = tmp_path / "found.png"
    Image.fromarray(np.load(folder / "pictures.npz")["image"][3]).save(tmp_path / "query.png")
    search = ["search", run, "--image", str(tmp_path / "query.png"), "--count", "7"]
    assert main([*search, "--index", texts]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 7
    assert main([*search, "--index", pictures, "--out", str(sheet)]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("1.000  3")
    drawn = np.asarray(Image.open(sheet))
    assert tuple(drawn[40, 40]) == tuple(np.load(folder / "pictures.npz")["image"][3, 0, 0])


BAD = {
    "neither": (["search", "{run}", "--index", "{index}"], "give one of --query TEXT and --image"),
    "no such index": (["search", "{run}", "--index", "none.npz", "--query", "a"], "none.npz"),
    "no index": (
        ["search", "{run}", "--index", "{folder}/pictures.npz", "--query", "a"],
        "has no array 'names', only caption, image",
    ),
    "no text": (["embed", "{run}", "--text", "{empty}", "--out", "o.npz"], "holds no texts"),
    "no column": (
        ["embed", "{run}", "--text", "{folder}/pictures.npz", "--out", "o.npz"],
        "holds no array 'text': it has image, caption",
    ),
    "both": (
        ["embed", "{run}", "{folder}", "--text", "{empty}", "--out", "o.npz"],
        "give one of INPUT",
    ),
    "the texts themselves": (
        ["embed", "{run}", "--text", "{copy}", "--out", "{copy}"],
        "which holds the texts: give another file",
    ),
    "no batch": (
        ["embed", "{run}", "--text", "{empty}", "--out", "o.npz", "--batch-size", "0"],
        "--batch-size is 0",
    ),
    "a damaged index": (
        ["search", "{run}", "--index", "{empty}", "--query", "a"],
        "ends in none of",
    ),
    "a small vocabulary": (
        ["tokenizer", "{folder}/captions.txt", "--vocabulary", "100", "--out", "o.json"],
        "a bpe needs at least 261",
    ),
    "another ending": (
        ["tokenizer", "{folder}/captions.txt", "--out", "o.txt"],
        "expected a file that ends in .json",
    ),
    "nothing to draw": (
        ["search", "{run}", "--index", "{index}", "--query", "no red", "--out", "o.png"],
        "holds no pictures",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD)
def test_bad_commands_are_told_in_a_line(begun, capsys, tmp_path, monkeypatch, case):
    folder = begun
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n")
    np.savez(tmp_path / "i.npz", features=np.ones((3, 8), np.float32), names=np.array(["a"] * 3))
    np.savez(tmp_path / "copy.npz", text=np.array(["no red", "full red"]))
    arguments, words = BAD[case]
    places = {
        "run": folder / "run",
        "folder": folder,
        "index": tmp_path / "i.npz",
        "empty": tmp_path / "empty.txt",
        "copy": tmp_path / "copy.npz",
    }
    assert main([argument.format(**places) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("o.")]


@pytest.mark.parametrize("verb", ["train", "views", "tokenizer"])
def test_a_missing_extra_is_told_in_a_line(written, capsys, tmp_path, monkeypatch, verb):
    folder, _ = written
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    given = {"tokenizer": ["captions.txt", "t.json"], "views": ["config.py", "v.png"]}
    name, out = given.get(verb, ["config.py", "run"])
    assert main([verb, str(folder / name), "--out", str(tmp_path / out)]) == 2
    said = capsys.readouterr().err
    assert 'tokenizers is not installed, which this needs: pip install "jaxcl[text]"' in said
    assert len(said.splitlines()) == 1
