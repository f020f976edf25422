"""Encoders of series and video: what they see, definitions in NumPy, and streams part by part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import encoders

KEY = jax.random.key(0)
SERIES = np.random.default_rng(0).normal(size=(3, 40, 2)).astype(np.float32)
SAMPLES = np.random.default_rng(1).normal(scale=0.1, size=(2, 900)).astype(np.float32)


def gelu(x):
    return np.asarray(jax.nn.gelu(x), np.float64)


def slow_convolution(x, kernel, bias, dilation, causal):
    """[T, C] to [T, D], by the sum over taps."""
    taps, times = len(kernel), len(x)
    out = np.tile(np.asarray(bias, np.float64), (times, 1))
    shift = (taps - 1) * dilation if causal else (taps - 1) * dilation // 2
    for time in range(times):
        for tap in range(taps):
            place = time + tap * dilation - shift
            if 0 <= place < times:
                out[time] += x[place] @ np.asarray(kernel[tap], np.float64)
    return out


@pytest.mark.parametrize("causal", [True, False])
def test_temporal_convolutions_are_their_definition(causal):
    encoder = encoders.TemporalConvolutions((4, 4, 6), causal=causal, pool="none")
    found, variables = jax.jit(encoder.init_with_output)(KEY, SERIES)
    params = variables["params"]
    for series, rows in zip(SERIES, found, strict=True):
        x = series @ np.asarray(params["start"]["kernel"], np.float64) + params["start"]["bias"]
        for block in range(3):
            y = x
            for layer in range(2):
                conv = params[f"block{block}_conv{layer}"]
                y = slow_convolution(gelu(y), conv["kernel"], conv["bias"], 2**block, causal)
            shortcut = params.get(f"block{block}_shortcut")
            if shortcut is not None:
                x = x @ np.asarray(shortcut["kernel"], np.float64) + shortcut["bias"]
            x = x + y
        np.testing.assert_allclose(rows, x, atol=1e-4)


@pytest.mark.slow
def test_the_field_is_what_an_output_is_of():
    encoder = encoders.TemporalConvolutions((4, 4), pool="none")
    variables = encoder.init(KEY, SERIES)
    assert encoder.field == 13
    reached = jax.grad(lambda x: encoder.apply(variables, x)[0, 30].sum())(SERIES)
    times = np.flatnonzero(np.abs(reached[0]).sum(1))
    assert times.min() == 30 - 13 + 1
    assert times.max() == 30


@pytest.mark.slow
def test_training_hides_times_and_missing_ones_are_hidden_always():
    encoder = encoders.TemporalConvolutions((4,), causal=False, mask_share=0.5, pool="none")
    variables = encoder.init(KEY, SERIES)
    holes = SERIES.copy()
    holes[0, 7] = np.nan
    found = encoder.apply(variables, holes)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[1:], encoder.apply(variables, SERIES)[1:])
    gradients = jax.grad(lambda v: encoder.apply(v, holes).sum())(variables)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    hidden = encoder.apply(variables, SERIES, train=True, rngs={"dropout": KEY})
    assert np.abs(hidden - encoder.apply(variables, SERIES)).max() > 0.01
    # A network with its convolutions at zero hands on what the first layer says, or 0.
    params = dict(variables["params"])
    for name in ("block0_conv0", "block0_conv1"):
        params[name] = jax.tree.map(jnp.zeros_like, params[name])
    shown = encoder.apply({"params": params}, SERIES)
    some = encoder.apply({"params": params}, SERIES, train=True, rngs={"dropout": KEY})
    is_hidden = (some == 0).all(-1)
    assert 0.3 < is_hidden.mean() < 0.7
    np.testing.assert_array_equal(some[~is_hidden], shown[~is_hidden])


@pytest.mark.slow
@pytest.mark.parametrize("parts", [[1] * 40, [5, 1, 20, 14], [40]])
def test_a_causal_network_streams(parts):
    encoder = encoders.TemporalConvolutions((4, 4, 6), pool="none")
    variables = encoder.init(KEY, SERIES)
    step = jax.jit(lambda x, carry: encoder.apply(variables, x, carry=carry))
    carry, found = (), []
    for part in np.split(SERIES, np.cumsum(parts)[:-1], axis=1):
        rows, carry = step(part, carry)
        found.append(rows)
    whole = jax.jit(encoder.apply)(variables, SERIES)
    np.testing.assert_allclose(np.concatenate(found, axis=1), whole, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [[8] * 112 + [4], [1, 2, 300, 7, 590], [900]])
def test_convolutions_and_a_recurrence_stream(parts):
    front = encoders.SampleConvolutions(6, kernels=(5, 4, 3), strides=(4, 2, 1))
    context = encoders.Recurrence(5)
    frames, of_front = front.init_with_output(KEY, SAMPLES)
    whole, of_context = context.init_with_output(KEY, frames)

    @jax.jit
    def step(samples, carry):
        rows, first = front.apply(of_front, samples, carry=carry[0])
        rows, second = context.apply(of_context, rows, carry=carry[1])
        return rows, (first, second)

    carry, found = ((), ()), []
    for part in np.split(SAMPLES, np.cumsum(parts)[:-1], axis=1):
        rows, carry = step(part, carry)
        found.append(rows)
    np.testing.assert_allclose(np.concatenate(found, axis=1), whole, atol=1e-5)


def test_what_sees_all_times_does_not_stream():
    front = encoders.wav2vec_front(4)
    with pytest.raises(ValueError, match="cannot stream"):
        front.init(KEY, SAMPLES, carry=())
    skipping = encoders.SampleConvolutions(4, kernels=(1, 3), strides=(2, 1))
    with pytest.raises(ValueError, match=r"strides \(2, 1\) above kernels"):
        skipping.init(KEY, SAMPLES, carry=())
    encoder = encoders.TemporalConvolutions((4,), causal=False)
    with pytest.raises(ValueError, match="cannot stream unless causal"):
        encoder.init(KEY, SERIES, carry=())


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["mean", "max", "last", "none"])
def test_frames_pass_the_encoder_one_by_one(pool):
    video = np.random.default_rng(2).integers(0, 256, (2, 3, 8, 8, 3)).astype(np.uint8)
    inner = encoders.SmallCNN((4,))
    encoder = encoders.OnFrames(inner, pool)
    found, variables = encoder.init_with_output(KEY, video)
    own = {name: tree["encoder"] for name, tree in variables.items()}
    rows = np.stack([inner.apply(own, video[:, t] / np.float32(255)) for t in range(3)], axis=1)
    wanted = {"mean": rows.mean(1), "max": rows.max(1), "last": rows[:, -1], "none": rows}[pool]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    image = encoder.apply(variables, video[:, 0])
    np.testing.assert_allclose(image, rows[:, :1] if pool == "none" else rows[:, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("encoder", "inputs", "words"),
    [
        (encoders.TemporalConvolutions((4,)), np.ones((3, 4)), r"series \[N, T, C\]"),
        (encoders.TemporalConvolutions((0,)), SERIES, "at least 1"),
        (encoders.TemporalConvolutions((4,), pool="sum"), SERIES, "pool"),
        (encoders.OnFrames(encoders.MLP((4,))), SERIES, r"videos \[N, T, H, W, C\]"),
    ],
)
def test_what_does_not_fit_is_said(encoder, inputs, words):
    with pytest.raises(ValueError, match=words):
        encoder.init(KEY, inputs)


@pytest.mark.slow
def test_the_frame_transformer_hides_frames_and_has_places():
    encoder = encoders.FrameTransformer(
        16, depth=2, heads=2, place_kernel=4, place_groups=2, dropout=0, attention_dropout=0
    )
    frames = np.random.default_rng(3).normal(size=(2, 9, 5)).astype(np.float32)
    variables = encoder.init(KEY, frames)
    hidden = np.zeros((2, 9), bool)
    hidden[0, 3:5] = True
    found = encoder.apply(variables, frames, masked=hidden)
    other = frames.copy()
    other[0, 3:5] = 7.0
    np.testing.assert_array_equal(encoder.apply(variables, other, masked=hidden), found)
    assert np.abs(found - encoder.apply(variables, frames))[0].max() > 0.01
    np.testing.assert_array_equal(found[1], encoder.apply(variables, frames)[1])
    order = np.random.default_rng(4).permutation(9)
    moved = encoder.apply(variables, frames[:, order])
    assert np.abs(moved - encoder.apply(variables, frames)[:, order]).max() > 0.01


@pytest.mark.slow
def test_codes_are_entries_side_by_side():
    quantizer = encoders.ProductQuantizer(groups=2, entries=3, width=4, out=5)
    frames = np.random.default_rng(3).normal(size=(2, 6, 7)).astype(np.float32)
    codes, variables = quantizer.init_with_output(KEY, frames)
    params = variables["params"]
    scores = quantizer.apply(variables, frames, method="scores")
    assert scores.shape == (2, 6, 2, 3)
    best = np.argmax(scores, -1)
    rows = np.concatenate([params["book"][group][best[..., group]] for group in range(2)], axis=-1)
    wanted = rows @ params["project"]["kernel"] + params["project"]["bias"]
    np.testing.assert_allclose(codes, wanted, atol=1e-5)
    with pytest.raises(ValueError, match="do not divide"):
        encoders.ProductQuantizer(groups=3, width=4).init(KEY, frames)
