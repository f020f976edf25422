"""Examples of a run's data beside their features, and how each is shown."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageDraw

from jaxcl.data import Source, SourceConfig, Tokenizer
from jaxcl.data.parts import Subset
from jaxcl.data.source import THERE, Record, inputs_of
from jaxcl.data.text import texts_within
from jaxcl.evaluation.fields import encoded_fields
from jaxcl.extras import MissingExtra
from jaxcl.reports.html import data_address, text
from jaxcl.training import FieldFeatures, RestoredRun, RunDirectory
from jaxcl.training.experiment import networks_of_fields

GALLERY, QUERIES = 2000, 1000
"""Examples of either part that are looked at, at most; evenly spread."""
_SIDE = 80  # pixels of a picture
_WORDS = 90  # characters of a text


@dataclasses.dataclass(frozen=True)
class Examples:
    """Some records of a source, by one field."""

    source: Source
    field: str
    features: np.ndarray
    """[N, F]."""
    read: Callable[[np.ndarray], str]
    """The text of tokens."""

    def __len__(self) -> int:
        return len(self.features)

    @functools.cached_property
    def names(self) -> list[str]:
        """A name for each."""
        return [str(name) for name in self.source.names]

    def label(self, row: int) -> str:
        """The name of a record's class; empty without labels."""
        if self.source.labels is None:
            return ""
        number = int(self.source.labels[row])
        names = self.source.label_names
        return names[number] if names and 0 <= number < len(names) else str(number)

    def words(self, row: int) -> str:
        """What it is, in plain words: its text, or its name, and its class."""
        value = self.source[row][self.field]
        said = self.read(value) if _is_text(value) else self.names[row]
        label = self.label(row)
        return f"{said[:_WORDS]} ({label})" if label else said[:_WORDS]

    def picture(self, row: int) -> Image.Image | None:
        """A picture of it; None of a text."""
        return _drawn(self.source[row][self.field])

    def html(self, row: int, *, caption: str = "", kind: str = "") -> str:
        """It as an item of a strip."""
        image, said = self.picture(row), self.words(row)
        below = f"<div>{text(caption)}</div>" if caption else ""
        if image is None:
            return f'<div class="item words {kind}">{text(said)}{below}</div>'
        image = _fitted(image, _SIDE)
        return (
            f'<div class="item {kind}"><img src="{data_address(image)}" alt="{text(said)}">{below}'
            "</div>"
        )


