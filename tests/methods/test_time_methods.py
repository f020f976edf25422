"""Methods of time against slow definitions, on any number of devices and in micro-batches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import augment
from jaxcl.encoders import (
    MLP,
    FrameTransformer,
    OnFrames,
    ProductQuantizer,
    Recurrence,
    SampleConvolutions,
    TemporalConvolutions,
)
from jaxcl.losses import ge2e
from jaxcl.methods import (
    CPC,
    CURL,
    GE2E,
    Batch,
    Linear,
    TimeContrastive,
    TS2Vec,
    Wav2Vec2,
    cached_loss_and_grad,
)
from jaxcl.methods.wav2vec2 import straight_through

KEY = jax.random.key(0)
N, T = 8, 9
RANDOM = np.random.default_rng(0)
VIDEO = RANDOM.normal(size=(2, N, T, 6)).astype(np.float32)  # two cameras, frames of six numbers
SERIES = RANDOM.normal(size=(N, 24, 2)).astype(np.float32)
SAMPLES = RANDOM.normal(scale=0.1, size=(N, 260)).astype(np.float32)
NUMBERS = np.arange(N) * 3
ONE = Batch((VIDEO[0],), NUMBERS)
TWO = Batch((*VIDEO,), NUMBERS)
FRONT = SampleConvolutions(6, kernels=(5, 4), strides=(4, 2))
METHODS = {
    "triplet": (TimeContrastive(MLP((4,)), negatives=2), ONE),
    "triplet of two": (TimeContrastive(MLP((4,)), margin=0.5), TWO),
    "n_pairs": (TimeContrastive(MLP((4,)), contrast="n_pairs", negatives=3), ONE),
    "info_nce": (TimeContrastive(MLP((4,)), contrast="info_nce", negatives=3), ONE),
    "n_pairs of two": (TimeContrastive(MLP((4,)), contrast="n_pairs"), TWO),
    "info_nce of two": (TimeContrastive(MLP((4,)), contrast="info_nce"), TWO),
    "order": (TimeContrastive(MLP((4,)), contrast="order"), ONE),
    "ts2vec": (
        TS2Vec(
            TemporalConvolutions((4, 4), causal=False, mask_share=0.5, pool="none"),
            stretch=12,
            overlap=7,
        ),
        Batch((SERIES,), NUMBERS),
    ),
    "wav2vec2": (
        Wav2Vec2(
            FRONT,
            MLP((5,)),
            context=FrameTransformer(8, depth=1, heads=2, place_kernel=4, place_groups=2),
            quantizer=ProductQuantizer(groups=2, entries=3, width=4, out=5),
            mask_share=0.1,
            mask_span=4,
            negatives=3,
            encoder_gradient=0.5,
        ),
        Batch((SAMPLES,), NUMBERS),
    ),
    "cpc": (CPC(FRONT, context=Recurrence(5), steps=2), Batch((SAMPLES,), NUMBERS)),
    "curl": (CURL(MLP((5,)), MLP((4,))), Batch((VIDEO[0, :, 0], VIDEO[1, :, 0]), NUMBERS)),
    "ge2e": (
        GE2E(MLP((5,)), MLP((4,))),
        Batch((VIDEO[0, :, 0], VIDEO[1, :, 0]), NUMBERS, np.array([4, 4, 1, 7, 1, 4, 7, 7])),
    ),
}


def made(name):
    method, batch = METHODS[name]
    params, state = jax.jit(method.init)(KEY, batch)
    return method, batch, params, state


def found(name, method=None):
    own, batch, params, state = made(name)
    method = method or own
    embeddings, _ = jax.jit(method.represent)(params, state, batch, key=KEY)
    loss, (_, metrics) = jax.jit(method.loss)(params, state, batch, key=KEY)
    return [np.asarray(x, np.float64) for x in embeddings], float(loss), metrics


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.slow
def test_times_are_those_that_are_drawn():
    method, batch, params, state = made("triplet")
    (anchors, positives, negatives), _ = method.represent(params, state, batch, key=KEY)
    whole = method.embed(params, state, VIDEO[0].reshape(N * T, -1)).reshape(N, T, -1)
    for number, (example, frames) in enumerate(zip(NUMBERS, whole, strict=True)):
        key = jax.random.fold_in(KEY, example)
        time, near, far = augment.near_and_far(key, T, near=2, far=4, count=2)
        np.testing.assert_allclose(anchors[number], frames[time], atol=1e-6)
        np.testing.assert_allclose(positives[number], frames[near], atol=1e-6)
        np.testing.assert_allclose(negatives[number], frames[far], atol=1e-6)


@pytest.mark.parametrize("name", ["triplet", "triplet of two"])
def test_triplets_are_squared_distances_and_a_margin(name):
    (anchors, positives, negatives), loss, _ = found(name)
    terms = []
    for a, p, all_n in zip(unit(anchors), unit(positives), unit(negatives), strict=True):
        margin = METHODS[name][0].margin
        terms += [max(0, np.sum((a - p) ** 2) - np.sum((a - n) ** 2) + margin) for n in all_n]
    np.testing.assert_allclose(loss, np.mean(terms), rtol=1e-5)


@pytest.mark.slow
def test_two_cameras_are_drawn_at_one_time():
    method, batch, params, state = made("triplet of two")
    (anchors, positives, negatives), _ = method.represent(params, state, batch, key=KEY)
    first, second = (
        method.embed(params, state, view.reshape(N * T, -1)).reshape(N, T, -1) for view in VIDEO
    )
    for number in range(N):
        near = np.abs(first[number] - anchors[number]).sum(1)
        time = int(np.argmin(near))
        assert near[time] < 1e-5
        np.testing.assert_allclose(positives[number], second[number, time], atol=1e-6)
        far = np.abs(first[number] - negatives[number]).sum(1)
        assert far.min() < 1e-5
        assert abs(int(np.argmin(far)) - time) > 4


@pytest.mark.parametrize("name", ["n_pairs", "info_nce"])
def test_far_frames_are_negatives(name):
    (anchors, positives, negatives), loss, _ = found(name)
    if name == "info_nce":
        anchors, positives, negatives = (
            unit(anchors) / np.sqrt(0.1),
            unit(positives) / np.sqrt(0.1),
            unit(negatives) / np.sqrt(0.1),
        )
    terms = [
        np.log(1 + np.exp(n @ a - p @ a).sum())
        for a, p, n in zip(anchors, positives, negatives, strict=True)
    ]
    np.testing.assert_allclose(loss, np.mean(terms), rtol=1e-5)


@pytest.mark.parametrize("name", ["n_pairs of two", "info_nce of two"])
def test_the_other_cameras_other_times_are_negatives(name):
    (first, second), loss, metrics = found(name)
    if name == "info_nce of two":
        first, second = unit(first) / np.sqrt(0.1), unit(second) / np.sqrt(0.1)
    terms = []
    for x, y in [*zip(first, second, strict=True), *zip(second, first, strict=True)]:
        logits = x @ y.T
        terms += [np.log(np.exp(row - row[time]).sum()) for time, row in enumerate(logits)]
    np.testing.assert_allclose(loss, np.mean(terms), rtol=1e-5)
    np.testing.assert_allclose(metrics["chance_loss"], np.log(T), rtol=1e-6)


def test_order_is_equation_1():
    (earlier, later, last), loss, _ = found("order")
    terms = []
    for i in range(N):
        near = np.exp(-np.linalg.norm(earlier[i] - later[i]))
        far = np.exp(-np.linalg.norm(earlier[i] - last[i]))
        others = [np.exp(-np.linalg.norm(earlier[i] - earlier[j])) for j in range(N) if j != i]
        terms.append(-np.log(near / (near + far + sum(others))))
    np.testing.assert_allclose(loss, np.mean(terms), rtol=1e-5)


@pytest.mark.slow
def test_stretches_overlap_where_they_say():
    """Without hidden times both stretches say nearly the same of the times that they share: the
    very same where neither edge is within reach."""
    encoder = TemporalConvolutions((4,), causal=False, pool="none")
    method = TS2Vec(encoder, stretch=12, overlap=7)
    batch = Batch((SERIES,), NUMBERS)
    params, state = method.init(KEY, batch)
    (first, second), _ = method.represent(params, state, batch, key=KEY)
    assert first.shape == (N, 7, 4)
    np.testing.assert_allclose(first[:, 2:-2], second[:, 2:-2], atol=1e-5)
    whole = method.embed_frames(params, state, SERIES)
    for number, example in enumerate(NUMBERS):
        start = int(augment.window_start(jax.random.fold_in(KEY, example), 24, 17))
        np.testing.assert_allclose(
            first[number, 2:-2], whole[number, start + 7 : start + 10], atol=1e-5
        )
    np.testing.assert_allclose(method.embed(params, state, SERIES), whole.max(1), atol=1e-6)


@pytest.mark.slow
def test_wav2vec_is_its_equations():
    (_, cosines, where, usage, square), loss, metrics = found("wav2vec2")
    frames = cosines.shape[1]
    assert cosines.shape == (N, frames, 4)
    hidden = [
        augment.span_mask(
            jax.random.fold_in(jax.random.split(KEY, 3)[0], n), frames, share=0.1, span=4
        )
        for n in NUMBERS
    ]
    np.testing.assert_array_equal(where, np.stack(hidden))
    losses = []
    for example, time in zip(*np.nonzero(where), strict=True):
        logits = cosines[example, time] / 0.1
        losses.append(-logits[0] + np.log(np.exp(logits).sum()))
    likely = usage.sum(0) / where.sum()
    np.testing.assert_allclose(likely.sum(-1), 1, rtol=1e-5)
    perplexity = np.exp(-np.sum(likely * np.log(likely), axis=-1))
    unused = (2 * 3 - perplexity.sum()) / (2 * 3)
    np.testing.assert_allclose(metrics["contrast"], np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(loss, np.mean(losses) + 0.1 * unused + 10 * square.mean(), rtol=1e-5)


@pytest.mark.slow
def test_codes_and_negatives_are_of_hidden_frames():
    """Cosines made again, frame by frame, of what the method says that it draws."""
    method, batch, params, state = made("wav2vec2")
    method = dataclasses.replace(
        method, context=dataclasses.replace(method.context, dropout=0.0, attention_dropout=0.0)
    )
    (_, cosines, where, _, _), _ = method.represent(params, state, batch, key=KEY)
    _, noise_key, negatives_key = jax.random.split(KEY, 3)
    z = method.encoder.apply({"params": params["encoder"]}, SAMPLES)
    contexts = method.context.apply({"params": params["context"]}, z, masked=where > 0)
    of_projector = {"params": params["projector"]}
    rows = [method.projector.apply(of_projector, context) for context in contexts]
    rows = unit(np.stack(rows))
    of_codes = {"params": params["quantizer"]}
    scores = np.asarray(method.quantizer.apply(of_codes, z, method="scores"))
    for example in (0, 5):
        number = NUMBERS[example]
        noise = jax.random.gumbel(jax.random.fold_in(noise_key, number), scores.shape[1:])
        chosen = np.argmax(scores[example] + noise, axis=-1)
        one_hot = jax.nn.one_hot(chosen, 3)[None]
        codes = unit(np.asarray(method.quantizer.apply(of_codes, one_hot, method="codes")))[0]
        others = augment.masked_others(
            jax.random.fold_in(negatives_key, number), where[example] > 0, 3
        )
        for time in np.flatnonzero(where[example]):
            found = cosines[example, time]
            np.testing.assert_allclose(found[0], rows[example, time] @ codes[time], atol=1e-4)
            for place, other in zip(found[1:], others[time], strict=True):
                assert where[example, other]
                same = (chosen[other] == chosen[time]).all()
                wanted = -np.inf if same else rows[example, time] @ codes[other]
                np.testing.assert_allclose(place, wanted, atol=1e-4)


def test_a_choice_passes_the_gradient_of_its_softmax():
    logits = RANDOM.normal(size=(3, 4)).astype(np.float32)
    weights = RANDOM.normal(size=(3, 4)).astype(np.float32)
    hard = straight_through(logits)
    np.testing.assert_allclose(hard, np.eye(4)[np.argmax(logits, -1)], atol=1e-6)
    slope = jax.grad(lambda x: (straight_through(x) * weights).sum())(logits)
    wanted = jax.grad(lambda x: (jax.nn.softmax(x) * weights).sum())(logits)
    np.testing.assert_allclose(slope, wanted, atol=1e-6)


@pytest.mark.slow
def test_the_softmax_of_choices_sharpens_as_training_goes_on():
    method, batch, params, state = made("wav2vec2")
    assert float(state.gumbel_temperature) == 2.0
    assert float(method.end_step(params, state, progress=1.0).gumbel_temperature) == 0.5
    fixed = dataclasses.replace(method, gumbel_temperature=Linear(1.0, 1.0))
    assert float(fixed.init(KEY, batch)[1].gumbel_temperature) == 1.0


@pytest.mark.slow
def test_the_encoder_learns_more_slowly():
    method, batch, params, state = made("wav2vec2")
    slopes = []
    for share in (1.0, 0.1):
        own = dataclasses.replace(method, encoder_gradient=share, smallness=0.0)
        slope = jax.jit(jax.grad(lambda p, own=own: own.loss(p, state, batch, key=KEY)[0]))(params)
        slopes.append(slope)
    np.testing.assert_allclose(
        slopes[1]["encoder"]["conv0"]["kernel"],
        0.1 * slopes[0]["encoder"]["conv0"]["kernel"],
        rtol=1e-3,
        atol=1e-7,
    )
    same = slopes[0]["context"]["mask"]
    np.testing.assert_allclose(slopes[1]["context"]["mask"], same, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_curls_keys_are_the_targets_and_get_no_gradient():
    method, batch, params, state = made("curl")
    assert method.momentum == 0.95
    weights = params["bilinear"]["kernel"]
    assert ((weights >= 0) & (weights <= 1)).all()
    (queries, keys), loss, _ = found("curl")
    logits = queries @ np.asarray(weights, np.float64) @ keys.T
    wanted = np.mean([np.log(np.exp(row - row[i]).sum()) for i, row in enumerate(logits)])
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)

    def loss_of(target):
        moved = dataclasses.replace(state, target_params=target)
        return method.loss(params, moved, batch, key=KEY)[0]

    slopes = jax.grad(loss_of)(state.target_params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(slopes))
    after = method.end_step(jax.tree.map(lambda x: x + 1, params), state, progress=0.0)
    for new, old in zip(
        jax.tree.leaves(after.target_params), jax.tree.leaves(state.target_params), strict=True
    ):
        np.testing.assert_allclose(new, old + 0.05, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("devices", [2, 4, 8])
def test_devices_change_nothing(name, devices):
    method, batch, params, state = made(name)

    def step(batch, axis_name=None):
        loss_and_grad = cached_loss_and_grad(method, micro_batch=None)
        (loss, _), grads = loss_and_grad(
            params, state, batch, key=KEY, progress=0.0, axis_name=axis_name
        )
        return (loss, grads) if axis_name is None else jax.lax.pmean((loss, grads), axis_name)

    split = jax.tree.map(lambda x: jnp.reshape(x, (devices, -1, *x.shape[1:])), batch)
    many = jax.pmap(lambda batch: step(batch, "d"), axis_name="d")(split)
    one = jax.jit(step)(batch)
    close(jax.tree.map(lambda x: x[0], many), one)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_micro_batches_change_nothing(name):
    method, batch, params, state = made(name)
    found, wanted = (
        jax.jit(
            lambda size=size: cached_loss_and_grad(method, micro_batch=size)(
                params, state, batch, key=KEY, progress=0.0
            )
        )()
        for size in (2, None)
    )
    close((found[0][0], found[1]), (wanted[0][0], wanted[1]))


def close(found, wanted):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), found, wanted)


@pytest.mark.parametrize(
    ("make", "batch", "words"),
    [
        (lambda: TimeContrastive(MLP((4,)), near=5, far=4), ONE, "near"),
        (lambda: TimeContrastive(MLP((4,)), far=8), ONE, "longer windows"),
        (lambda: TimeContrastive(MLP((4,)), contrast="order"), TWO, "takes one view"),
        (lambda: TimeContrastive(MLP((4,)), contrast="pairs"), ONE, "contrast"),
        (lambda: TS2Vec(MLP((4,)), stretch=5, overlap=6), ONE, "overlap 6"),
        (lambda: TS2Vec(TemporalConvolutions((4,)), stretch=20, overlap=5), ONE, "35 times"),
        (lambda: TS2Vec(TemporalConvolutions((4,)), stretch=5, overlap=3), ONE, "pool='none'"),
        (lambda: Wav2Vec2(mask_share=0.0), ONE, "mask_share"),
        (lambda: Wav2Vec2(FRONT), TWO, "takes one view"),
        (lambda: Wav2Vec2(gumbel_temperature=0.0), ONE, "gumbel_temperature must be positive"),
        (lambda: Wav2Vec2(gumbel_temperature=Linear(2.0, 0.0)), ONE, "must be positive, got 0.0"),
        (lambda: Wav2Vec2(encoder_gradient=-1.0), ONE, "encoder_gradient is negative"),
        (
            lambda: CPC(FRONT, context=TemporalConvolutions((4,)), steps=2),
            Batch((SAMPLES,), NUMBERS),
            "pool='none'",
        ),
        (
            lambda: CPC(
                FRONT, context=TemporalConvolutions((4,), causal=False, pool="none"), steps=2
            ),
            Batch((SAMPLES,), NUMBERS),
            "may not know what comes",
        ),
        (lambda: GE2E(MLP((4,)), scale=0.0), TWO, "scale"),
    ],
)
def test_what_does_not_fit_is_said(make, batch, words):
    def run():
        method = make()
        params, state = method.init(KEY, batch)
        method.loss(params, state, batch, key=KEY)

    with pytest.raises(ValueError, match=words):
        run()


def test_labels_are_asked_for():
    method = GE2E(MLP((4,)))
    with pytest.raises(ValueError, match="needs labels"):
        method.check_labels(None, batch_size=8)
    with pytest.raises(ValueError, match="one speaker"):
        method.check_labels(np.zeros(9, int), batch_size=8)
    assert method.check_labels(np.arange(9) % 3, batch_size=8) == []
    [notice] = method.check_labels(np.arange(900) % 300, batch_size=8)
    assert "with one view only 2% of the examples meet another of their speaker" in notice


@pytest.mark.slow
def test_who_meets_no_other_of_their_speaker_counts_for_nothing():
    method = GE2E(MLP((5,)), MLP((4,)))
    labels = np.array([4, 4, 1, 7, 2, 4, 9, 8])
    view = VIDEO[0, :, 0]
    params, state = method.init(KEY, Batch((view,), NUMBERS, labels))
    loss, (_, metrics) = method.loss(params, state, Batch((view,), NUMBERS, labels), key=KEY)
    (rows,), _ = method.represent(params, state, Batch((view,), NUMBERS, labels), key=KEY)
    wanted = ge2e(rows, labels, scale=10.0, bias=-5.0)
    np.testing.assert_allclose(loss, wanted[np.array([0, 1, 5])].mean(), rtol=1e-5)
    assert "accuracy" not in metrics


@pytest.mark.slow
def test_a_video_encoder_serves_cpc():
    method = CPC(OnFrames(MLP((4,)), "none"), context=Recurrence(3), steps=2)
    video = VIDEO[0].reshape(N, T, 1, 2, 3)
    params, state = method.init(KEY, Batch((video,), NUMBERS))
    whole = method.embed_frames(params, state, video)
    assert whole.shape == (N, T, 3)
    carry, found = (), []
    for time in range(T):
        contexts, carry = method.embed_next(params, state, video[:, time : time + 1], carry)
        found.append(contexts)
    np.testing.assert_allclose(np.concatenate(found, axis=1), whole, atol=1e-5)
    deaf = CPC(MLP((4,)), context=Recurrence(3))
    with pytest.raises(ValueError, match=r"MLP \(encoder\) takes no carry"):
        deaf.embed_next({"encoder": {}}, state, video)
