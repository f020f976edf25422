"""Encoders of sound: samples and their spectrograms are one input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import augment, encoders

KEY = jax.random.key(0)
FRONT = augment.LogMel(mels=16, mean=-30.0, std=20.0)
SAMPLES = np.random.default_rng(0).integers(-9_000, 9_000, (3, 1_600)).astype(np.int16)


@pytest.mark.slow
def test_samples_pass_the_front_and_spectrograms_do_not():
    inner = encoders.SmallCNN((4, 8))
    encoder = encoders.OnSpectrogram(inner, FRONT)
    variables = encoder.init(KEY, SAMPLES)
    found = encoder.apply(variables, SAMPLES)
    assert found.shape == (3, 8)
    images = FRONT.of(SAMPLES)[..., None]
    np.testing.assert_allclose(encoder.apply(variables, images), found, atol=1e-5)
    floats = SAMPLES.astype(np.float32) / 32768
    np.testing.assert_allclose(encoder.apply(variables, floats), found, atol=1e-5)
    own = {name: tree["encoder"] for name, tree in variables.items()}
    np.testing.assert_allclose(inner.apply(own, images), found, atol=1e-5)


@pytest.mark.slow
def test_training_updates_the_encoders_statistics():
    encoder = encoders.OnSpectrogram(encoders.SmallCNN((4,), batch_norm_groups=1), FRONT)
    variables = encoder.init(KEY, SAMPLES)
    assert encoder.batch_norm_groups == 1
    _, updated = encoder.apply(variables, SAMPLES, train=True, mutable=["batch_stats"])
    before, after = (
        jax.tree.leaves(tree["batch_stats"]["encoder"]) for tree in (variables, updated)
    )
    assert any(np.abs(one - other).max() > 1e-3 for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("shape", [(3,), (3, 10, 16), (3, 10, 16, 1, 1)])
def test_another_rank_is_said(shape):
    with pytest.raises(ValueError, match=r"samples \[N, T\] or spectrograms"):
        encoders.OnSpectrogram(encoders.MLP((4,)), FRONT).init(KEY, jnp.ones(shape))


@pytest.mark.slow
def test_the_tanh_head_is_its_definition():
    head = encoders.TanhProjector(5)
    inputs = jax.random.normal(KEY, (4, 7))
    variables = head.init(KEY, inputs)
    params = variables["params"]
    rows = np.asarray(inputs, np.float64) @ params["dense"]["kernel"] + params["dense"]["bias"]
    rows -= rows.mean(1, keepdims=True)
    rows /= np.sqrt(np.mean(rows**2, axis=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(head.apply(variables, inputs), np.tanh(rows), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "inner",
    [
        encoders.ResNet(18, stem="cifar", width=4, in_channels=1),
        encoders.ViT(patch=4, image_size=16, in_channels=1, width=16, depth=1, heads=2),
    ],
    ids=["resnet", "vit"],
)
def test_encoders_of_images_take_spectrograms(inner):
    """Not square, of one channel: as they are, samples or images."""
    front = augment.LogMel(mels=16, hop=100, mean=-30.0, std=20.0)
    encoder = encoders.OnSpectrogram(inner, front)
    samples = SAMPLES[:, :1_100]  # 12 frames of 16 bands
    found, variables = jax.jit(encoder.init_with_output)(KEY, samples)
    images = front.of(samples)[..., None]
    np.testing.assert_allclose(encoder.apply(variables, images), found, atol=1e-4)
    other = encoder.apply(variables, samples[::-1])
    np.testing.assert_allclose(other, found[::-1], atol=1e-4)


@pytest.mark.slow
def test_a_speaker_is_told_by_frames():
    encoder = encoders.LSTMSpeaker(width=8, depth=2, output_relu=False)
    with pytest.raises(ValueError, match=r"takes frames \[N, F, C\]; got shape \(2, 5\)"):
        jax.eval_shape(encoder.init, jax.random.key(0), np.ones((2, 5)))
    frames = np.random.default_rng(0).normal(size=(3, 6, 5)).astype(np.float32)
    variables = encoder.init(jax.random.key(0), frames)
    gradient = jax.grad(lambda v: jnp.square(encoder.apply(v, frames)).sum())(variables)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    # What came first counts: a recurrence, and no mean.
    moved = encoder.apply(variables, frames[:, ::-1])
    assert np.abs(moved - encoder.apply(variables, frames)).max() > 1e-4