class _Middles:
    """The middle frame of each video of a source, for encoders of frames."""

    def __init__(self, source: Source, field: str) -> None:
        self._source, self._field = source, field
        self.labels, self.label_names, self.names = source.labels, source.label_names, source.names

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, record: int) -> Record:
        found = self._source[record]
        video = found[self._field]
        return {**found, self._field: video[len(video) // 2]}


def open_examples(
    run: RestoredRun,
    config: SourceConfig,
    most: int,
    *,
    field: str | None = None,
    beside: str | None = None,
) -> Examples:
    """Some examples of a source with their features by the run's encoder.

    Args:
      run: the run.
      config: the source.
      most: examples at most.
      field: of the records; None: the first that a view is of.
      beside: another field that records have to have.

    Raises:
      FileNotFoundError: if the data are missing.
      ValueError: if they do not fit the run.
      OSError: if they cannot be read.
    """
    source = config.open()
    field = field or main_field(run)
    known = inputs_of(source[0])
    if field not in known:
        field = next(iter(known))
    there = np.arange(len(source))
    for name in {field, beside or field}:
        if f"{name}{THERE}" in source[0]:
            there = np.array([row for row in there if source[int(row)][f"{name}{THERE}"]], int)
    if not len(there):
        raise ValueError(f"no record has {field!r}")
    rows = there[np.linspace(0, len(there) - 1, min(most, len(there))).astype(int)]
    part: Source = Subset(source, rows)
    if known[field].ndim == 4 and not _takes(run, known[field]):
        part = _Middles(part, field)
    encode: FieldFeatures = encoded_fields(run, run.state)
    features = encode(part, field)
    if features.ndim == 3:  # of several texts a record, the first
        features = features[:, 0]
    return Examples(part, field, features, reader(run, field))


def _takes(run: RestoredRun, value: np.ndarray) -> bool:
    """Whether the run's encoder takes videos whole."""
    rows = jax.ShapeDtypeStruct((1, *value.shape), np.float32)
    try:
        jax.eval_shape(run.experiment.method.embed, run.state.params, run.state.method, rows)
    except (TypeError, ValueError):
        return False
    return True


def main_field(run: RestoredRun) -> str:
    """The field whose features are shown: pictures where there are some."""
    of_each = run.experiment.views.of_each
    return next((name for name in of_each if len(run.inputs[name].shape) == 3), of_each[0])


def encoded(run: RestoredRun) -> list[str]:
    """The fields that the run has encoders for."""
    return list(dict.fromkeys(of for of, _, _ in networks_of_fields(run.experiment)))


def reader(run: RestoredRun, field: str) -> Callable[[np.ndarray], str]:
    """What makes text of a field's tokens: the run's own tokenizer."""
    for number, texts in enumerate(texts_within(run.experiment.data)):
        path = RunDirectory(run.directory).tokenizer(number)
        only = len(texts_within(run.experiment.data)) == 1
        if path.is_file() and (field in texts.columns or only):
            try:
                tokenizer: Any = Tokenizer.load(path).tokenizer
            except (ValueError, MissingExtra):
                break
            return lambda tokens: tokenizer.decode(_first(tokens).tolist())
    return lambda tokens: " ".join(map(str, _first(tokens).tolist()))


def _first(tokens: np.ndarray) -> np.ndarray:
    """The tokens of a text, or of the first of several that is there."""
    rows = np.atleast_2d(tokens)
    there = rows[(rows >= 0).any(1)]
    row = there[0] if len(there) else rows[0]
    return row[row >= 0]


def _is_text(value: np.ndarray) -> bool:
    return value.dtype == np.int32 and value.ndim in (1, 2)


def _drawn(value: np.ndarray) -> Image.Image | None:
    """An image; of a video its middle; of a series or sound its course."""
    if _is_text(value):
        return None
    if value.ndim == 4:
        value = value[len(value) // 2]
    if value.ndim == 3 and value.shape[-1] in (1, 3, 4):
        pixels = value
        if pixels.dtype != np.uint8:
            pixels = (255 * np.clip(np.nan_to_num(pixels), 0, 1)).round().astype(np.uint8)
        colour = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[..., :3]
        return Image.fromarray(colour)
    if value.ndim == 3:  # of other channels, the first
        return _drawn(_scaled(value[..., :1]))
    return _course(value.reshape(len(value), -1))


def _scaled(value: np.ndarray) -> np.ndarray:
    value = np.nan_to_num(value.astype(np.float32))
    low, high = value.min(), value.max()
    return (value - low) / (high - low or 1)


def _course(series: np.ndarray) -> Image.Image:
    """Up to three of a series' numbers, by time."""
    image = Image.new("RGB", (_SIDE, _SIDE), "#f6f8fa")
    pen = ImageDraw.Draw(image)
    for place, colour in enumerate(("#0b62a4", "#b5400a", "#1a7f4b")[: series.shape[1]]):
        column = series[:, place]
        rows = np.linspace(0, len(column) - 1, min(len(column), 4 * _SIDE)).astype(int)
        heights = (_SIDE - 4) * (1 - _scaled(column[rows])) + 2
        across = np.linspace(2, _SIDE - 2, len(rows))
        pen.line(list(zip(across.tolist(), heights.tolist(), strict=True)), fill=colour)
    return image


def _fitted(image: Image.Image, side: int) -> Image.Image:
    """No larger than `side`; small ones stay, for the page enlarges them without smoothing."""
    if max(image.size) <= side:
        return image
    scale = side / max(image.size)
    width, height = (max(1, round(scale * length)) for length in image.size)
    return image.resize((width, height))


def sprite(examples: Examples, side: int, across: int) -> Image.Image | None:
    """All pictures in one, in rows of `across` cells of `side` pixels; None of texts."""
    if examples.picture(0) is None:
        return None
    whole = Image.new("RGB", (across * side, -(-len(examples) // across) * side), "white")
    for row in range(len(examples)):
        image = examples.picture(row)
        assert image is not None
        scale = side / max(image.size)
        width, height = (max(1, round(scale * length)) for length in image.size)
        kind = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
        place = (row % across * side, row // across * side)
        whole.paste(image.resize((width, height), kind), place)
    return whole
