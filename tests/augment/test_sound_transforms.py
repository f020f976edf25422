"""Random transforms of samples and spectrograms: by their definitions and distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import augment
from jaxcl.augment import Compose, Views, batch_views

KEY = jax.random.key(0)
MANY = jax.random.split(KEY, 4_000)


def test_windows_begin_everywhere_as_often():
    window = augment.RandomWindow(16)
    drawn = jax.vmap(lambda key: window(key, jnp.arange(20.0)))(MANY)
    np.testing.assert_array_equal(drawn - drawn[:, :1], np.tile(np.arange(16), (4_000, 1)))
    counts = np.bincount(np.asarray(drawn[:, 0], int), minlength=5)
    assert len(counts) == 5
    assert np.all(np.abs(counts - 800) < 4 * np.sqrt(800 * 0.8))


def test_gain_is_even_in_decibels():
    gain = augment.RandomGain(-6.0, 2.0)
    levels = 20 * np.log10(jax.vmap(lambda key: gain(key, jnp.ones(1)))(MANY)[:, 0])
    assert levels.min() >= -6.0001
    assert levels.max() <= 2.0001
    np.testing.assert_allclose(np.quantile(levels, [0.25, 0.5, 0.75]), [-4, -2, 0], atol=0.25)


def test_noise_has_the_ratio_of_powers():
    clip = jnp.sin(jnp.arange(1_000.0))
    for ratio in (0.0, 20.0):
        noise = augment.AddNoise(ratio, ratio)(KEY, clip) - clip
        found = 10 * np.log10(np.mean(clip**2) / np.mean(noise**2))
        np.testing.assert_allclose(found, ratio, atol=0.01)
    np.testing.assert_array_equal(augment.AddNoise()(KEY, jnp.zeros(100)), 0)


def test_a_shift_moves_silence_in():
    shift = augment.TimeShift(0.2)
    clip = jnp.arange(1.0, 21.0)
    seen = set()
    for key in MANY[:200]:
        found = np.asarray(shift(key, clip))
        there = found[found > 0]
        assert np.array_equal(there, there[0] + np.arange(len(there)))
        places = np.flatnonzero(found)
        seen.add(int(places[0] - (there[0] - 1)))
    assert seen == set(range(-4, 5))


@pytest.mark.slow
def test_stretches_are_blanked_by_the_mean():
    image = jax.random.normal(KEY, (30, 12, 1))
    one = augment.SpecAugment(times=1, time_width=6, pitches=1, pitch_width=3)
    heights, widths = [], []
    for key in MANY[:300]:
        found = np.asarray(one(key, image))[..., 0]
        changed = found != np.asarray(image)[..., 0]
        np.testing.assert_allclose(found[changed], image.mean(), rtol=1e-5)
        rows, columns = changed.all(1), changed.all(0)
        np.testing.assert_array_equal(changed, rows[:, None] | columns)
        for mask in (rows, columns):
            assert np.diff(np.flatnonzero(mask)).max(initial=1) == 1
        heights.append(rows.sum())
        widths.append(columns.sum())
    assert set(heights) == set(range(7))  # as often each: widths first, then places
    assert set(widths) == set(range(4))
    assert np.all(np.abs(np.bincount(widths) - 75) < 4 * np.sqrt(75 * 0.75))


def test_mixing_adds_powers():
    powers = np.array([[1.0, 100.0], [10.0, 0.5]])
    levels = 10 * np.log10(powers)
    mixed = augment.mix_spectrograms(levels[0], levels[1], 0.25)
    np.testing.assert_allclose(mixed, 10 * np.log10(0.75 * powers[0] + 0.25 * powers[1]), rtol=1e-5)
    np.testing.assert_allclose(augment.mix_spectrograms(levels[0], levels[1], 0.0), levels[0])


def test_a_background_is_another_time_of_the_same():
    levels = np.random.default_rng(2).uniform(-60, 0, (9, 4, 1)).astype(np.float32)
    scaled = (levels + 30) / 20
    mixed = augment.MixBackground(0.4, mean=-30.0, std=20.0)(KEY, scaled) * 20 - 30
    share_key, place_key = jax.random.split(KEY)
    share = float(jax.random.uniform(share_key, (), maxval=0.4))
    background = np.roll(levels, int(jax.random.randint(place_key, (), 0, 9)), axis=0)
    powers = (1 - share) * 10 ** (levels / 10) + share * 10 ** (background / 10)
    np.testing.assert_allclose(mixed, 10 * np.log10(powers), atol=1e-3)
    unmixed = augment.MixBackground(0.0)(KEY, scaled)
    np.testing.assert_allclose(unmixed, scaled, atol=1e-5)
    with pytest.raises(ValueError, match=r"share is 1\.0"):
        augment.MixBackground(1.0)


@pytest.mark.slow
def test_views_of_16_bit_samples_are_spectrograms():
    view = Compose(
        (augment.RandomWindow(1_600), augment.RandomGain(), augment.LogMel(), augment.SpecAugment())
    )
    views = Views((view, view), fields="sound")
    sounds = np.random.default_rng(0).integers(-9_000, 9_000, (3, 2_000)).astype(np.int16)
    first, second = batch_views(views, KEY, {"sound": sounds}, np.arange(3))
    assert first.shape == second.shape == (3, 11, 64, 1)
    alone = batch_views(views, KEY, {"sound": sounds[2:]}, np.array([2]))
    np.testing.assert_allclose(alone[0][0], first[2], atol=1e-3)
    assert np.abs(first - second).max() > 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: augment.RandomGain(3.0, 1.0), "low 3.0 is above high 1.0"),
        (lambda: augment.AddNoise(9.0, 1.0), "low 9.0 is above"),
        (lambda: augment.TimeShift(1.5), "1.5"),
        (lambda: augment.SpecAugment(times=-1), "times is negative"),
        (lambda: augment.RandomWindow(9)(KEY, jnp.ones(8)), "clip of 8 samples is shorter"),
        (lambda: augment.RandomGain()(KEY, jnp.ones((4, 4, 1))), "samples"),
        (lambda: augment.SpecAugment()(KEY, jnp.ones(8)), r"spectrogram \[F, B, 1\]"),
    ],
)
def test_what_cannot_be_is_said(make, words):
    with pytest.raises(ValueError, match=words):
        make()
