"""What the views of a recipe look like: pictures, and what is made of them."""

from typing import BinaryIO

import jax
import numpy as np
from PIL import Image, ImageDraw

from jaxcl.augment import Compose, Normalize, Transform, Views, batch_views
from jaxcl.data import Source
from jaxcl.data.source import inputs_of

_LEAST_SIDE, _GAP, _HEAD = 64, 6, 18  # pixels


def contact_sheet(source: Source, views: Views, *, examples: int = 8, seed: int = 0) -> Image.Image:
    """Draws a row for each of some examples: the picture as read, then each of its views, those of
    other fields left out.

    The examples lie evenly over the source, so that a folder shows more than its first class. All
    are drawn at one scale, so that small crops are small; normalization is undone.

    Args:
      source: where the examples come from.
      views: the recipe.
      examples: how many, 1 to the number of examples.
      seed: decides what the views draw.

    Returns:
      An RGB picture.

    Raises:
      ValueError: if `examples` is out of range, or records or views are of no images.
    """
    if not 1 <= examples <= len(source):
        raise ValueError(
            f"examples is {examples}, expected 1 to {len(source)}, as many as there are"
        )
    views.check_fields(first := inputs_of(source[0]))
    of_images = [name for name in views.of_each if first[name].ndim == 3]
    if not of_images:
        raise ValueError(f"views are of {', '.join(views.of_each)}, none of which is an image")
    views = views.of_field(of_images[0])
    numbers = np.arange(examples) * len(source) // examples
    images = np.stack([source[number][of_images[0]] for number in numbers.tolist()])
    drawn = batch_views(views, jax.random.key(seed), images, numbers)
    shown = [
        _denormalized(view, np.asarray(rows)) for view, rows in zip(views.views, drawn, strict=True)
    ]
    columns = [np.asarray(images), *shown]
    names = ["as read", *(f"view {number}" for number in range(len(shown)))]

    largest = max(max(column.shape[1:3]) for column in columns)
    scale = max(1, -(-_LEAST_SIDE // largest))
    widths = [max(_LEAST_SIDE, scale * column.shape[2]) for column in columns]
    height = scale * max(column.shape[1] for column in columns)
    sheet = Image.new(
        "RGB",
        (_GAP + sum(width + _GAP for width in widths), 2 * _HEAD + examples * (height + _GAP)),
        "white",
    )
    pen = ImageDraw.Draw(sheet)
    left = _GAP
    for name, column, width in zip(names, columns, widths, strict=True):
        pen.text((left, 2), name, fill="black")
        pen.text((left, _HEAD - 2), f"{column.shape[1]}x{column.shape[2]}", fill="#777777")
        for row, image in enumerate(column):
            place = (left, 2 * _HEAD + row * (height + _GAP))
            sheet.paste(_picture(image, scale), place)
        left += width + _GAP
    return sheet


def save_contact_sheet(sheet: Image.Image, file: BinaryIO) -> None:
    """Writes the picture as PNG."""
    sheet.save(file, format="PNG")


def _denormalized(view: Transform, images: np.ndarray) -> np.ndarray:
    """Undoes the normalization within a view, if any."""
    if isinstance(view, Compose):
        for step in reversed(view.transforms):
            images = _denormalized(step, images)
    elif isinstance(view, Normalize):
        images = images * np.asarray(view.std, np.float32) + np.asarray(view.mean, np.float32)
    return images


def _picture(image: np.ndarray, scale: int) -> Image.Image:
    """One image, grey or in colour, uint8 or float in [0, 1], enlarged without smoothing."""
    if image.dtype != np.uint8:
        image = (255 * np.clip(image, 0, 1)).round().astype(np.uint8)
    colour = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    return Image.fromarray(colour[..., :3].repeat(scale, axis=0).repeat(scale, axis=1))
