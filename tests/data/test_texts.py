"""Tokenizers and texts as records: tokens, lengths, labels, and bad texts."""

import gzip
import importlib.util
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxcl.data import (
    Batches,
    Texts,
    Tokenizer,
    clip_tokenizer,
    pad_tokens,
    read_batch,
    train_tokenizer,
)
from jaxcl.data.batches import batch_at, bucket_length

REFERENCE = Path(__file__).parents[1] / "reference"
LINES = [
    "a red bird sings",
    "the blue bird sings a song",
    "a red kite",
    "one kite and another kite and one more kite and a bird and a song " * 2,
    "the end",
]


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    trained = train_tokenizer(LINES, vocabulary=200, kind="wordpiece")
    trained.tokenizer.save(str(path))
    return str(path)


@pytest.fixture
def lines_file(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(LINES) + "\n")
    return str(path)


def decoded(tokenizer, tokens):
    return tokenizer.tokenizer.decode([int(token) for token in tokens if token >= 0])


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_a_tokenizer_of_ones_own_text_gives_the_text_back(kind):
    texts = [*LINES, "Émile, 鳥 — naïve\tübermäßig"] if kind == "bpe" else LINES
    tokenizer = train_tokenizer(texts, vocabulary=300, kind=kind)
    assert tokenizer.vocabulary <= 300
    for text, tokens in zip(texts, tokenizer(texts).texts, strict=True):
        assert tokens.dtype == np.int32
        assert (tokens[0], tokens[-1]) == (2, 3)  # [CLS], [SEP]
        assert decoded(tokenizer, tokens).strip() == text.strip()


def test_byte_pairs_know_every_text():
    tokenizer = train_tokenizer(["only small letters"], vocabulary=270)
    [tokens] = tokenizer(["ДА ﷽ 🦜"]).texts
    assert 1 not in tokens  # [UNK]
    assert decoded(tokenizer, tokens).strip() == "ДА ﷽ 🦜"


def test_lowercase_is_asked_for():
    for kind in ("bpe", "wordpiece"):
        lower, both = (
            train_tokenizer(["A Bird a bird"] * 3, vocabulary=300, kind=kind, lowercase=lowercase)
            for lowercase in (True, False)
        )
        capital, small = lower(["A BIRD", "a bird"]).texts
        np.testing.assert_array_equal(capital, small)
        capital, small = both(["A Bird", "a bird"]).texts
        assert capital.tolist() != small.tolist()


def test_clips_tokens_are_open_clips():
    package = importlib.util.find_spec("open_clip")
    if package is None:
        pytest.skip("needs CLIP's vocabulary: pip install --no-deps open_clip_torch")
    tokenizer = clip_tokenizer(Path(package.origin).parent / "bpe_simple_vocab_16e6.txt.gz")
    assert tokenizer.vocabulary == 49_408
    golden = json.loads((REFERENCE / "clip_tokens.json").read_text(encoding="utf-8"))
    for text, tokens in golden:
        assert tokenizer([text]).texts[0].tolist() == tokens, text


def test_what_is_not_clips_vocabulary_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="give bpe_simple_vocab_16e6"):
        clip_tokenizer(tmp_path / "none.txt.gz")
    (tmp_path / "plain.txt.gz").write_text("a b")
    with pytest.raises(ValueError, match=r"is damaged, or no \.gz"):
        clip_tokenizer(tmp_path / "plain.txt.gz")
    (tmp_path / "short.txt.gz").write_bytes(gzip.compress(b"#version\na b\nc d\n"))
    with pytest.raises(ValueError, match="holds no 48894 merges"):
        clip_tokenizer(tmp_path / "short.txt.gz")


def test_long_texts_are_cut_and_counted_or_refused(tokenizer_file):
    cutting = Tokenizer.load(tokenizer_file, max_length=6)
    found = cutting(LINES)
    assert found.cut == 2
    assert [len(tokens) for tokens in found.texts] == [6, 6, 5, 6, 4]
    assert all(tokens[-1] == 3 for tokens in found.texts)  # [SEP] stays
    refusing = Tokenizer.load(tokenizer_file, max_length=6, too_long="refuse")
    with pytest.raises(ValueError, match="2 of 5 texts have more than 6 tokens, the first is"):
        refusing(LINES)


def test_what_a_file_says_of_padding_and_length_is_set_anew(tokenizer_file, tmp_path):
    own = Tokenizer.load(tokenizer_file).tokenizer
    own.enable_padding(length=50)
    own.enable_truncation(4)
    own.save(str(tmp_path / "tokenizer.json"))
    found = Tokenizer.load(tmp_path)(LINES)
    assert found.cut == 0
    assert [len(tokens) for tokens in found.texts] == [
        len(tokens) for tokens in Tokenizer.load(tokenizer_file)(LINES).texts
    ]


def test_a_tokenizer_travels_to_other_processes(tokenizer_file):
    tokenizer = Tokenizer.load(tokenizer_file, max_length=6, too_long="refuse")
    again = pickle.loads(pickle.dumps(tokenizer))
    assert (again.max_length, again.too_long) == (6, "refuse")
    np.testing.assert_array_equal(again(LINES[2:3]).texts[0], tokenizer(LINES[2:3]).texts[0])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda file: Tokenizer.load(file, max_length=0), "max_length is 0, expected at least 1"),
        (lambda file: Tokenizer.load(file, max_length=2), "leaves no room beside the 2 marks"),
        (lambda file: Tokenizer.load(file, too_long="drop"), "'drop', expected 'cut' or 'refuse'"),
        (lambda file: train_tokenizer(LINES, vocabulary=100), "a bpe needs at least 261"),
        (lambda file: train_tokenizer(LINES, vocabulary=300, kind="words"), "expected 'bpe' or"),
        (lambda file: pad_tokens([np.arange(4)], 3), "4 tokens does not fit into 3"),
    ],
)
def test_what_does_not_fit_is_refused(tokenizer_file, make, words):
    with pytest.raises(ValueError, match=words):
        make(tokenizer_file)


