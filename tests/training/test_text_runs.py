"""Runs on texts and on pictures with texts: from files to a trained encoder, its tasks and back."""

import dataclasses
import json
import sys

import jax
import numpy as np
import pytest
from small_runs import stop_after

from jaxcl import augment, data, encoders, methods, pretrained, training
from jaxcl.evaluation import tasks
from jaxcl.evaluation.fields import encoded_fields
from jaxcl.evaluation.runs import evaluate_run
from jaxcl.training import UserError
from jaxcl.training.state import name_leaves

WORDS = ["bird", "kite", "song", "hill", "boat", "tree", "lamp", "road", "fish", "moon"]
COLOURS = ["red", "blue", "green", "black", "white", "brown", "grey", "pale"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Texts of several lengths, pairs with scores, pictures with captions, and their tokenizer."""
    folder = tmp_path_factory.mktemp("texts")
    texts = [
        " and ".join([f"a {colour} {word}"] * (1 + (row + place) % 4))
        for row, colour in enumerate(COLOURS)
        for place, word in enumerate(WORDS)
    ]
    (folder / "texts.txt").write_text("\n".join(texts) + "\n")
    tokenizer = data.train_tokenizer(texts, vocabulary=80, kind="wordpiece")
    tokenizer.tokenizer.save(str(folder / "tokenizer.json"))
    rows = [f"{texts[row]}\t{texts[row + 1]}\t{row % 5}" for row in range(0, 40, 2)]
    (folder / "pairs.tsv").write_text("\n".join(["first\tsecond\tscore", *rows]) + "\n")
    shades = np.linspace(0, 255, 80, dtype=np.uint8)
    captions = [[text, "" if row % 3 else f"some {text}"] for row, text in enumerate(texts)]
    np.savez(
        folder / "pictures.npz",
        image=np.broadcast_to(shades[:, None, None, None], (80, 6, 6, 3)),
        caption=np.array(captions),
        kind=np.repeat(COLOURS, len(WORDS)),
        maybe=np.array([text if row % 4 else "" for row, text in enumerate(texts)]),
    )
    return folder


def texts_of(folder, **changes):
    return data.Texts(str(folder / "texts.txt"), str(folder), **{"max_length": 24} | changes)


ENCODER = encoders.bert(80, width=8, depth=1, heads=2, max_length=24)


def text_experiment(folder, **changes):
    base = training.Experiment(
        data=texts_of(folder),
        views=augment.texts(),
        method=methods.SimCSE(ENCODER),
        optimizer=training.SGD(learning_rate=0.1),  # whose steps follow rounding smoothly
        train=training.Train(batch_size=16, epochs=2),
        run=training.Run(devices=1, log_every=1, checkpoint_every=5),
    )
    return dataclasses.replace(base, **changes)


def captioned(folder, part):
    path = str(folder / "pictures.npz")
    texts = data.Texts(path, str(folder), ("caption",), max_length=24, empty="keep")
    return data.Split(data.Paired((data.Arrays(path, label="kind"), texts)), part)


def picture_experiment(folder, **changes):
    base = text_experiment(
        folder,
        data=captioned(folder, "train"),
        views=augment.Views(
            (augment.RandomResizedCrop(4), augment.OneOf()), fields=("image", "caption")
        ),
        method=methods.clip(encoders.MLP((8,)), ENCODER, dim=4),
    )
    return dataclasses.replace(base, **changes)


def rows_of(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def queue_experiment(folder, **changes):
    """MoCo over texts: two views that lack words, and keys of past batches."""
    base = text_experiment(
        folder,
        views=augment.texts(delete=0.2),
        method=methods.MoCo(ENCODER, encoders.MLP((8,)), queue_size=32, momentum=0.9),
    )
    return dataclasses.replace(base, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("make", [text_experiment, picture_experiment, queue_experiment])
def test_two_devices_and_a_stop_change_nothing(folder, tmp_path, monkeypatch, make):
    experiment = make(folder)
    training.train(experiment, tmp_path / "one")
    two = dataclasses.replace(experiment, run=dataclasses.replace(experiment.run, devices=2))
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert training.train(two, tmp_path / "two").step == 3
    assert training.train(two, tmp_path / "two").finished
    for one, other in zip(rows_of(tmp_path / "one"), rows_of(tmp_path / "two"), strict=True):
        np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-4)


@pytest.mark.slow
def test_a_program_is_compiled_for_each_of_few_lengths(folder):
    """Batches have four lengths at most, whatever their texts'."""
    run = training.Run(devices=1, mapping="shard_map")
    experiment = text_experiment(folder, train=training.Train(batch_size=4, epochs=6), run=run)
    setup = training.set_up(experiment)
    lengths, compiled = [], []
    state = setup.start()
    batches = data.Batches(setup.source, batch_size=4, seed=0, steps=120)
    for batch in batches:
        batch = {name: value for name, value in batch.items() if name != "replaced"}
        lengths.append(batch["text"].shape[1])
        state, _ = setup.advance(state, setup.devices.split(batch))
        compiled.append(setup.step._cache_size())
    assert {*lengths} == {8, 12, 16, 24} & {*lengths}
    assert len({*lengths}) >= 2
    assert compiled[-1] == len({*lengths})


@pytest.mark.slow
def test_tasks_are_measured_beside_simple_anchors(folder, tmp_path):
    pairs = data.Texts(str(folder / "pairs.tsv"), str(folder), ("first", "second"), max_length=24)
    experiment = text_experiment(
        folder,
        tasks=(
            tasks.Retrieval("neighbours", pairs, "first", "second"),
            tasks.Similarity("scores", pairs, "score"),
        ),
    )
    training.train(experiment, tmp_path / "run")
    said = evaluate_run(tmp_path / "run")
    assert "| first to second, R@1" in said
    found = json.loads((tmp_path / "run" / "tasks.json").read_text())["tasks"]
    names = ["counted tokens (TF-IDF)", "untrained encoder", "trained encoder"]
    assert [*found["neighbours"]] == [*found["scores"]] == names
    assert found["neighbours"]["trained encoder"] != found["neighbours"]["untrained encoder"]


@pytest.mark.slow
def test_features_of_texts_are_those_of_each_by_itself(folder, tmp_path):
    """Of any length, the same twice, and none at all; several a record."""
    experiment = picture_experiment(folder)
    setup = training.set_up(experiment)
    state = setup.fetch(setup.start())
    state = dataclasses.replace(state, params=jax.tree.map(lambda x: x + 0.1, state.params))
    run = training.RestoredRun(tmp_path, experiment, setup.facts.shapes, 0, state, ())
    source = captioned(folder, "test").open()
    found = encoded_fields(run, state, batch_size=8)(source, "caption")
    assert found.shape == (len(source), 2, 4)
    for record in range(len(source)):
        for place, tokens in enumerate(source[record]["caption"]):
            expected = 0
            if tokens[0] >= 0:
                expected = experiment.method.embed(
                    state.params, state.method, tokens[None], tower="text", project=True
                )[0]
            np.testing.assert_allclose(found[record, place], expected, atol=1e-6)
    assert not found[:, 1].any(1).all()  # some are missing


@pytest.mark.slow
def test_two_pictures_of_one_thing_are_views(tmp_path):
    random = np.random.default_rng(0)
    base = random.integers(0, 200, (64, 6, 6, 3))
    pictures = {name: base + random.integers(0, 50, base.shape) for name in ("first", "second")}
    path = str(tmp_path / "pairs.npz")
    np.savez(
        path, kind=np.arange(64) % 4, **{name: p.astype(np.uint8) for name, p in pictures.items()}
    )
    parts = tuple(data.Arrays(path, image=name) for name in pictures)
    crop = augment.RandomResizedCrop(4)
    experiment = training.Experiment(
        data=data.Paired(parts, fields=("first", "second")),
        views=augment.Views((crop, crop), fields=("first", "second")),
        method=methods.SimCLR(encoders.MLP((8,))),
        train=training.Train(batch_size=16, epochs=1),
        run=training.Run(devices=1),
        evaluate=training.Evaluate(
            train=data.Arrays(path, image="first", label="kind"),
            test=data.Arrays(path, image="second", label="kind"),
            labels_per_class=(1,),
            neighbours=3,
            paired=True,
        ),
        tasks=(
            tasks.Retrieval("pairs", data.Paired(parts, ("first", "second")), "first", "second"),
        ),
    )
    training.train(experiment, tmp_path / "run")
    said = evaluate_run(tmp_path / "run")
    assert "R@1" in said
    assert "first to second, R@1" in said


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda pairs: tasks.Similarity("s", pairs, "first"), "'first' of .* holds no numbers"),
        (lambda pairs: tasks.Similarity("s", pairs, "points"), "has no column 'points'"),
        (
            lambda pairs: tasks.Similarity(
                "s", dataclasses.replace(pairs, columns=("first",)), "score"
            ),
            "expected two columns of texts, got first",
        ),
        (lambda pairs: tasks.Retrieval("s", pairs, "first", "third"), "have no field 'third'"),
        (
            lambda pairs: tasks.Retrieval(
                "s", dataclasses.replace(pairs, max_length=128), "first", "second"
            ),
            "texts of 'first' have up to 25 tokens, and the encoder takes 24",
        ),
        (
            lambda pairs: tasks.ZeroShot("s", pairs, "first", pairs.tokenizer, "first"),
            "the source has no labels with names",
        ),
        (
            lambda pairs: tasks.ZeroShot(
                "s",
                dataclasses.replace(pairs, label="score"),
                "first",
                pairs.tokenizer,
                "first",
                ("a",),
            ),
            "needs {} where the class's name stands",
        ),
        (
            lambda pairs: tasks.Retrieval(
                "s", dataclasses.replace(pairs, path="none.tsv"), "first", "second"
            ),
            "none.tsv is not a file",
        ),
    ],
)
def test_tasks_that_cannot_be_measured_are_told_before_training(folder, make, words):
    pairs = data.Texts(str(folder / "pairs.tsv"), str(folder), ("first", "second"), max_length=24)
    with pytest.raises((UserError, FileNotFoundError), match=words):
        training.set_up(text_experiment(folder, tasks=(make(pairs),)))


