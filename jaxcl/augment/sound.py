"""Random transforms of one clip's samples [T], floats from -1 to 1, and of its spectrogram."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxcl.augment.transforms import Transform, check_probability


@dataclasses.dataclass(frozen=True)
class RandomWindow(Transform):
    """So many samples from anywhere in the clip, every place as likely.

    Raises:
      ValueError: when called, if the clip is shorter.
    """

    samples: int
    """How many."""

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        left = _samples(self, image) - self.samples
        if left < 0:
            raise ValueError(
                f"{self}: a clip of {image.shape[-1]} samples is shorter; set the data's seconds "
                "to more"
            )
        start = jax.random.randint(key, (), 0, left + 1)
        return jax.lax.dynamic_slice(image, (start,), (self.samples,))


@dataclasses.dataclass(frozen=True)
class RandomGain(Transform):
    """Louder or softer by so many decibels, even over a range."""

    low: float = -6.0
    """dB, at least."""
    high: float = 6.0
    """dB, at most."""

    def __post_init__(self) -> None:
        _check_range(self, self.low, self.high)

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        _samples(self, image)
        gain = jax.random.uniform(key, (), minval=self.low, maxval=self.high)
        return image * 10 ** (gain / 20)


@dataclasses.dataclass(frozen=True)
class AddNoise(Transform):
    """White noise at a ratio of powers, clip to noise, even over a range in decibels.

    A silent clip stays silent.
    """

    low: float = 5.0
    """dB, at least."""
    high: float = 30.0
    """dB, at most."""

    def __post_init__(self) -> None:
        _check_range(self, self.low, self.high)

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        count = _samples(self, image)
        ratio_key, noise_key = jax.random.split(key)
        ratio = jax.random.uniform(ratio_key, (), minval=self.low, maxval=self.high)
        noise = jax.random.normal(noise_key, (count,), image.dtype)
        power = jnp.mean(image**2) / jnp.mean(noise**2)
        return image + noise * jnp.sqrt(power * 10 ** (-ratio / 10))


@dataclasses.dataclass(frozen=True)
class TimeShift(Transform):
    """Earlier or later by up to a share of the clip, silence where nothing is left."""

    share: float = 0.1
    """Of the clip, 0 to 1."""

    def __post_init__(self) -> None:
        check_probability(self, self.share)

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        count = _samples(self, image)
        most = int(self.share * count)
        shift = jax.random.randint(key, (), -most, most + 1)
        return jax.lax.dynamic_slice(jnp.pad(image, most), (most - shift,), (count,))


@dataclasses.dataclass(frozen=True)
class SpecAugment(Transform):
    """Stretches of time and of pitch of a spectrogram [F, B, 1] are blanked (Park et al., 2019).

    Each stretch's width is drawn first, from 0 to the most, then its place (section 2). Without the
    paper's warping of time, which it finds to matter least.
    """

    times: int = 2
    """Stretches of time."""
    time_width: int = 20
    """Frames of one, at most."""
    pitches: int = 2
    """Stretches of pitch."""
    pitch_width: int = 10
    """Bands of one, at most."""

    def __post_init__(self) -> None:
        for name in ("times", "time_width", "pitches", "pitch_width"):
            if getattr(self, name) < 0:
                raise ValueError(f"SpecAugment: {name} is negative, got {getattr(self, name)}")

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        if image.ndim != 3:
            raise ValueError(f"{self} takes a spectrogram [F, B, 1], got shape {image.shape}")
        time_key, pitch_key = jax.random.split(key)
        blank = _stretches(time_key, image.shape[0], self.times, self.time_width)[:, None]
        blank |= _stretches(pitch_key, image.shape[1], self.pitches, self.pitch_width)
        return jnp.where(blank[..., None], jnp.mean(image), image)


@dataclasses.dataclass(frozen=True)
class MixBackground(Transform):
    """A spectrogram [F, B, 1] in decibels under a little of another time of its own, which is laid
    over it (log-mixup-exp: Niizumi et al., 2021, whose backgrounds are past clips of other sounds:
    `mix_spectrograms` lays any over any).

    Raises:
      ValueError: for a share out of range; when called, for another rank.
    """

    share: float = 0.4
    """Of the background's power, at most; even from 0. 0 to below 1."""
    mean: float = 0.0
    """dB that are 0 in the spectrogram, as in `LogMel`."""
    std: float = 1.0
    """dB that are 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1 or not self.std > 0:
            raise ValueError(
                f"MixBackground: share is {self.share} and std {self.std}, expected a share from 0 "
                "to below 1 and a positive std"
            )

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        if image.ndim != 3:
            raise ValueError(f"{self} takes a spectrogram [F, B, 1], got shape {image.shape}")
        share_key, place_key = jax.random.split(key)
        share = jax.random.uniform(share_key, (), maxval=self.share)
        background = jnp.roll(image, jax.random.randint(place_key, (), 0, len(image)), axis=0)
        level, behind = (one * self.std + self.mean for one in (image, background))
        return (mix_spectrograms(level, behind, share) - self.mean) / self.std


def mix_spectrograms(first: jax.Array, second: jax.Array, share: jax.Array | float) -> jax.Array:
    """Two spectrograms in decibels laid over one another: powers are added, not decibels.

    `share` of the second, a scalar from 0 to 1 (log-mixup-exp: Niizumi et al., 2021, eq. 2).
    """
    decibel = math.log(10) / 10
    shares = jnp.log(jnp.stack([1 - jnp.asarray(share), jnp.asarray(share)]))
    return jnp.logaddexp(first * decibel + shares[0], second * decibel + shares[1]) / decibel


def _stretches(key: jax.Array, length: int, count: int, most: int) -> jax.Array:
    """[length] bool: what lies in one of so many stretches."""
    width_key, start_key = jax.random.split(key)
    widths = jax.random.randint(width_key, (count,), 0, min(most, length) + 1)
    starts = jax.random.randint(start_key, (count,), 0, length - widths + 1)
    places = jnp.arange(length)[:, None]
    return ((places >= starts) & (places < starts + widths)).any(axis=1)


def _samples(transform: Transform, samples: jax.Array) -> int:
    """How many a clip has; raises where it is none."""
    if samples.ndim != 1:
        raise ValueError(f"{transform} takes a clip's samples [T], got shape {samples.shape}")
    return samples.shape[0]


def _check_range(transform: Transform, low: float, high: float) -> None:
    if not low <= high:
        raise ValueError(f"{type(transform).__name__}: low {low} is above high {high}")
