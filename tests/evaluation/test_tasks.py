"""Figures of tasks against slow definitions, on embeddings that are drawn."""

import numpy as np
import pytest
from scipy import stats

from jaxcl import augment, data, methods, training
from jaxcl.data.parts import OneField
from jaxcl.encoders import MLP
from jaxcl.evaluation import tasks

WORDS = ["bird", "kite", "song", "hill", "boat", "tree", "lamp", "road", "fish", "moon"]


class Pairs:
    """Records with two fields of numbers, of which some lack the second."""

    def __init__(self, count, groups=None):
        random = np.random.default_rng(0)
        self.fields = {
            name: random.normal(size=(count, 4)).astype(np.float32) for name in ("sound", "move")
        }
        self.present = np.arange(count) % 5 != 0
        self.groups = np.arange(count) if groups is None else np.asarray(groups)
        self.labels, self.label_names = None, None

    def __len__(self):
        return len(self.groups)

    def __getitem__(self, record):
        fields = {name: rows[record] for name, rows in self.fields.items()}
        return fields | {"replaced": False, "move_there": self.present[record]}


class Opened(data.SourceConfig):
    def __init__(self, source):
        self.source = source

    def open(self):
        return self.source


def cosines(first, second):
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (first, second)]
    return unit[0] @ unit[1].T


def slow_retrieval(queries, query_ids, found, found_ids):
    """Recall at 1 and 5, and the mean reciprocal rank, query by query."""
    ranks = []
    for scores, own in zip(cosines(queries, found), query_ids, strict=True):
        order = np.argsort(-scores, kind="stable")
        matches = np.flatnonzero(found_ids[order] == own)
        if len(matches):
            ranks.append(1 + matches[0])
    ranks = np.array(ranks)
    return (ranks == 1).mean(), (ranks <= 5).mean(), (1 / ranks).mean()


class Labelled:
    """Records of which one cannot be read, so that the next stands in for it."""

    labels = np.array([0, 0, 0, 1, 1, 1], np.int32)
    label_names = ("a", "b")
    names = tuple("uvwxyz")

    def __len__(self):
        return 6

    def __getitem__(self, record):
        is_bad = record == 2
        return {"sound": np.float32([record + is_bad]), "replaced": is_bad, "label": 0}


