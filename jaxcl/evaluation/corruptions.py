"""Images made worse on purpose, after ImageNet-C (Hendrycks & Dietterich, 2019): `CORRUPTIONS`.

Each is a pure function of image, key and severity, 1 to 5, whose results stay in [0, 1]. Strengths
are those of the paper's published code: of CIFAR-10-C for images below 64 pixels a side, of
ImageNet-C for larger ones. What is a length there scales with the image, from 32 or 224 pixels; but
no smaller image than 32 is blurred by less, for a blur of a fraction of a pixel is none.

Left out, for they need pictures of their own or loops over pixels: glass blur, snow, frost, fog,
elastic transform, spatter. `occlusion` is not of the paper.
"""

import dataclasses
import io
import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np

from jaxcl.augment import affine
from jaxcl.augment import gaussian_blur as blur
from jaxcl.augment.pixels import check_image

SEVERITIES = (1, 2, 3, 4, 5)
_LARGE = 64  # pixels of the shorter side
_EXACT = jax.lax.Precision.HIGHEST  # 8-bit images need more than accelerators' default
_MOTION_ANGLE = math.pi / 4  # of the paper: uniform within this of the horizontal

Strength = tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Corruption:
    """One way to make an image worse, at five strengths."""

    function: Callable[..., jax.Array]
    """Of image, key and the numbers of a strength."""
    small: tuple[Strength, ...]
    """By severity, for images whose shorter side is below 64 pixels."""
    large: tuple[Strength, ...]
    """By severity, for others."""
    lengths: bool = False
    """Strengths are lengths in pixels, of an image of 32 (small) or 224 (large) a side."""
    channels: tuple[int, ...] | None = None
    """Numbers of channels that it is defined for; None: any."""

    def __call__(self, image: jax.Array, key: jax.Array, severity: int) -> jax.Array:
        """Corrupts one image.

        Args:
          image: [H, W, C] float in [0, 1].
          key: PRNG key; each gives one outcome.
          severity: 1 to 5; static.

        Returns:
          [H, W, C] float in [0, 1].

        Raises:
          TypeError: if the image is not of a float dtype.
          ValueError: for another severity, rank or number of channels.

        Example:
          >>> import jax, jax.numpy as jnp
          >>> contrast = CORRUPTIONS["contrast"]
          >>> contrast(jnp.array([[[0.0], [1.0]]]), jax.random.key(0), 2).ravel().tolist()
          [0.25, 0.75]
        """
        if severity not in SEVERITIES:
            raise ValueError(f"severity is {severity}, expected 1 to 5")
        check_image(image, "Corruption", self.channels)
        side = min(image.shape[:2])
        strength = (self.small if side < _LARGE else self.large)[severity - 1]
        if self.lengths:
            scale = max(side / 32, 1.0) if side < _LARGE else side / 224
            strength = tuple(scale * length for length in strength)
        return jnp.clip(self.function(image, key, *strength), 0.0, 1.0)


def corruptions_of(channels: int) -> dict[str, Corruption]:
    """The corruptions that are defined for images of so many channels, by name."""
    return {
        name: corruption
        for name, corruption in CORRUPTIONS.items()
        if corruption.channels is None or channels in corruption.channels
    }


@partial(jax.jit, static_argnums=(0, 1))
def corrupt_batch(
    name: str, severity: int, key: jax.Array, images: jax.Array, indices: jax.Array
) -> jax.Array:
    """Corrupts images, example i by `fold_in(key, indices[i])`, whatever batch it is in.

    Args:
      name: one of `CORRUPTIONS`; static.
      severity: 1 to 5; static.
      key: PRNG key.
      images: [N, H, W, C] float in [0, 1].
      indices: [N] integers, numbers of the examples.

    Returns:
      [N, H, W, C] float32.
    """

    def one(image: jax.Array, index: jax.Array) -> jax.Array:
        return CORRUPTIONS[name](image, jax.random.fold_in(key, index), severity)

    return jax.vmap(one)(images, indices)


def _gaussian_noise(image: jax.Array, key: jax.Array, std: float) -> jax.Array:
    return image + std * jax.random.normal(key, image.shape)


def _shot_noise(image: jax.Array, key: jax.Array, photons: float) -> jax.Array:
    """Counts of photons, `photons` of them at 1."""
    return jax.random.poisson(key, image * photons, image.shape) / photons


def _impulse_noise(image: jax.Array, key: jax.Array, share: float) -> jax.Array:
    """Salt and pepper: a share of all values becomes 0 or 1."""
    drawn = jax.random.uniform(key, image.shape)
    return jnp.where(drawn < share / 2, 0.0, jnp.where(drawn < share, 1.0, image))


def _speckle_noise(image: jax.Array, key: jax.Array, std: float) -> jax.Array:
    return image * (1 + std * jax.random.normal(key, image.shape))


def _gaussian_blur(image: jax.Array, key: jax.Array, sigma: float) -> jax.Array:
    reach = min(int(4 * sigma + 0.5), min(image.shape[:2]) - 1)
    return blur(image, 2 * reach + 1, sigma)


