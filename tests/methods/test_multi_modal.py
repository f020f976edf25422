"""Towers, pairs and missing modalities against slow NumPy versions; devices change nothing."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcl import methods
from jaxcl.encoders import MLP, bert
from jaxcl.methods import Batch, MultiModal, Pair, Tower
from jaxcl.methods.image_text import linear
from jaxcl.methods.texts import text_number

KEY = jax.random.key(0)
N, D = 16, 6
RANDOM = np.random.default_rng(0)
IMAGES = jnp.asarray(RANDOM.normal(size=(N, 9)), jnp.float32)
SOUNDS = jnp.asarray(RANDOM.normal(size=(N, 5)), jnp.float32)
TEXTS = jnp.where(
    np.arange(4) < RANDOM.integers(1, 5, (N, 1)), RANDOM.integers(0, 30, (N, 4)), -1
).astype(jnp.int32)
TEXT = bert(30, width=8, depth=1, heads=2, dropout=0.1)


def three(**changes):
    towers = (
        Tower("image", MLP((12, 8), batch_norm=True), linear(D)),
        Tower("text", TEXT, linear(D)),
        Tower("sound", MLP((7,)), linear(D)),
    )
    return MultiModal(towers, **changes)


def batch_of(*views, **changes):
    return Batch(tuple(views), index=jnp.arange(N), **changes)


ALL = batch_of(IMAGES, TEXTS, SOUNDS)


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def slow_clip(first, second, scale, counts, same):
    """CLIP's loss over the rows that count, those of the same text left out as negatives."""
    similarities = scale * unit(first) @ unit(second).T
    losses = []
    for matrix in (similarities, similarities.T):
        for i in np.flatnonzero(counts):
            others = [j for j in np.flatnonzero(counts) if j == i or not same[i, j]]
            losses.append(np.log(np.exp(matrix[i, others]).sum()) - matrix[i, i])
    return np.mean(losses)


def slow_siglip(first, second, scale, bias, counts, same):
    logits = scale * unit(first) @ unit(second).T + bias
    total = 0.0
    for i in np.flatnonzero(counts):
        for j in np.flatnonzero(counts):
            if i == j or not same[i, j]:
                total += np.log1p(np.exp(-logits[i, j] if i == j else logits[i, j]))
    return total / counts.sum()


def contrast(method, batch, embeddings, params=None, axis_name=None):
    if params is None:
        params, state = method.init(KEY, batch)
    else:
        _, state = jax.eval_shape(method.init, KEY, batch)
    loss, _, metrics = method.objective(
        params, state, tuple(embeddings), batch, progress=0.0, axis_name=axis_name
    )
    return float(loss), metrics


def rows_of(count):
    return [RANDOM.normal(size=(N, D)).astype(np.float32) for _ in range(count)]


def same_texts(tokens):
    tokens = np.asarray(tokens)
    return (tokens[:, None] == tokens).all(2)


def test_clip_is_two_towers_and_its_loss_figure_3():
    method = methods.clip(MLP((8,)), TEXT, dim=D, temperature=0.2)
    assert [tower.name for tower in method.towers] == ["image", "text"]
    image, text = rows_of(2)
    expected = slow_clip(image, text, 5.0, np.ones(N, bool), same_texts(TEXTS))
    loss, metrics = contrast(method, batch_of(IMAGES, TEXTS), (image, text))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["chance_loss"], np.log(N), rtol=1e-6)


@pytest.mark.slow
def test_the_same_text_is_no_negative_of_itself():
    tokens = TEXTS.at[3].set(TEXTS[7]).at[12].set(TEXTS[7])
    method = methods.clip(MLP((8,)), TEXT, dim=D)
    image, text = rows_of(2)
    same = same_texts(tokens)
    assert same.sum() == N + 6
    expected = slow_clip(image, text, 1 / 0.07, np.ones(N, bool), same)
    loss, _ = contrast(method, batch_of(IMAGES, tokens), (image, text))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_numbers_of_texts_hang_on_their_tokens_alone():
    random = np.random.default_rng(3)
    tokens = np.unique(random.integers(0, 30_000, (20_000, 3)), axis=0)
    padded = np.pad(tokens, [(0, 0), (0, 5)], constant_values=-1)
    numbers = np.asarray(text_number(jnp.asarray(tokens)))
    np.testing.assert_array_equal(numbers, text_number(jnp.asarray(padded)))
    assert len({*numbers.tolist()}) == len(tokens)
    turned = text_number(jnp.asarray(tokens[:, ::-1]))
    assert (np.asarray(turned) != numbers).mean() > 0.99