@pytest.mark.slow
def test_columns_of_several_lengths_are_measured_too(folder, tmp_path):
    lines = [f"a {colour} bird\ta {colour} kite and a {colour} bird" for colour in COLOURS * 4]
    (tmp_path / "pairs.tsv").write_text("\n".join(["short\tlong", *lines]) + "\n")
    pairs = data.Texts(str(tmp_path / "pairs.tsv"), str(folder), ("short", "long"), max_length=24)
    experiment = text_experiment(
        folder,
        data=pairs,
        views=augment.Views((augment.Unchanged(),) * 2, fields=("short", "long")),
        train=training.Train(batch_size=4, epochs=1, apart=True),
        tasks=(tasks.Retrieval("pairs", pairs, "short", "long"),),
    )
    training.train(experiment, tmp_path / "run")
    assert "counted tokens" in evaluate_run(tmp_path / "run")


@pytest.mark.slow
def test_members_of_a_population_have_texts_of_their_own(folder, tmp_path):
    method = methods.SimCSE(ENCODER.clone(attention_dropout=0.0))  # its draws hang on the length
    train = training.Train(batch_size=4, epochs=0.3)
    experiment = text_experiment(folder, method=method, train=train)
    population = training.Population(experiment, "train.seed", (0, 1))
    training.train_population(population, tmp_path / "runs")
    alone = dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, seed=1))
    training.train(alone, tmp_path / "alone")
    member = rows_of(tmp_path / "runs" / "1")
    for one, other in zip(member, rows_of(tmp_path / "alone"), strict=True):
        np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-5)


