"""Sound in time and pitch: power spectra, mel bands, decibels, cepstra. Pure, batched over leading
axes, differentiable.

The defaults of librosa and of torchaudio differ in what they add at a clip's ends, in the mel
scale, and in whether a band's weights are divided by its width: `LogMel.librosa` and
`LogMel.torchaudio` are theirs.
"""

import dataclasses
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxcl.augment.transforms import Transform, to_samples
from jaxcl.choices import check_choices

Scale = Literal["htk", "slaney"]
Ends = Literal["zeros", "reflect", "none"]

_LEAST_POWER = 1e-10
_RANGE = 80.0  # dB


def power_spectrogram(
    samples: jax.Array, *, size: int, window: int, hop: int, ends: Ends = "reflect"
) -> jax.Array:
    """Squared magnitudes of the short-time Fourier transform under a periodic Hann window.

    Args:
      samples: [..., T].
      size: samples of a transform.
      window: samples of the window, in the middle of a transform; at most `size`.
      hop: samples from one frame to the next.
      ends: what a clip is continued by, half a transform at either end, so that frame i is around
        sample i * hop; "none": frame i begins there.

    Returns:
      [..., F, size // 2 + 1]; F is 1 + T // hop (of an even size), with "none" 1 + (T - size) //
      hop.

    Raises:
      ValueError: where the clip is too short, or sizes do not go together.
    """
    if not 1 <= window <= size or hop < 1:
        raise ValueError(
            f"expected 1 <= window <= size and hop >= 1, got window {window}, size {size}, "
            f"hop {hop}"
        )
    count = samples.shape[-1]
    least = {"zeros": 1, "reflect": size // 2 + 1, "none": size}[ends]
    if count < least:
        raise ValueError(f"a clip of {count} samples is too short, expected at least {least}")
    if ends != "none":
        padding = [(0, 0)] * (samples.ndim - 1) + [(size // 2, size // 2)]
        mode = "constant" if ends == "zeros" else "reflect"
        samples = jnp.pad(samples, padding, mode=mode)
    frames = 1 + (samples.shape[-1] - size) // hop
    places = np.arange(frames)[:, None] * hop + np.arange(size)
    spectrum = jnp.fft.rfft(samples[..., places] * _hann(window, size))
    return spectrum.real**2 + spectrum.imag**2


def mel_filters(
    rate: int, size: int, mels: int, low: float, high: float, *, scale: Scale, equal_area: bool
) -> np.ndarray:
    """Triangles that overlap by half, evenly spread over a scale of pitch.

    Args:
      rate: samples a second.
      size: samples of a transform.
      mels: how many bands.
      low: Hz at which the first one begins.
      high: Hz at which the last one ends; at most half of `rate`.
      scale: "htk", 2595 log10(1 + f / 700); or "slaney", even up to 1 kHz and logarithmic above.
      equal_area: divide each by half its width in Hz, so that all have one area.

    Returns:
      [size // 2 + 1, mels] float64.

    Raises:
      ValueError: where frequencies are no range below half the rate.
    """
    if not 0 <= low < high <= rate / 2:
        raise ValueError(
            f"bands from {low:g} to {high:g} Hz: expected a range from 0 to {rate / 2:g}, half of "
            f"the rate {rate}"
        )
    first, last = _to_mel(np.array([low, high]), scale)
    edges = _to_hertz(np.linspace(first, last, mels + 2), scale)
    frequencies = np.arange(size // 2 + 1) * rate / size
    rising = (frequencies[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies[:, None]) / (edges[2:] - edges[1:-1])
    filters = np.maximum(0, np.minimum(rising, falling))
    return filters * (2 / (edges[2:] - edges[:-2])) if equal_area else filters


def decibels(power: jax.Array, *, range_db: float | None = _RANGE) -> jax.Array:
    """10 log10 of power, of at least 1e-10; nothing more than `range_db` below a clip's loudest.

    Args:
      power: [..., F, B], not negative.
      range_db: the range in dB; None: all.

    Returns:
      [..., F, B] dB.
    """
    found = 10 / math.log(10) * jnp.log(jnp.maximum(power, _LEAST_POWER))
    if range_db is None:
        return found
    loudest = jnp.max(found, axis=(-2, -1), keepdims=True)
    return jnp.maximum(found, loudest - range_db)


def cepstrum(decibels: jax.Array, count: int) -> jax.Array:
    """The first coefficients of the orthonormal cosine transform (DCT-II) over bands.

    Args:
      decibels: [..., F, B].
      count: coefficients, at most B.

    Returns:
      [..., F, count].
    """
    bands = decibels.shape[-1]
    if not 1 <= count <= bands:
        raise ValueError(f"{count} coefficients of {bands} bands: expected 1 to {bands}")
    places = np.pi / bands * (np.arange(bands)[:, None] + 0.5) * np.arange(count)
    basis = np.cos(places) * math.sqrt(2 / bands)
    basis[:, 0] /= math.sqrt(2)
    return jnp.matmul(decibels, jnp.asarray(basis, decibels.dtype), precision="highest")


@dataclasses.dataclass(frozen=True)
class LogMel(Transform):
    """Samples to a spectrogram in decibels, as an image of one channel: time down, pitch across.

    Raises:
      ValueError: for an unknown option, sizes or frequencies that do not go together, or a clip
        that is too short.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> LogMel(rate=16000)(jax.random.key(0), jnp.zeros(16000)).shape
      (101, 64, 1)
    """

    rate: int = 16_000
    """Samples a second."""
    size: int = 512
    """Samples of a transform."""
    window: int = 400
    """Samples of the window, 25 ms."""
    hop: int = 160
    """Samples from one frame to the next, 10 ms."""
    mels: int = 64
    """Bands."""
    low: float = 60.0
    """Hz at which the first band begins."""
    high: float | None = 7_800.0
    """Hz at which the last one ends; None: half of `rate`."""
    scale: Scale = "htk"
    """Of pitch."""
    equal_area: bool = False
    """Divide each band by half its width in Hz."""
    ends: Ends = "reflect"
    """What a clip is continued by at its ends."""
    range_db: float | None = _RANGE
    """Nothing is more than this below a clip's loudest; None: all from -100 dB."""
    mean: float = 0.0
    """dB that become 0."""
    std: float = 1.0
    """dB that become 1."""

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.std > 0:
            raise ValueError(f"{type(self).__name__}: std must be positive, got {self.std}")
        if not 1 <= self.window <= self.size or self.hop < 1:
            raise ValueError(
                f"{type(self).__name__}: expected 1 <= window <= size and hop >= 1, got window "
                f"{self.window}, size {self.size}, hop {self.hop}"
            )
        self._filters()

    @classmethod
    def librosa(cls, *, rate: int = 22_050, size: int = 2048, mels: int = 128) -> "LogMel":
        """`power_to_db(feature.melspectrogram(y))` with librosa 0.11's other defaults."""
        return cls(rate, size, size, 512, mels, 0.0, None, "slaney", equal_area=True, ends="zeros")

    @classmethod
    def torchaudio(cls, *, rate: int = 16_000, size: int = 400, mels: int = 128) -> "LogMel":
        """`AmplitudeToDB()(MelSpectrogram())` with torchaudio 2.11's other defaults."""
        return cls(rate, size, size, size // 2, mels, 0.0, None, range_db=None)

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        del key
        return self.of(image)[..., None]

    def of(self, samples: jax.Array) -> jax.Array:
        """The same of any number of clips, [..., T], without a channel: [..., F, mels]."""
        samples = to_samples(samples)
        power = power_spectrogram(
            samples, size=self.size, window=self.window, hop=self.hop, ends=self.ends
        )
        filters = jnp.asarray(self._filters(), jnp.float32)
        bands = jnp.matmul(power, filters, precision="highest")
        return (decibels(bands, range_db=self.range_db) - self.mean) / self.std

    def frames(self, samples: int) -> int:
        """How many frames a clip has."""
        added = 0 if self.ends == "none" else 2 * (self.size // 2)
        return 1 + (samples + added - self.size) // self.hop

    def _filters(self) -> np.ndarray:
        high = self.rate / 2 if self.high is None else self.high
        return _filters(
            self.rate, self.size, self.mels, self.low, high, self.scale, self.equal_area
        )


@dataclasses.dataclass(frozen=True)
class MFCC(Transform):
    """Samples to mel-frequency cepstral coefficients, as an image of one channel.

    librosa's and torchaudio's are of their spectrograms, the latter with a range of 80 dB.
    """

    spectrogram: LogMel = dataclasses.field(default_factory=lambda: LogMel(mels=40))
    """Of which they are."""
    count: int = 20
    """How many."""

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        del key
        return cepstrum(self.spectrogram.of(image), self.count)[..., None]


@functools.cache
def _filters(
    rate: int, size: int, mels: int, low: float, high: float, scale: Scale, equal_area: bool
) -> np.ndarray:
    return mel_filters(rate, size, mels, low, high, scale=scale, equal_area=equal_area)


@functools.cache
def _hann(window: int, size: int) -> np.ndarray:
    """[size] float32, 0 around the window."""
    rising = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    left = (size - window) // 2
    return np.pad(rising, (left, size - window - left)).astype(np.float32)


# Slaney's scale: 200/3 Hz a mel up to 1 kHz, then a factor of 6.4 in 27 mels.
_LINEAR, _BREAK, _STEP = 200 / 3, 1000.0, math.log(6.4) / 27


def _to_mel(hertz: np.ndarray, scale: Scale) -> np.ndarray:
    if scale == "htk":
        return 2595 * np.log10(1 + hertz / 700)
    above = _BREAK / _LINEAR + np.log(np.maximum(hertz, _BREAK) / _BREAK) / _STEP
    return np.where(hertz < _BREAK, hertz / _LINEAR, above)


def _to_hertz(mels: np.ndarray, scale: Scale) -> np.ndarray:
    if scale == "htk":
        return 700 * (10 ** (mels / 2595) - 1)
    knee = _BREAK / _LINEAR
    above = _BREAK * np.exp(_STEP * (np.maximum(mels, knee) - knee))
    return np.where(mels < knee, mels * _LINEAR, above)