MISSING = {
    "image": np.arange(N) % 3 != 0,
    "text": np.asarray((TEXTS >= 0).any(1)) & (np.arange(N) % 5 != 1),
    "sound": np.arange(N) < 11,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "pairs"),
    [
        ({}, [("image", "text"), ("image", "sound"), ("text", "sound")]),
        ({"anchor": "sound"}, [("sound", "image"), ("sound", "text")]),
        ({"contrast": "siglip"}, [("image", "text"), ("image", "sound"), ("text", "sound")]),
        (
            {"pairs": (Pair("text", "image", weight=0.5), Pair("sound", "text", "siglip", 2.0))},
            [("text", "image"), ("sound", "text")],
        ),
    ],
)
def test_pairs_are_summed_over_the_examples_that_have_both(changes, pairs):
    method = three(**changes)
    assert [(pair.first, pair.second) for pair in method.all_pairs] == pairs
    tokens = jnp.where(jnp.asarray(MISSING["text"])[:, None], TEXTS, -1)
    there = (jnp.asarray(MISSING["image"]), None, jnp.asarray(MISSING["sound"]))
    batch = batch_of(IMAGES, tokens, SOUNDS, there=there)
    found = dict(zip(("image", "text", "sound"), rows_of(3), strict=True))
    expected = 0.0
    for pair in method.all_pairs:
        counts = MISSING[pair.first] & MISSING[pair.second]
        same = same_texts(tokens) if "text" in (pair.first, pair.second) else np.eye(N, dtype=bool)
        two = found[pair.first], found[pair.second]
        if pair.contrast == "siglip":
            expected += pair.weight * slow_siglip(*two, 10.0, -10.0, counts, same)
        else:
            expected += pair.weight * slow_clip(*two, 1 / 0.07, counts, same)
    loss, metrics = contrast(method, batch, found.values())
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert {f"{first}_{second}_accuracy" for first, second in pairs} <= set(metrics)
    assert ("chance_loss" in metrics) is all(pair.contrast == "clip" for pair in method.all_pairs)


@pytest.mark.slow
def test_what_is_missing_reaches_no_gradient():
    method = three()
    there = (jnp.asarray(MISSING["image"]), None, None)
    params, state = method.init(KEY, ALL)

    def gradient(images):
        batch = batch_of(images, TEXTS, SOUNDS, there=there)
        embeddings = [images @ jnp.ones((9, D)), *map(jnp.asarray, rows)]
        return jax.grad(lambda rows: method.objective(params, state, rows, batch, progress=0.0)[0])(
            tuple(embeddings)
        )

    rows = rows_of(2)
    plain = gradient(IMAGES)
    bad = gradient(jnp.where(there[0][:, None], IMAGES, jnp.nan))
    chex.assert_trees_all_close(bad, plain, rtol=1e-6)
    np.testing.assert_array_equal(plain[0][~MISSING["image"]], 0)


@pytest.mark.slow
@pytest.mark.parametrize("contrast_", ["clip", "siglip"])
def test_a_rare_modality_weighs_the_same_on_any_devices(contrast_):
    rare = jnp.arange(N) % 9 == 4  # two of sixteen
    method = methods.clip(MLP((8,)), MLP((8,)), dim=D, contrast=contrast_)
    batch = batch_of(IMAGES, SOUNDS, there=(None, rare))
    losses = [run(method, batch, devices, steps=1)[0][0] for devices in (1, 2, 8)]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)


@pytest.mark.slow
def test_whatever_fills_a_missing_view_changes_nothing():
    method = methods.clip(MLP((8,)), MLP((8,)), dim=D)
    there = jnp.arange(N) % 3 > 0

    def gradient(filler):
        sounds = jnp.where(there[:, None], SOUNDS, filler)
        batch = batch_of(IMAGES, sounds, there=(None, there))
        params, state = method.init(KEY, batch_of(IMAGES, SOUNDS))
        return jax.grad(lambda params: method.loss(params, state, batch, key=KEY)[0])(params)

    plain = gradient(0.0)
    assert float(optax.tree.norm(plain["text_encoder"])) > 1e-3
    for filler in (100.0, jnp.nan):
        chex.assert_trees_all_close(gradient(filler), plain, rtol=1e-6)