@pytest.mark.slow
def test_what_stands_in_for_others_has_not_their_label():
    source = Opened(Labelled())
    features = np.eye(2)[[0, 0, 1, 1, 1, 1]] + 0.01 * np.arange(6)[:, None]
    found = tasks.Verification("t", source, "sound").measure(lambda *_: features)
    assert found == {"equal error rate": 0, "minDCF": 0}
    classes = tasks.Classes("t", source, source, "sound", neighbours=1)
    assert classes.measure(lambda *_: features) == {"kNN": 1, "linear": 1}


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True], ids=["apart", "groups"])
def test_retrieval_is_query_by_query_of_what_is_there(shared):
    count = 40
    source = Pairs(count, np.arange(count) // 2 if shared else None)
    shift = np.array([3.0, 0, 0, 0])
    random = np.random.default_rng(1)
    first = random.normal(size=(count, 4)) + shift
    second = first + random.normal(size=(count, 4)) - 2 * shift
    embedded = {"sound": first, "move": second}
    task = tasks.Retrieval("t", Opened(source), "sound", "move", centre=True)
    figures = task.measure(lambda _, field: embedded[field])
    there = source.present
    second, ids = second[there], source.groups[there]
    for centre in (False, True):
        one, other = (rows - centre * rows.mean(0) for rows in (first, second))
        for names, sides in (
            ("sound to move", (one, source.groups, other, ids)),
            ("move to sound", (other, ids, one, source.groups)),
        ):
            at_1, at_5, reciprocal = slow_retrieval(*sides)
            word = "centred " if centre else ""
            np.testing.assert_allclose(figures[f"{names}, {word}R@1"], at_1)
            np.testing.assert_allclose(figures[f"{names}, {word}MRR"], reciprocal, rtol=1e-6)
            if not centre:
                np.testing.assert_allclose(figures[f"{names}, R@5"], at_5)
    assert figures["sound to move, centred R@1"] > figures["sound to move, R@1"]
    unit = [
        rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (first, embedded["move"])
    ]
    apart = np.sum((unit[0] - unit[1])[there] ** 2, axis=1)
    np.testing.assert_allclose(figures["alignment"], apart.mean(), rtol=1e-5)
    means = [
        (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(0) for rows in (first, second)
    ]
    np.testing.assert_allclose(figures["gap"], np.linalg.norm(means[0] - means[1]), rtol=1e-5)


def test_texts_of_a_record_find_one_another():
    """Within one field: captions in several languages, some of which are missing."""
    random = np.random.default_rng(4)
    rows = random.normal(size=(12, 1, 5)) + 0.8 * random.normal(size=(12, 3, 5))
    tokens = np.arange(72, dtype=np.int32).reshape(12, 3, 2)
    tokens[::4, 2] = -1  # no text, whatever its features
    tokens[5, 1:] = -1  # alone, so that nothing is to be found
    tokens[7, 0] = tokens[6, 0]  # the same text twice counts once
    source = Pairs(12)
    source.fields["words"] = tokens
    figures = tasks.Retrieval("t", Opened(source), "words", "words").measure(lambda *_: rows)
    flat, ids = rows.reshape(36, 5), np.repeat(np.arange(12), 3)
    kept = tokens.reshape(36, 2)[:, 0] >= 0
    kept[21] = False
    flat, ids = flat[kept], ids[kept]
    found = {1: [], 5: [], 10: []}
    for query, scores in enumerate(cosines(flat, flat)):
        others = np.delete(np.arange(len(flat)), query)
        if ids[query] in ids[others]:
            order = others[np.argsort(-scores[others], kind="stable")]
            for k, hits in found.items():
                hits.append(ids[query] in ids[order[:k]])
    for k, hits in found.items():
        np.testing.assert_allclose(figures[f"words, R@{k}"], np.mean(hits))
    assert 0 < figures["words, R@1"] < figures["words, R@10"]


def test_features_that_are_zero_still_count():
    """A dead encoder does not look better for what it lost."""
    source = Pairs(20)
    source.present[:] = True
    rows = np.random.default_rng(5).normal(size=(20, 4))
    dead = rows.copy()
    dead[3:] = 0
    embedded = {"sound": rows, "move": dead}
    task = tasks.Retrieval("t", Opened(source), "sound", "move")
    assert task.measure(lambda _, field: embedded[field])["sound to move, R@1"] < 0.5


@pytest.mark.parametrize(
    ("fields", "change", "words"),
    [
        (("words", "words"), lambda tokens: tokens[:, 1:].fill(-1), "no record has two different"),
        (("words", "move"), lambda tokens: tokens.fill(-1), "no record has 'words' and 'move'"),
    ],
)
def test_nothing_to_find_is_told_before_training(fields, change, words):
    tokens = np.arange(72, dtype=np.int32).reshape(12, 3, 2)
    change(tokens)
    source = Pairs(12)
    source.fields["words"] = tokens
    views = augment.Views((augment.Unchanged(),) * 2, fields="words")
    experiment = training.Experiment(Opened(source), views, methods.SimCLR(MLP((2,))))
    with pytest.raises(ValueError, match=words):
        tasks.Retrieval("t", Opened(source), *fields).check(experiment)
    with pytest.raises(ValueError, match="centre tells two fields apart"):
        tasks.Retrieval("t", Opened(source), "move", "move", centre=True).check(experiment)


@pytest.fixture
def folder(tmp_path):
    texts = [f"{colour} {word}" for colour in ("red", "blue", "pale") for word in WORDS]
    pairs = zip(texts[:-3], texts[3:], strict=True)
    rows = [f"{first}\t{second}\t{place % 7}" for place, (first, second) in enumerate(pairs)]
    (tmp_path / "pairs.tsv").write_text("\n".join(["first\tsecond\tscore", *rows]) + "\n")
    trained = data.train_tokenizer(texts, vocabulary=80, kind="wordpiece")
    trained.tokenizer.save(str(tmp_path / "tokenizer.json"))
    np.savez(
        tmp_path / "songs.npz",
        text=np.array(texts[:20]),
        kind=np.arange(20) % 6,
    )
    return tmp_path


def test_similarity_is_scipys_correlation_with_the_scores(folder):
    texts = data.Texts(str(folder / "pairs.tsv"), str(folder), ("first", "second"))
    count = len(texts.open())
    embedded = dict(
        zip(texts.columns, np.random.default_rng(2).normal(size=(2, count, 5)), strict=True)
    )
    figures = tasks.Similarity("s", texts, "score").measure(lambda _, field: embedded[field])
    diagonal = np.diag(cosines(*embedded.values()))
    scores = np.arange(count) % 7
    np.testing.assert_allclose(figures["pearson"], stats.pearsonr(diagonal, scores)[0], rtol=1e-6)
    np.testing.assert_allclose(figures["spearman"], stats.spearmanr(diagonal, scores)[0], rtol=1e-6)


def test_classes_are_told_by_the_mean_of_their_prompts(folder):
    source = data.Texts(str(folder / "songs.npz"), str(folder), label="kind")
    names = tuple(WORDS[:6])
    random = np.random.default_rng(3)
    prompts, features = random.normal(size=(12, 4)), random.normal(size=(20, 4))

    def embed(rows, field):
        return prompts if isinstance(rows, OneField) else features

    task = tasks.ZeroShot("z", source, "text", str(folder), "text", ("a {}", "one {}"), names)
    figures = task.measure(embed)
    right = np.zeros((20, 2))
    for row in range(20):
        scores = []
        for kind in range(6):
            two = [prompt / np.linalg.norm(prompt) for prompt in prompts[2 * kind : 2 * kind + 2]]
            mean = (two[0] + two[1]) / 2
            scores.append(features[row] @ mean / np.linalg.norm(mean))
        order = np.argsort(scores)[::-1]
        right[row] = order[0] == row % 6, row % 6 in order[:5]
    np.testing.assert_allclose(figures["accuracy"], right[:, 0].mean())
    np.testing.assert_allclose(figures["top 5"], right[:, 1].mean())