def test_a_file_that_is_no_tokenizer(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"give a tokenizer\.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is no tokenizer of the tokenizers library"):
        Tokenizer.load(tmp_path)


def test_a_package_that_is_not_installed_is_named_with_its_line(monkeypatch, tokenizer_file):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r'tokenizers is not .*: pip install "jaxcl\[text\]"'):
        Tokenizer.load(tokenizer_file)


def test_records_are_the_texts_of_the_file(tokenizer_file, lines_file):
    source = Texts(lines_file, tokenizer_file).open()
    tokenizer = Tokenizer.load(tokenizer_file)
    assert len(source) == 5
    assert source.names == LINES
    assert source.labels is None
    for record, text in enumerate(LINES):
        tokens = source[record]["text"]
        assert tokens.dtype == np.int32
        assert decoded(tokenizer, tokens).strip() == text.strip()
        assert (tokens >= 0).sum() == source.lengths["text"][record]
    assert len({source[record]["text"].shape for record in range(5)}) == 1
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again[3]["text"], source[3]["text"])


def test_a_field_without_any_text_is_refused(tokenizer_file, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"query": "a bird", "found": []}\n{"query": "a kite", "found": []}\n')
    with pytest.raises(ValueError, match="found: all texts are ''"):
        Texts(str(path), tokenizer_file, ("query", "found"), empty="keep").open()


def test_pairs_labels_and_several_texts(tokenizer_file, tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"query": "a bird", "found": ["a red bird sings", "the blue bird"], "kind": "bird"},
        {"query": "a kite", "found": ["a red kite"], "kind": "thing"},
        {"query": "a song", "found": ["a song", "one more song"], "kind": "bird"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    source = Texts(str(path), tokenizer_file, ("query", "found"), label="kind").open()
    assert source.label_names == ("bird", "thing")
    np.testing.assert_array_equal(source.labels, [0, 1, 0])
    batch = read_batch(source, [2, 0, 1])
    assert batch["query"].shape == (3, 4)
    assert batch["found"].shape == (3, 2, 6)
    assert (batch["found"][2, 1] == -1).all()
    np.testing.assert_array_equal(batch["label"], [0, 0, 1])


def test_empty_texts_are_passed_over_refused_or_kept(tokenizer_file, tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("a red bird\n\n \na kite\n")
    skipping = Texts(str(path), tokenizer_file).open()
    assert skipping.names == ["a red bird", "a kite"]
    assert "2 records of" in skipping.notices[0]
    keeping = Texts(str(path), tokenizer_file, empty="keep").open()
    assert len(keeping) == 4
    assert (keeping[1]["text"] == -1).all()
    with pytest.raises(ValueError, match="2 records have an empty text, the first is number 1"):
        Texts(str(path), tokenizer_file, empty="refuse").open()


@pytest.mark.parametrize(
    ("text", "changes", "words"),
    [
        ("a bird\na bird\n", {}, "all texts are 'a bird', so none tells"),
        ("\n\n", {}, "holds no texts"),
        ("a bird\na kite\n", {"columns": ()}, "columns names no column"),
        ("a bird\na kite\n", {"empty": "drop"}, "expected 'skip', 'refuse' or 'keep'"),
        (
            "a bird\na kite and a bird\n",
            {"max_length": 5, "too_long": "refuse"},
            r"lines.txt, text: 1 of 2 texts have more than 5 tokens.*'a kite and a bird'",
        ),
    ],
)
def test_bad_texts_are_refused(tokenizer_file, tmp_path, text, changes, words):
    path = tmp_path / "lines.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        Texts(str(path), tokenizer_file, **changes).open()


def test_batches_are_as_long_as_one_of_few_lengths(tokenizer_file, lines_file):
    source = Texts(lines_file, tokenizer_file).open()
    assert read_batch(source, [0, 4])["text"].shape == (2, 8)
    assert read_batch(source, [0, 3])["text"].shape == (2, 32)  # the longest text's own length
    lengths = {bucket_length(longest, 128) for longest in range(129)}
    assert sorted(lengths) == [8, 12, 16, 24, 32, 48, 64, 96, 128]
    assert all(bucket_length(longest, 128) >= longest for longest in range(129))


def test_every_process_gets_the_length_of_the_whole_batch(tokenizer_file, lines_file):
    source = Texts(lines_file, tokenizer_file).open()
    for step in range(6):
        whole = batch_at(source, step, batch_size=4, seed=1)
        parts = [
            batch_at(source, step, batch_size=4, seed=1, process_index=part, process_count=2)
            for part in range(2)
        ]
        for name in ("text", "index"):
            joined = np.concatenate([part[name] for part in parts])
            np.testing.assert_array_equal(joined, whole[name])


@pytest.mark.slow
def test_batches_of_texts_come_from_workers_too(tokenizer_file, lines_file):
    source = Texts(lines_file, tokenizer_file).open()
    here = list(Batches(source, batch_size=2, seed=0, steps=3))
    batches = iter(Batches(source, batch_size=2, seed=0, steps=3, workers=1))
    there = list(batches)
    batches.close()
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one["text"], other["text"])
