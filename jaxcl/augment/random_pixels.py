"""Random changes of pixel values: colour jitter, grey, solarize, blur, noise; and normalizing."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxcl.augment.blur import gaussian_blur
from jaxcl.augment.color import blend, luma, rgb_to_grayscale, solarize, turn_hue
from jaxcl.augment.pixels import check_image, normalize
from jaxcl.augment.transforms import Transform, check_interval, check_probability

_ORDERS = np.array(list(itertools.permutations(range(4))))  # [24, 4]


@dataclasses.dataclass(frozen=True)
class ColorJitter(Transform):
    """Brightness, contrast, saturation, hue in random order: torchvision's `ColorJitter`.

    A factor is uniform in [max(0, 1 - x), 1 + x] for its field x; brightness multiplies. Grey
    images (one channel) change in brightness and contrast alone.

    Raises:
      ValueError: if a strength is negative, or `hue` above 0.5.
    """

    brightness: float = 0.0
    """Strength, >= 0."""
    contrast: float = 0.0
    """Strength, >= 0."""
    saturation: float = 0.0
    """Strength, >= 0."""
    hue: float = 0.0
    """The hue turns by a share of the circle uniform in [-hue, hue]; 0 to 0.5."""

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            strength = getattr(self, name)
            if not 0.0 <= strength < math.inf:
                raise ValueError(f"ColorJitter: {name} is {strength}, expected a number >= 0")
        if not 0.0 <= self.hue <= 0.5:
            raise ValueError(f"ColorJitter: hue is {self.hue}, expected 0 to 0.5 of a full turn")

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        check_image(image, "ColorJitter", (1, 3))
        order, factors = self.draw(key)
        brightness, contrast, saturation, hue = factors
        has_color = image.shape[-1] == 3

        # Brightness, contrast and saturation all blend, with black, the mean and the grey version:
        # one blend serves all three; a step computes it and the turned hue, and keeps one. A loop,
        # not four copies: XLA would fuse the copies into one expression that computes the earlier
        # steps again for every later one (four times slower on CPU).
        def step(position: jax.Array, planes: jax.Array) -> jax.Array:
            op = order[position]
            grey = luma(planes) if has_color else planes[0]  # [H, W]
            other = jnp.select([op == 0, op == 1], [0.0, jnp.mean(grey)], grey)
            factor = jnp.select([op == 0, op == 1], [brightness, contrast], saturation)
            turned = turn_hue(planes, hue) if has_color and self.hue > 0 else planes
            return jnp.where(op == 3, turned, blend(planes, other, factor))

        planes = jax.lax.fori_loop(0, 4, step, jnp.moveaxis(image, -1, 0))  # [C, H, W]
        return jnp.moveaxis(planes, 0, -1)

    def draw(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The order and the factors for one image.

        Args:
          key: PRNG key.

        Returns:
          [4] order, a permutation of 0 brightness, 1 contrast, 2 saturation and 3 hue, and
          [4] their factors.
        """
        uniform = jax.random.uniform(key, (5,))
        order = jnp.asarray(_ORDERS)[(uniform[4] * len(_ORDERS)).astype(jnp.int32)]
        strengths = (self.brightness, self.contrast, self.saturation)
        low = jnp.array([*(max(0.0, 1.0 - strength) for strength in strengths), -self.hue])
        high = jnp.array([*(1.0 + strength for strength in strengths), self.hue])
        return order, low + (high - low) * uniform[:4]


@dataclasses.dataclass(frozen=True)
class RandomGrayscale(Transform):
    """The grey version, with as many channels, with probability `p`.

    Raises:
      ValueError: if `p` is outside [0, 1].
    """

    p: float = 0.1
    """Probability."""

    def __post_init__(self) -> None:
        check_probability(self, self.p)

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        return jnp.where(jax.random.bernoulli(key, self.p), rgb_to_grayscale(image), image)


@dataclasses.dataclass(frozen=True)
class RandomSolarize(Transform):
    """Inverts the values at or above `threshold`, with probability `p`.

    Raises:
      ValueError: if `threshold` or `p` is outside [0, 1].
    """

    threshold: float = 0.5
    """In [0, 1]; for 8-bit pictures 128 is usual."""
    p: float = 0.5
    """Probability."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold <= 1.0:
            raise ValueError(
                f"RandomSolarize: threshold is {self.threshold}, expected 0 to 1 (128 is 128 / 255)"
            )
        check_probability(self, self.p)

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        return jnp.where(jax.random.bernoulli(key, self.p), solarize(image, self.threshold), image)


@dataclasses.dataclass(frozen=True)
class GaussianBlur(Transform):
    """Blur with a standard deviation uniform in `sigma`: torchvision's `GaussianBlur`.

    Raises:
      ValueError: if `kernel_size` is even or not positive, or `sigma` is not 0 < low <= high.
    """

    kernel_size: int
    """Taps along each side; odd."""
    sigma: tuple[float, float] = (0.1, 2.0)
    """Smallest and largest standard deviation, pixels."""

    def __post_init__(self) -> None:
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(
                f"GaussianBlur: kernel_size is {self.kernel_size}, expected an odd number >= 1"
            )
        check_interval(self, "sigma", self.sigma)

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        low, high = self.sigma
        sigma = jax.random.uniform(key, minval=low, maxval=high)
        return gaussian_blur(image, self.kernel_size, sigma)


@dataclasses.dataclass(frozen=True)
class GaussianNoise(Transform):
    """Adds independent normal noise to every value and clips to [0, 1].

    Raises:
      ValueError: if `std` is negative.
    """

    std: float = 0.05
    """Standard deviation, in units of the image's range [0, 1]."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.std < math.inf:
            raise ValueError(f"GaussianNoise: std is {self.std}, expected a number >= 0")

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        check_image(image, "GaussianNoise")
        noise = jax.random.normal(key, image.shape, image.dtype)
        return jnp.clip(image + self.std * noise, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Normalize(Transform):
    """`(image - mean) / std`, channel by channel; comes last.

    Raises:
      ValueError: if lengths differ or a `std` is not positive.
    """

    mean: tuple[float, ...]
    """One value a channel, or one for all."""
    std: tuple[float, ...]
    """One value a channel, or one for all; > 0."""

    def __post_init__(self) -> None:
        tuples = isinstance(self.mean, tuple) and isinstance(self.std, tuple)
        if not tuples or not self.mean or len(self.mean) != len(self.std):
            raise ValueError(
                f"Normalize: mean is {self.mean} and std {self.std}, "
                "expected tuples of one length, one value a channel or one for all"
            )
        if min(self.std) <= 0.0:
            raise ValueError(f"Normalize: std is {self.std}, expected positive numbers")

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        del key  # nothing random here
        return normalize(image, self.mean, self.std)