@pytest.mark.slow
def test_pictures_and_captions_are_measured_in_their_space(folder, tmp_path):
    held = captioned(folder, "test")
    experiment = picture_experiment(
        folder,
        evaluate=training.Evaluate(test=held, labels_per_class=(1,), neighbours=3),
        tasks=(
            tasks.Retrieval("captions", held, "image", "caption"),
            tasks.ZeroShot("colours", held, "image", str(folder), "caption", ("a {} bird", "a {}")),
        ),
    )
    training.train(experiment, tmp_path / "run")
    said = evaluate_run(tmp_path / "run")
    assert "kNN" in said
    found = json.loads((tmp_path / "run" / "tasks.json").read_text())["tasks"]
    assert [*found["captions"]] == ["untrained encoder", "trained encoder"]
    figures = found["captions"]["trained encoder"]
    assert {"image to caption, R@1", "caption to image, MRR", "gap"} <= {*figures}
    assert 0 <= found["colours"]["trained encoder"]["accuracy"] <= 1
    assert "top 5" in found["colours"]["trained encoder"]


def save_start(folder, **changes):
    encoder = ENCODER.clone(**changes)
    tokens = np.zeros((1, 4), np.int32)
    params = jax.jit(encoder.init)(jax.random.key(7), tokens)["params"]
    pretrained.save_text(folder, encoder, params)
    return params


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "network"),
    [
        (methods.SimCSE(ENCODER), "encoder"),
        (methods.MoCo(ENCODER, queue_size=32, shuffle=False), "encoder"),
        (methods.clip(ENCODER, ENCODER, dim=4), "text_encoder"),
        (methods.lit(ENCODER, ENCODER, dim=8), "image_encoder"),
        (methods.SimCSE(ENCODER, guide=ENCODER), "guide"),
    ],
)
def test_networks_start_from_weights_and_so_do_their_targets(folder, tmp_path, method, network):
    params = save_start(tmp_path)
    start = (pretrained.HuggingFaceText(str(tmp_path), network=network),)
    setup = training.set_up(text_experiment(folder, method=method, start=start))
    state = name_leaves(setup.fetch(setup.start()))
    places = [
        place for place in state if f"/{network}/" in f"/{place}" and not place.startswith("opt")
    ]
    wanted = name_leaves(params)
    for place in places:
        name = place.split(f"{network}/")[1]
        np.testing.assert_array_equal(state[place], wanted[name], err_msg=place)
    of_target = 2 if isinstance(method, methods.MoCo) else 1
    assert len(places) == of_target * len(wanted)


