"""CPC against a slow definition, on any number of devices, and what it knows at each time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl.encoders import Recurrence, SampleConvolutions, wav2vec_front
from jaxcl.methods import CPC, Batch, cached_loss_and_grad

KEY = jax.random.key(0)
N, T = 8, 90
SAMPLES = np.random.default_rng(0).normal(size=(N, T)).astype(np.float32)
BATCH = Batch((SAMPLES,), np.arange(N))
FRONT = SampleConvolutions(6, kernels=(4, 3), strides=(4, 2))


def make(**options):
    return CPC(FRONT, context=Recurrence(5), steps=3, **options)


def log_softmax(logits):
    logits = logits - logits.max()
    return logits - np.log(np.exp(logits).sum())


def slow_loss(contexts, frames, weights, negatives):
    contexts, frames = np.asarray(contexts, np.float64), np.asarray(frames, np.float64)
    examples, times = frames.shape[:2]
    of_steps = []
    for step, weight in enumerate(np.asarray(weights), 1):
        losses = []
        for example in range(examples):
            for time in range(times - step):
                predicted = contexts[example, time] @ weight
                others = [
                    (other, when)
                    for other in range(examples)
                    for when in range(step, times)
                    if (other, when) == (example, time + step)
                    or negatives == "all"
                    or (negatives == "examples" and when == time + step)
                    or (negatives == "times" and other == example)
                ]
                scores = log_softmax(np.array([predicted @ frames[place] for place in others]))
                losses.append(-scores[others.index((example, time + step))])
        of_steps.append(np.mean(losses))
    return np.mean(of_steps)


@pytest.mark.parametrize("negatives", ["all", "examples", "times"])
def test_the_loss_is_the_definitions(negatives):
    method = make(negatives=negatives)
    params, state = jax.jit(method.init)(KEY, BATCH)
    (contexts, frames), _ = jax.jit(method.represent)(params, state, BATCH, key=KEY)
    assert contexts.shape == (N, 10, 5)
    assert frames.shape == (N, 10, 6)
    loss, _ = jax.jit(method.loss)(params, state, BATCH, key=KEY)
    wanted = slow_loss(contexts, frames, params["predict"]["kernel"], negatives)
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("negatives", ["all", "examples", "times"])
@pytest.mark.parametrize("devices", [2, 4, 8])
def test_devices_change_nothing(negatives, devices):
    method = make(negatives=negatives)
    params, state = jax.jit(method.init)(KEY, BATCH)

    def step(batch, axis_name=None):
        loss_and_grad = cached_loss_and_grad(method, micro_batch=None)
        found = loss_and_grad(params, state, batch, key=KEY, progress=0.0, axis_name=axis_name)
        (loss, _), grads = found
        return (loss, grads) if axis_name is None else jax.lax.pmean((loss, grads), axis_name)

    split = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), BATCH)
    found = jax.pmap(lambda batch: step(batch, "d"), axis_name="d")(split)
    wanted = jax.jit(step)(BATCH)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one[0], other, rtol=1e-4, atol=1e-6),
        found,
        wanted,
    )


def test_no_context_knows_what_comes():
    method = make()
    params, state = jax.jit(method.init)(KEY, BATCH)
    embed = jax.jit(method.embed_frames)
    whole = embed(params, state, SAMPLES)
    changed = SAMPLES.copy()
    changed[:, 50:] = 9.0
    # Frame i is of samples 8 i to 8 i + 11.
    known = (50 - FRONT.field) // 8 + 1
    np.testing.assert_array_equal(embed(params, state, changed)[:, :known], whole[:, :known])
    assert np.abs(embed(params, state, changed)[:, known] - whole[:, known]).max() > 1e-3
    np.testing.assert_allclose(method.embed(params, state, SAMPLES), whole.mean(1), atol=1e-6)


@pytest.mark.parametrize("part", [1, 8, 90])
def test_live_sound_has_the_contexts_of_the_whole(part):
    method = make()
    params, state = jax.jit(method.init)(KEY, BATCH)
    embed_next = jax.jit(method.embed_next)
    carry, found = (), []
    for start in range(0, T, part):
        contexts, carry = embed_next(params, state, SAMPLES[:, start : start + part], carry)
        found.append(contexts)
    whole = jax.jit(method.embed_frames)(params, state, SAMPLES)
    np.testing.assert_allclose(np.concatenate(found, axis=1), whole, atol=1e-5)


def test_fronts_have_the_papers_frames():
    assert SampleConvolutions().field == 465  # 29 ms, one every 10 ms
    assert wav2vec_front().field == 400  # 25 ms, one every 20 ms
    assert np.prod(wav2vec_front().strides) == 320
    shape = jax.eval_shape(
        lambda: wav2vec_front(8).init_with_output(KEY, jnp.zeros((2, 16_000)))[0]
    )
    assert shape.shape == (2, 49, 8)


def test_the_first_layer_is_normalized_over_time():
    front = SampleConvolutions(6, (4,), (4,), norm="first", bias=False)
    variables = front.init(KEY, SAMPLES)
    louder = front.apply(variables, 7 * SAMPLES)
    np.testing.assert_allclose(louder, front.apply(variables, SAMPLES), atol=1e-3)


@pytest.mark.parametrize(
    ("make_it", "words"),
    [
        (lambda: make(negatives="none"), "negatives"),
        (lambda: CPC(FRONT, context=Recurrence(5), steps=0), "steps must be at least 1"),
        (lambda: CPC(FRONT, Recurrence(5), context=Recurrence(5)), "takes no projector"),
        (lambda: make().init(KEY, Batch((SAMPLES, SAMPLES))), "CPC takes one view"),
        (
            lambda: CPC(FRONT, context=Recurrence(5), steps=10).init(KEY, BATCH),
            "predicts 10 frames ahead",
        ),
        (lambda: FRONT.init(KEY, SAMPLES[:, :11]), "T at least 12; got shape"),
        (lambda: SampleConvolutions(6, (4,), (2, 2)).init(KEY, SAMPLES), "numbers of layers"),
    ],
)
def test_what_cannot_be_is_said(make_it, words):
    with pytest.raises(ValueError, match=words):
        make_it()