def _defocus_blur(image: jax.Array, key: jax.Array, radius: float, softness: float) -> jax.Array:
    """The mean over a disk whose edge a Gaussian softens; borders are mirrored."""
    kernel = disk_kernel(radius, softness, reach=min(image.shape[:2]) - 1)
    reach = len(kernel) // 2
    padded = jnp.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    planes = jnp.moveaxis(padded, -1, 0)[:, None]  # [C, 1, H + 2 reach, W + 2 reach]
    blurred = jax.lax.conv(planes, jnp.asarray(kernel)[None, None], (1, 1), "VALID", _EXACT)
    return jnp.moveaxis(blurred[:, 0], 0, -1)


def disk_kernel(radius: float, softness: float, *, reach: int) -> np.ndarray:
    """Pixels within `radius` of the middle, blurred by a Gaussian of 3 taps (5 of a radius > 8).

    Args:
      radius: pixels.
      softness: standard deviation of the Gaussian, pixels, > 0.
      reach: pixels from the middle to the last tap, at most.

    Returns:
      [K, K] float32 of sum 1, K odd.
    """
    taps = 1 if radius <= 8 else 2
    size = min(math.floor(radius) + taps, reach)
    place = np.arange(-size, size + 1)
    disk = (np.hypot(place, place[:, None]) <= radius).astype(float)
    distance = place - place[:, None]
    soften = np.exp(-((distance / softness) ** 2) / 2) * (np.abs(distance) <= taps)
    # Weights that leave the kernel were of taps beyond `reach`: renormalized away.
    kernel = soften @ disk @ soften
    return (kernel / kernel.sum()).astype(np.float32)


def _motion_blur(image: jax.Array, key: jax.Array, radius: float, sigma: float) -> jax.Array:
    """A trail to one side along a random direction, its weights half a Gaussian; the border goes on
    outside. Between pixels it is interpolated, where the paper's code goes to the nearest."""
    angle = jax.random.uniform(key, minval=-_MOTION_ANGLE, maxval=_MOTION_ANGLE)
    steps = np.arange(2 * math.floor(radius) + 1)
    weights = np.exp(-((steps / sigma) ** 2) / 2)
    rows, columns = jnp.mgrid[: image.shape[0], : image.shape[1]]

    def add(total: jax.Array, step_and_weight: tuple[jax.Array, jax.Array]) -> tuple:
        step, weight = step_and_weight
        place = (rows + step * jnp.sin(angle), columns + step * jnp.cos(angle))
        sample = partial(jax.scipy.ndimage.map_coordinates, order=1, mode="nearest")
        shifted = jax.vmap(lambda plane: sample(plane, place), -1, -1)(image)
        return total + weight * shifted, None

    trail = (jnp.asarray(steps, image.dtype), jnp.asarray(weights / weights.sum(), image.dtype))
    return jax.lax.scan(add, jnp.zeros_like(image), trail)[0]


def _zoom_blur(image: jax.Array, key: jax.Array, largest: float, step: float) -> jax.Array:
    """The mean of the image and enlargements from 1 on; the paper's code cuts these to pixels."""
    zooms = jnp.asarray([1.0, *np.arange(1.0, largest + step / 2, step)])
    return jax.vmap(lambda zoom: affine(image, 0.0, (0.0, 0.0), zoom))(zooms).mean(0)


def _brightness(image: jax.Array, key: jax.Array, added: float) -> jax.Array:
    """Adds to the value of HSV, the largest channel; hue and saturation stay."""
    value = jnp.max(image, axis=-1, keepdims=True)
    brighter = jnp.minimum(value + added, 1.0)
    return jnp.where(value > 0, image * brighter / jnp.where(value > 0, value, 1.0), brighter)


def _contrast(image: jax.Array, key: jax.Array, factor: float) -> jax.Array:
    """Draws each channel to its mean."""
    mean = jnp.mean(image, axis=(0, 1))
    return (image - mean) * factor + mean


def _saturate(image: jax.Array, key: jax.Array, factor: float, added: float) -> jax.Array:
    """Changes the saturation of HSV; grey pixels stay grey, where the paper's code reddens them."""
    value = jnp.max(image, axis=-1, keepdims=True)
    chroma = value - jnp.min(image, axis=-1, keepdims=True)
    coloured = chroma > 0
    saturation = chroma / jnp.where(coloured, value, 1.0)
    wanted = jnp.clip(saturation * factor + added, 0.0, 1.0)
    change = jnp.where(coloured, wanted / jnp.where(coloured, saturation, 1.0), 1.0)
    return value - (value - image) * change


def _pixelate(image: jax.Array, key: jax.Array, share: float) -> jax.Array:
    """Shrinks both sides to a share and enlarges again, each by Pillow's box filter."""
    rows, columns = (
        box_weights(int(side * share), side) @ box_weights(side, int(side * share))
        for side in image.shape[:2]
    )
    image = jnp.einsum("oh,hwc->owc", rows, image, precision=_EXACT)
    return jnp.einsum("pw,owc->opc", columns, image, precision=_EXACT)