@pytest.mark.slow
def test_what_keeps_random_weights_is_said(folder, tmp_path):
    save_start(tmp_path)
    start = (pretrained.HuggingFaceText(str(tmp_path), network="guide"),)
    experiment = text_experiment(folder, method=methods.SimCSE(ENCODER, guide=ENCODER))
    assert any("guide keeps the weights" in said for said in training.set_up(experiment).notices)
    experiment = dataclasses.replace(experiment, start=start)
    assert not any("keeps" in said for said in training.set_up(experiment).notices)


@pytest.mark.slow
def test_a_start_that_does_not_fit_is_refused(folder, tmp_path):
    save_start(tmp_path, width=16)

    def start(**changes):
        weights = (pretrained.HuggingFaceText(str(tmp_path), **changes),)
        return training.set_up(text_experiment(folder, start=weights)).start()

    with pytest.raises(UserError, match=r"start of encoder: the network's width is 8 and .* 16"):
        start()
    save_start(tmp_path, heads=4)  # of the same shapes
    with pytest.raises(UserError, match=r"the network's heads is 2 and .* 4: make it by"):
        start()
    with pytest.raises(UserError, match="'text', expected one of the method's: encoder"):
        start(network="text")


@pytest.mark.slow
def test_a_package_that_is_not_installed_is_told_before_training(folder, tmp_path, monkeypatch):
    save_start(tmp_path)
    start = (pretrained.HuggingFaceText(str(tmp_path)),)
    setup = training.set_up(text_experiment(folder, start=start))
    for name in ("tokenizers", "safetensors"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r'tokenizers is not .*: pip install "jaxcl\[text\]"'):
        training.set_up(text_experiment(folder))
    with pytest.raises(UserError, match=r"start of encoder: safetensors is not installed"):
        setup.start()


def test_data_and_model_that_disagree_are_told_before_training(folder):
    small = methods.SimCSE(ENCODER.clone(vocabulary=50))
    with pytest.raises(UserError, match=r"tokenizer has \d+ tokens and method.encoder knows 50"):
        training.set_up(text_experiment(folder, method=small))
    guided = methods.SimCSE(ENCODER, guide=ENCODER.clone(vocabulary=50))
    with pytest.raises(UserError, match=r"tokenizer has \d+ tokens and method.guide knows 50"):
        training.set_up(text_experiment(folder, method=guided))
    long = methods.SimCSE(ENCODER.clone(max_length=8))
    with pytest.raises(UserError, match=r"longer than TextTransformer.max_length 8"):
        training.set_up(text_experiment(folder, method=long))
    with pytest.raises(UserError, match="a view is of the field 'image'; examples have text"):
        training.set_up(text_experiment(folder, views=augment.crops(8)))


@pytest.mark.slow
def test_texts_without_tokens_are_refused_where_they_would_count(folder, tmp_path):
    (tmp_path / "gaps.txt").write_text("a red bird\n\na blue kite\n\na green hill\n" * 10)
    texts = data.Texts(str(tmp_path / "gaps.txt"), str(folder), max_length=24, empty="keep")
    with pytest.raises(UserError, match=r"20 of 50 records have no text in 'text', and SimCSE"):
        training.set_up(text_experiment(folder, data=texts))
    queues = methods.clip(encoders.MLP((8,)), ENCODER, dim=4, queue_size=32)
    path = str(folder / "pictures.npz")
    gaps = data.Texts(path, str(folder), ("maybe",), max_length=24, empty="keep")
    pictures = data.Arrays(path)
    crop = augment.RandomResizedCrop(4)
    views = augment.Views((crop, augment.Unchanged()), fields=("image", "maybe"))
    experiment = text_experiment(
        folder, data=data.Paired((pictures, gaps)), views=views, method=queues
    )
    with pytest.raises(UserError, match=r"no text in 'maybe', .* or set method.queue_size to 0"):
        training.set_up(experiment)
    plain = dataclasses.replace(queues, queue_size=0)
    training.set_up(dataclasses.replace(experiment, method=plain))
