"""Random crops, flips and affine maps."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxcl.augment.geometry import Method, affine, horizontal_flip, resized_crop, sides
from jaxcl.augment.transforms import Transform, check_interval, check_probability

_TRIES = 10  # torchvision's


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop(Transform):
    """A box of random area and ratio, resized: torchvision's `RandomResizedCrop`, antialiased.

    Area share uniform in `scale`, log of width/height uniform in `ratio`; the first of ten draws
    that fits the image, at a uniform place; if none fits, the largest central box of a ratio within
    `ratio`. Bicubic results are clipped to [0, 1], as for 8-bit images.

    Raises:
      ValueError: if a field is out of range.
    """

    size: int | tuple[int, int]
    """Sides of the result, (height, width) or one for both, pixels."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest share of the image's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width/height."""
    method: Method = "bilinear"
    """Kernel of the resizing, "bilinear" or "bicubic"."""

    def __post_init__(self) -> None:
        sides(self.size, "RandomResizedCrop")
        check_interval(self, "scale", self.scale, upto=1.0)
        check_interval(self, "ratio", self.ratio)
        if self.method not in ("bilinear", "bicubic"):
            raise ValueError(
                f"RandomResizedCrop: method is {self.method!r}, expected 'bilinear' or 'bicubic'"
            )

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        box = self.draw_box(key, image.shape[0], image.shape[1])
        image = resized_crop(image, *box, self.size, method=self.method)
        return jnp.clip(image, 0.0, 1.0) if self.method == "bicubic" else image

    def draw_box(
        self, key: jax.Array, in_height: int, in_width: int
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """A crop's box in an image of given sides.

        Args:
          key: PRNG key.
          in_height: of the image, pixels.
          in_width: of the image, pixels.

        Returns:
          (top, left, height, width): whole numbers as float32 scalars.
        """
        uniform = jax.random.uniform(key, (2 * _TRIES + 2,))
        low, high = self.scale
        areas = in_height * in_width * (low + (high - low) * uniform[:_TRIES])
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratios = jnp.exp(low + (high - low) * uniform[_TRIES : 2 * _TRIES])
        heights = jnp.round(jnp.sqrt(areas / ratios))
        widths = jnp.round(jnp.sqrt(areas * ratios))
        fits = (heights >= 1) & (heights <= in_height) & (widths >= 1) & (widths <= in_width)

        first, any_fits = jnp.argmax(fits), jnp.any(fits)
        whole_height, whole_width = self._central_sides(in_height, in_width)
        height = jnp.where(any_fits, heights[first], whole_height)
        width = jnp.where(any_fits, widths[first], whole_width)
        down, right = in_height - height, in_width - width
        top = jnp.where(any_fits, _whole(uniform[-2], down), jnp.floor(down / 2))
        left = jnp.where(any_fits, _whole(uniform[-1], right), jnp.floor(right / 2))
        return top, left, height, width

    def _central_sides(self, in_height: int, in_width: int) -> tuple[int, int]:
        narrowest, widest = self.ratio
        if in_width / in_height < narrowest:
            return max(1, round(in_width / narrowest)), in_width
        if in_width / in_height > widest:
            return in_height, max(1, round(in_height * widest))
        return in_height, in_width


@dataclasses.dataclass(frozen=True)
class RandomCrop(Transform):
    """A box of one size from anywhere in the image, nothing resized; every place as likely.

    Of a stack of frames [H, W, C of all frames] all are cropped alike, as CURL does (Laskin et al.,
    2020, section 4.3).

    Raises:
      ValueError: if a field is out of range; when called, if the image is smaller.
    """

    size: int | tuple[int, int]
    """Sides of the box, (height, width) or one for both, pixels."""
    padding: int = 0
    """Pixels put around the image first, like those at its edges."""

    def __post_init__(self) -> None:
        sides(self.size, "RandomCrop")
        if self.padding < 0:
            raise ValueError(f"RandomCrop: padding is negative, got {self.padding}")

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        height, width = sides(self.size, "RandomCrop")
        around = (self.padding, self.padding)
        image = jnp.pad(image, [around, around, (0, 0)], mode="edge")
        rows, columns = image.shape[0] - height, image.shape[1] - width
        if min(rows, columns) < 0:
            raise ValueError(f"{self}: an image of {image.shape[:2]} pixels is smaller")
        top_key, left_key = jax.random.split(key)
        top = jax.random.randint(top_key, (), 0, rows + 1)
        left = jax.random.randint(left_key, (), 0, columns + 1)
        return jax.lax.dynamic_slice(image, (top, left, 0), (height, width, image.shape[2]))


@dataclasses.dataclass(frozen=True)
class RandomHorizontalFlip(Transform):
    """Mirrors left and right with probability `p`.

    Raises:
      ValueError: if `p` is outside [0, 1].
    """

    p: float = 0.5
    """Probability."""

    def __post_init__(self) -> None:
        check_probability(self, self.p)

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        return jnp.where(jax.random.bernoulli(key, self.p), horizontal_flip(image), image)


@dataclasses.dataclass(frozen=True)
class RandomAffine(Transform):
    """Rotation, shift and change of size: torchvision's `RandomAffine`, without shear.

    For digits and letters, which a flip would make another sign.

    Raises:
      ValueError: if a field is out of range.
    """

    degrees: float = 10.0
    """The angle is uniform in [-degrees, degrees]."""
    translate: tuple[float, float] = (0.1, 0.1)
    """Largest shift, (horizontal, vertical), shares of width and height; in whole pixels."""
    scale: tuple[float, float] = (0.9, 1.1)
    """Smallest and largest enlargement."""
    fill: float = 0.0
    """Value outside the image."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.degrees <= 180.0:
            raise ValueError(f"RandomAffine: degrees is {self.degrees}, expected 0 to 180")
        pair = isinstance(self.translate, tuple) and len(self.translate) == 2
        if not pair or not all(0.0 <= share <= 1.0 for share in self.translate):
            raise ValueError(
                f"RandomAffine: translate is {self.translate}, "
                "expected a tuple of two shares in [0, 1]"
            )
        check_interval(self, "scale", self.scale)

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        angle, right, down, scale = self.draw_map(key, image.shape[0], image.shape[1])
        return affine(image, angle, (right, down), scale, fill=self.fill)

    def draw_map(
        self, key: jax.Array, height: int, width: int
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """The map for an image of given sides.

        Args:
          key: PRNG key.
          height: of the image, pixels.
          width: of the image, pixels.

        Returns:
          (angle in degrees, shift right and shift down in pixels, enlargement), scalars.
        """
        turn, right, down, scale = jax.random.uniform(key, (4,))
        low, high = self.scale
        return (
            self.degrees * (2.0 * turn - 1.0),
            jnp.round(self.translate[0] * width * (2.0 * right - 1.0)),
            jnp.round(self.translate[1] * height * (2.0 * down - 1.0)),
            low + (high - low) * scale,
        )


def _whole(uniform: jax.Array, largest: jax.Array) -> jax.Array:
    """A whole number in [0, largest], each as likely, from a uniform number in [0, 1)."""
    return jnp.minimum(jnp.floor(uniform * (largest + 1)), largest)