def box_weights(size: int, new_size: int) -> np.ndarray:
    """What each pixel of a row of `size` gives to each of `new_size`: [new_size, size] float32.

    Pillow's box filter: the mean of the pixels whose centres lie below the new one (the nearest
    where the row grows).
    """
    scale = size / new_size
    centres = (np.arange(new_size) + 0.5)[:, None] * scale
    distance = (np.arange(size) + 0.5 - centres) / max(scale, 1.0)
    weights = ((distance > -0.5) & (distance <= 0.5)).astype(np.float32)
    return weights / weights.sum(1, keepdims=True)


def _jpeg_compression(image: jax.Array, key: jax.Array, quality: float) -> jax.Array:
    """Pillow's, on the host."""
    from PIL import Image

    def compress(pixels: np.ndarray) -> np.ndarray:
        levels = np.rint(np.asarray(pixels) * 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(levels.squeeze(-1) if levels.shape[-1] == 1 else levels).save(
            file, "JPEG", quality=int(quality)
        )
        return (np.asarray(Image.open(file), np.float32) / 255).reshape(pixels.shape)

    shape = jax.ShapeDtypeStruct(image.shape, jnp.float32)
    return jax.pure_callback(compress, shape, image, vmap_method="sequential")


def _occlusion(image: jax.Array, key: jax.Array, share: float) -> jax.Array:
    """Hides a part of this share, of the image's own aspect, under its mean colour."""
    height, width, _ = image.shape
    hidden = tuple(max(1, round(side * share**0.5)) for side in (height, width))
    room = jnp.asarray([height - hidden[0] + 1, width - hidden[1] + 1])
    top, left = jax.random.randint(key, (2,), 0, room)
    row, column = jnp.arange(height)[:, None, None], jnp.arange(width)[:, None]
    covered = (row >= top) & (row < top + hidden[0])
    covered &= (column >= left) & (column < left + hidden[1])
    return jnp.where(covered, jnp.mean(image, axis=(0, 1)), image)


def _each(*values: float) -> tuple[Strength, ...]:
    return tuple((value,) for value in values)


_OCCLUDED = _each(0.05, 0.1, 0.2, 0.3, 0.4)

CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {
        "gaussian_noise": Corruption(
            _gaussian_noise,
            small=_each(0.04, 0.06, 0.08, 0.09, 0.10),
            large=_each(0.08, 0.12, 0.18, 0.26, 0.38),
        ),
        "shot_noise": Corruption(
            _shot_noise, small=_each(500, 250, 100, 75, 50), large=_each(60, 25, 12, 5, 3)
        ),
        "impulse_noise": Corruption(
            _impulse_noise,
            small=_each(0.01, 0.02, 0.03, 0.05, 0.07),
            large=_each(0.03, 0.06, 0.09, 0.17, 0.27),
        ),
        "speckle_noise": Corruption(
            _speckle_noise,
            small=_each(0.06, 0.1, 0.12, 0.16, 0.2),
            large=_each(0.15, 0.2, 0.35, 0.45, 0.6),
        ),
        "gaussian_blur": Corruption(
            _gaussian_blur,
            small=_each(0.4, 0.6, 0.7, 0.8, 1.0),
            large=_each(1, 2, 3, 4, 6),
            lengths=True,
        ),
        "defocus_blur": Corruption(
            _defocus_blur,
            small=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)),
            large=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
            lengths=True,
        ),
        "motion_blur": Corruption(
            _motion_blur,
            small=((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
            large=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
            lengths=True,
        ),
        "zoom_blur": Corruption(
            _zoom_blur,
            small=((1.05, 0.01), (1.10, 0.01), (1.15, 0.01), (1.20, 0.01), (1.25, 0.01)),
            large=((1.10, 0.01), (1.15, 0.01), (1.20, 0.02), (1.24, 0.02), (1.30, 0.03)),
        ),
        "brightness": Corruption(
            _brightness,
            small=_each(0.05, 0.1, 0.15, 0.2, 0.3),
            large=_each(0.1, 0.2, 0.3, 0.4, 0.5),
        ),
        "contrast": Corruption(
            _contrast,
            small=_each(0.75, 0.5, 0.4, 0.3, 0.15),
            large=_each(0.4, 0.3, 0.2, 0.1, 0.05),
        ),
        "saturate": Corruption(
            _saturate,
            small=((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
            large=((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
            channels=(3,),
        ),
        "pixelate": Corruption(
            _pixelate,
            small=_each(0.95, 0.9, 0.85, 0.75, 0.65),
            large=_each(0.6, 0.5, 0.4, 0.3, 0.25),
        ),
        "jpeg_compression": Corruption(
            _jpeg_compression,
            small=_each(80, 65, 58, 50, 40),
            large=_each(25, 18, 15, 10, 7),
            channels=(1, 3),
        ),
        "occlusion": Corruption(_occlusion, small=_OCCLUDED, large=_OCCLUDED),
    }
)
"""By name: noise, blur, light and colour, compression, occlusion."""
