"""Encoded pictures to arrays of one form, and what stands in for those that do not decode."""

import functools
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps

from jaxcl.data.source import Record

# Formats that Pillow only recognises, or renders by starting another program (EPS).
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}

# Asked first, since Pillow asks one format after another; their files begin like no other's.
_COMMON = ("JPEG", "PNG", "WEBP")

# What Pillow's decoders raise on damaged bytes, found by damaging files of every common format.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_MAX_TRIES = 64

_EXIF_ORIENTATION = 0x0112
_ON_THEIR_SIDE = {5, 6, 7, 8}  # orientations whose width is the upright picture's height


class Undecodable(ValueError):
    """A record is no picture that Pillow, or no sound that soundfile can decode."""


@functools.cache
def image_formats() -> tuple[str, ...]:
    """The names of the formats that `decode` reads, as Pillow names them; the common ones first."""
    Image.init()
    formats = sorted(set(Image.OPEN) - _NOT_DECODED)
    return tuple(sorted(formats, key=lambda name: name not in _COMMON))


def image_extensions() -> frozenset[str]:
    """The file name endings of those formats, lower case with the dot."""
    formats = set(image_formats())
    return frozenset(
        extension for extension, name in Image.registered_extensions().items() if name in formats
    )


def check_size_and_channels(size: int | None, channels: int) -> None:
    """Raises ValueError unless size is None or positive and channels is 1 or 3."""
    if size is not None and size < 1:
        raise ValueError(f"size {size} is not a number of pixels: use 1 or more, or none")
    if channels not in (1, 3):
        raise ValueError(f"channels {channels} is neither 1 (grey) nor 3 (RGB)")


def check_one_shape(image: np.ndarray, expected: tuple[int, ...], name: str) -> None:
    """Raises ValueError, naming the image, unless its shape is that of the first."""
    if image.shape != expected:
        height, width, _ = image.shape
        raise ValueError(
            f"{name} is {width}x{height} pixels, expected {expected[1]}x{expected[0]} like the "
            "first image: set size to cut and resize all images to one size"
        )


def upright_size(path: str) -> tuple[int, int] | None:
    """Height and width of the picture in a file, from its header alone; None if that is damaged."""
    try:
        with Image.open(path, formats=image_formats()) as image:
            width, height = image.size
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) in _ON_THEIR_SIDE
    except _DAMAGE:
        return None
    return (width, height) if turned else (height, width)


def decode(encoded: bytes, name: str, *, size: int | None = None, channels: int = 3) -> np.ndarray:
    """The picture in `encoded`, upright, as 8-bit grey or RGB.

    The orientation in EXIF is applied. Sixteen bits keep their upper eight; palettes are looked up;
    transparent pixels are laid over white; CMYK and the other colour spaces are converted as Pillow
    does. Of an animation, the first frame.

    Args:
      encoded: the bytes of a file in any format of `image_formats`.
      name: what errors call the picture.
      size: None keeps the picture's size; else it becomes [size, size] as by `resize_centre`.
      channels: 1 for grey, 3 for RGB.

    Returns:
      [H, W, channels] uint8.

    Raises:
      Undecodable: if the bytes do not decode.
    """
    mode = "L" if channels == 1 else "RGB"
    try:
        with Image.open(io.BytesIO(encoded), formats=image_formats()) as image:
            if size is not None:
                # JPEG decodes fast at a fraction of its size; twice the target leaves the
                # antialiasing to the resize.
                image.draft(None, (2 * size, 2 * size))
            image.load()
            # All pixels are copied by each step of Pillow's, even one that changes nothing.
            pixels: Image.Image = image
            if not _is_upright_opaque(image, mode):
                pixels = _to_8_bit(ImageOps.exif_transpose(image), mode)
            array = np.asarray(pixels if size is None else fit(pixels, size))
    except _DAMAGE as error:
        raise Undecodable(f"{name} does not decode as an image: {error}") from error
    return array[:, :, None] if array.ndim == 2 else array


def _is_upright_opaque(image: Image.Image, mode: str) -> bool:
    """Whether a loaded image is of that mode already, upright, and opaque."""
    upright = image.getexif().get(_EXIF_ORIENTATION, 1) == 1
    return image.mode == mode and upright and not image.has_transparency_data


def _to_8_bit(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floats of no known range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # Pillow's own conversion would clip 16 bits at 255
        wide = np.clip(np.asarray(image), 0, 65535)
        image = Image.fromarray((wide >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def fit(image: Image.Image, size: int) -> Image.Image:
    """The shorter side resized, antialiased bilinear, and the centre of the longer one kept."""
    return ImageOps.fit(image, (size, size), method=Image.Resampling.BILINEAR)


def resize_centre(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes the shorter side to `size` with Pillow's antialiased bilinear filter, and keeps the
    centre of the longer one.

    Args:
      image: [H, W, C] uint8 or float32.
      size: side of the result in pixels.

    Returns:
      [size, size, C], of the image's dtype.

    Example:
      >>> resize_centre(np.full((4, 6, 1), 7, np.uint8), 2)[..., 0]
      array([[7, 7],
             [7, 7]], dtype=uint8)
    """
    planes = [
        fit(Image.fromarray(np.ascontiguousarray(plane)), size)
        for plane in np.moveaxis(image, -1, 0)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def read_or_next(
    record: int, count: int, read: Callable[[int], Record], *, what: str = "image"
) -> Record:
    """Record `record`, or the next one, cyclically, that decodes: the same in every process.

    Args:
      record: the number of the record wanted.
      count: how many records there are.
      read: gives a record by number, or raises Undecodable.
      what: what errors call it.

    Returns:
      The record read, label included; `replaced` tells whether it is another than the one wanted.

    Raises:
      ValueError: if 64 records in a row (or all there are) do not decode; it names the first.
    """
    first = None
    tries = min(count, _MAX_TRIES)
    for offset in range(tries):
        try:
            found = read((record + offset) % count)
        except Undecodable as error:
            first = first or error
        else:
            found["replaced"] = offset > 0
            return found
    raise ValueError(
        f"no readable {what} in {tries} records in a row; the first: {first}"
    ) from first
