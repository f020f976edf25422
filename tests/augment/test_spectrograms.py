"""Spectrograms and cepstra against librosa's and torchaudio's (tests/reference/make_sound.py)."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import augment

GOLDEN = Path(__file__).parents[1] / "reference" / "sound.npz"
KEY = jax.random.key(0)
LIBROSA = augment.LogMel.librosa(rate=16_000, size=1024, mels=64)
TORCHAUDIO = augment.LogMel.torchaudio(mels=64)
SHORT_WINDOW = augment.LogMel(mels=40, ends="none", range_db=None)
OF_25_MS = augment.LogMel(mels=40, low=0.0, high=None)
CASES = {
    "librosa/log_mel": LIBROSA,
    "librosa/mfcc": augment.MFCC(LIBROSA, 13),
    "librosa/short_window": SHORT_WINDOW,
    "torchaudio/log_mel": TORCHAUDIO,
    "torchaudio/mfcc": augment.MFCC(OF_25_MS, 13),
}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_librarys(golden, case):
    found = CASES[case](KEY, golden["samples"])
    assert found.shape == (*golden[case].shape, 1)
    np.testing.assert_allclose(found[..., 0], golden[case], rtol=0, atol=1e-3)


def test_samples_of_16_bits_are_the_same_sound(golden):
    samples = np.round(golden["samples"] * 32768).astype(np.int16)
    found = LIBROSA(KEY, samples)
    np.testing.assert_array_equal(found, LIBROSA(KEY, samples.astype(np.float32) / 32768))


def test_clips_go_together_as_each_by_itself(golden):
    clips = np.stack([golden["samples"], golden["samples"][::-1]])
    together = TORCHAUDIO.of(clips)
    for clip, found in zip(clips, together, strict=True):
        np.testing.assert_allclose(found, TORCHAUDIO.of(clip), atol=1e-4)


def test_a_spectrum_is_the_definitions(golden):
    samples = golden["samples"][:200].astype(np.float64)
    found = augment.power_spectrogram(samples, size=64, window=50, hop=30, ends="none")
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(50) / 50)
    window = np.concatenate([np.zeros(7), hann, np.zeros(7)])
    for frame in range(5):
        part = samples[frame * 30 :][:64] * window
        for number in range(33):
            turned = np.exp(-2j * np.pi * number * np.arange(64) / 64)
            np.testing.assert_allclose(
                found[frame, number], abs(np.sum(part * turned)) ** 2, rtol=1e-4, atol=1e-6
            )
    assert len(found) == 5


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["zeros", "reflect", "none"])
def test_frames_are_counted(ends):
    front = dataclasses.replace(OF_25_MS, ends=ends)
    odd = dataclasses.replace(front, size=401)
    for count in (512, 800, 801, 1001):
        assert len(front.of(jnp.ones(count))) == front.frames(count)
        assert len(odd.of(jnp.ones(count))) == odd.frames(count)


def test_samples_of_no_known_range_are_refused():
    with pytest.raises(TypeError, match="samples are int32, expected int16"):
        OF_25_MS.of(np.ones(800, np.int32))


@pytest.mark.slow
def test_gradients_are_those_of_finite_differences():
    random = np.random.default_rng(1)
    samples = random.normal(size=300)
    front = augment.LogMel(size=64, window=64, hop=32, mels=6, high=8_000.0)
    weights = random.normal(size=front.of(samples).shape)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(64) / 64)
    filters = augment.mel_filters(16_000, 64, 6, 60.0, 8_000.0, scale="htk", equal_area=False)

    def slow(samples):
        padded = np.pad(samples, 32, mode="reflect")
        frames = np.stack([padded[start : start + 64] for start in range(0, 301, 32)])
        return np.sum(10 * np.log10(np.abs(np.fft.rfft(frames * hann)) ** 2 @ filters) * weights)

    found = jax.grad(lambda x: jnp.sum(front.of(x) * weights))(samples.astype(np.float32))
    for place in (0, 7, 150, 299):
        step = 1e-5 * (np.arange(300) == place)
        wanted = (slow(samples + step) - slow(samples - step)) / 2e-5
        np.testing.assert_allclose(found[place], wanted, rtol=2e-3)


@pytest.mark.slow
def test_silence_has_finite_gradients():
    gradient = jax.grad(lambda x: OF_25_MS.of(x).sum())(jnp.zeros(800))
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(OF_25_MS.of(jnp.zeros(800)), -100, rtol=1e-6)


def test_levels_are_shifted_and_scaled(golden):
    scaled = dataclasses.replace(TORCHAUDIO, mean=-30.0, std=20.0)
    plain = TORCHAUDIO.of(golden["samples"])
    np.testing.assert_allclose(scaled.of(golden["samples"]), (plain + 30) / 20, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: augment.LogMel(scale="bark"), "scale"),
        (lambda: augment.LogMel(window=600), "window 600, size 512"),
        (lambda: augment.LogMel(rate=8_000), "60 to 7800 Hz: expected a range from 0 to 4000"),
        (lambda: augment.LogMel(low=900.0, high=800.0), "900 to 800 Hz"),
        (lambda: augment.LogMel(std=0.0), "std must be positive"),
        (lambda: augment.LogMel().of(jnp.zeros(256)), "256 samples is too short, expected .* 257"),
        (lambda: SHORT_WINDOW.of(jnp.zeros(511)), "511 samples is too short, expected .* 512"),
        (lambda: augment.MFCC(count=41)(KEY, jnp.zeros(800)), "41 coefficients of 40 bands"),
    ],
)
def test_what_cannot_be_is_said(make, words):
    with pytest.raises(ValueError, match=words):
        make()