def run(method, batch, devices, steps=2):
    """Steps of plain SGD on so many devices; the losses and all that is left."""
    params, state = jax.jit(method.init)(KEY, batch)

    def step(params, state, batch, key):
        (loss, (state, metrics)), grads = jax.value_and_grad(method.loss, has_aux=True)(
            params, state, batch, key=key, axis_name="d"
        )
        loss, grads, metrics = jax.lax.pmean((loss, grads, metrics), "d")
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        return params, method.end_step(params, state, progress=0.5), loss, metrics

    mapped = jax.jit(jax.vmap(step, in_axes=(None, None, 0, None), out_axes=0, axis_name="d"))
    losses = []
    for number in range(steps):
        split = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
        everywhere = mapped(params, state, split, jax.random.key(number))
        params, state, loss, metrics = jax.tree.map(lambda x: x[0], everywhere)
        losses.append(float(loss))
    return losses, params, state, metrics


CASES = {
    "three": three(),
    "siglip": three(contrast="siglip"),
    "anchor": three(anchor="text"),
    "queues": three(queue_size=40, momentum=0.9),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_devices_change_nothing(name):
    there = None if name == "queues" else (jnp.asarray(MISSING["image"]), None, None)
    batch = dataclasses.replace(ALL, there=there)
    first = run(CASES[name], batch, devices=1)
    for devices in (2, 8):
        found = run(CASES[name], batch, devices=devices)
        chex.assert_trees_all_close(found[:3], first[:3], rtol=1e-4, atol=1e-5)
        for metric in ("embedding_std", "image_text_loss" if name != "anchor" else "loss"):
            if metric in first[3]:
                np.testing.assert_allclose(found[3][metric], first[3][metric], rtol=1e-4)


@pytest.mark.slow
def test_a_frozen_tower_keeps_its_weights_and_the_optimizer_does_not_hold_them():
    method = methods.lit(MLP((12, D), batch_norm=True), TEXT, dim=D)
    batch = batch_of(IMAGES, TEXTS)
    params, state = method.init(KEY, batch)
    assert set(params) == {"text_encoder", "text_projector", "scales"}
    assert set(state.frozen) == {"image_encoder"}
    assert not [
        leaf for leaf in jax.tree.leaves(optax.adam(1.0).init(params)) if leaf.shape == (9, 12)
    ]
    _, after, state_after, _ = run(method, batch, devices=1)
    chex.assert_trees_all_equal(state_after.frozen, state.frozen)
    chex.assert_trees_all_equal(
        state_after.batch_stats["image_encoder"], state.batch_stats["image_encoder"]
    )
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), after, params)
    assert min(jax.tree.leaves(moved["text_projector"])) > 1e-5
    features = method.embed(params, state, IMAGES)
    expected, _ = method.represent(params, state, batch, key=KEY)
    np.testing.assert_allclose(expected[0], features, rtol=1e-6)  # as in evaluation


@pytest.mark.slow
def test_towers_may_share_networks():
    towers = (
        Tower("question", TEXT, linear(D)),
        Tower("passage", encoder_of="question", projector_of="question"),
    )
    method = MultiModal(towers)
    batch = batch_of(TEXTS, TEXTS)
    params, state = method.init(KEY, batch)
    assert set(params) == {"question_encoder", "question_projector", "scales"}
    rows = [
        method.embed(params, state, TEXTS, tower=name, project=True)
        for name in ("question", "passage")
    ]
    np.testing.assert_array_equal(*rows)
    np.testing.assert_allclose(np.linalg.norm(rows[0], axis=1), 1, rtol=1e-5)
    assert method.embed(params, state, TEXTS).shape == (N, 8)  # features


@pytest.mark.slow
def test_queues_hold_past_keys_and_are_negatives():
    method = methods.clip(MLP((8,)), TEXT, dim=D, queue_size=24, momentum=0.5, temperature=0.2)
    batch = batch_of(IMAGES, TEXTS)
    params, state = method.init(KEY, batch)
    embeddings = rows_of(4)
    embeddings[2:] = [unit(rows).astype(np.float32) for rows in embeddings[2:]]
    loss, after, metrics = method.objective(params, state, tuple(embeddings), batch, progress=0.0)
    image, text, image_keys, text_keys = map(unit, embeddings)
    others = same_texts(TEXTS) & ~np.eye(N, dtype=bool)

    def expected(state, past_same):
        losses = []
        for queries, keys, name in ((image, text_keys, "text"), (text, image_keys, "image")):
            past = np.asarray(state.memory.queues[name].embeddings)
            similarities = 5.0 * queries @ np.concatenate([keys, past]).T
            similarities[np.concatenate([others, past_same], axis=1)] = -np.inf
            losses.append(np.log(np.exp(similarities).sum(1)) - np.diag(similarities))
        return np.mean(losses)

    np.testing.assert_allclose(loss, expected(state, np.zeros((N, 24), bool)), rtol=1e-5)
    # In the next step the same texts are in the queue, and none is a negative of its like.
    again, *_ = method.objective(params, after, tuple(embeddings), batch, progress=0.0)
    past_same = np.pad(same_texts(TEXTS), [(0, 0), (0, 24 - N)])
    assert not np.isclose(again, expected(after, np.zeros((N, 24), bool)), rtol=1e-4)
    np.testing.assert_allclose(again, expected(after, past_same), rtol=1e-5)
    np.testing.assert_allclose(metrics["chance_loss"], np.log(N + 24), rtol=1e-6)
    np.testing.assert_allclose(after.memory.queues["image"].embeddings[:N], image_keys, atol=1e-6)
    moved = method.end_step(jax.tree.map(lambda x: x + 1, params), state, progress=0.0)
    for ours, theirs in zip(
        jax.tree.leaves(moved.memory.params), jax.tree.leaves(state.memory.params), strict=True
    ):
        np.testing.assert_allclose(ours, theirs + 0.5, rtol=1e-6, atol=1e-6)


BI_ENCODER = MultiModal(
    (
        Tower("question", TEXT, linear(D)),
        Tower("passage", encoder_of="question", projector_of="question"),
    )
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "batch"),
    [
        (BI_ENCODER, batch_of(TEXTS, TEXTS[:, ::-1])),
        (methods.siglip(MLP((8,)), TEXT, dim=D), batch_of(IMAGES, TEXTS)),
        (methods.clip(MLP((8,)), TEXT, dim=D, queue_size=24), batch_of(IMAGES, TEXTS)),
        (
            methods.clip(MLP((12, 8), batch_norm=True, batch_norm_groups=4), TEXT, dim=D),
            batch_of(IMAGES, TEXTS),
        ),
    ],
    ids=["bi-encoder", "siglip", "queues", "groups"],
)
def test_cached_gradients_are_those_of_the_whole_batch(method, batch):
    """Dropout and all: each micro-batch draws what its examples draw."""
    params, state = method.init(KEY, batch)
    whole = jax.value_and_grad(method.loss, has_aux=True)
    (loss, _), gradient = jax.jit(whole)(params, state, batch, key=KEY)
    cached = methods.cached_loss_and_grad(method, micro_batch=4)
    (cached_loss, _), cached_gradient = jax.jit(
        lambda params: cached(params, state, batch, key=KEY, progress=0.0)
    )(params)
    np.testing.assert_allclose(cached_loss, loss, rtol=1e-5)
    chex.assert_trees_all_close(cached_gradient, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MultiModal((Tower("a", TEXT),)), "takes two towers or more"),
        (lambda: MultiModal((Tower("a", TEXT), Tower("a", TEXT))), "with a name of its own"),
        (lambda: MultiModal((Tower("a", TEXT), Tower("b"))), "b needs either encoder or"),
        (
            lambda: MultiModal((Tower("a", TEXT), Tower("b", encoder_of="c"))),
            "there is no tower 'c', the towers are a, b",
        ),
        (
            lambda: MultiModal((Tower("a", TEXT), Tower("b", TEXT, projector_of="a"))),
            "shares the projector of a, which has none",
        ),
        (lambda: three(anchor="touch"), "there is no tower 'touch'"),
        (lambda: three(pairs=(Pair("text", "text"),)), "text_text needs two modalities"),
        (lambda: three(pairs=(Pair("image", "text", weight=0.0),)), "a positive weight"),
        (
            lambda: three(pairs=(Pair("image", "text"), Pair("image", "text", "siglip"))),
            "two pairs have one name: image_text, image_text",
        ),
        (
            lambda: MultiModal((Tower("a", TEXT), Tower("b", encoder_of="a", frozen="all"))),
            "tower b shares its encoder, which is frozen where it is given: set frozen of a",
        ),
        (
            lambda: three(queue_size=20).represent(
                {},
                None,
                batch_of(IMAGES, TEXTS, SOUNDS, there=(None, None, SOUNDS[:, 0] > 0)),
                key=KEY,
            ),
            "with queues every example has to have every modality",
        ),
        (lambda: three(contrast="sigmoid"), "contrast is 'sigmoid', expected 'clip' or 'siglip'"),
        (lambda: three(contrast="siglip", queue_size=8), "queues go with contrast 'clip' only"),
        (
            lambda: three().init(KEY, batch_of(IMAGES, TEXTS)),
            "towers image, text, sound, one for each view .* has 2 views",
        ),
        (
            lambda: MultiModal((Tower("a", MLP((4,))), Tower("b", MLP((5,))))).init(
                KEY, batch_of(IMAGES, IMAGES)
            ),
            "differ in width: give the towers projectors of one width",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
