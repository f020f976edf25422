"""Texts as features of a run, and searching among what was embedded by a text or a picture."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from jaxcl.data import Arrays, Texts, Tokenizer
from jaxcl.data.decoding import UndecodableImage, decode
from jaxcl.data.tables import read_columns
from jaxcl.data.tokenizer import pad_tokens
from jaxcl.evaluation.fields import encoded_fields
from jaxcl.evaluation.knn import nearest_neighbours
from jaxcl.extras import MissingExtra
from jaxcl.training import Experiment, RestoredRun, UserError, restore_run
from jaxcl.training.durable_files import check_writable, write_durably

_SIDE, _GAP, _HEAD, _CAPTION = 128, 8, 24, 28  # pixels


@dataclasses.dataclass(frozen=True)
class _One:
    """Values of one field as a source."""

    field: str
    values: np.ndarray
    labels = None
    label_names = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, record: int) -> dict[str, Any]:
        return {self.field: self.values[record], "replaced": False}

    @property
    def names(self) -> Sequence[str]:
        return [str(number) for number in range(len(self))]


def text_features(run: RestoredRun, texts: Sequence[str], *, batch_size: int = 128) -> np.ndarray:
    """Features [N, F] of texts by a run that was trained on some; of several towers, embeddings in
    their common space.

    Raises:
      UserError: if the run was trained on no texts, or a text has no tokens.
    """
    fields = [name for name, one in run.inputs.items() if one.dtype == np.int32]
    config = _texts_of(run.experiment.data)
    if not fields or config is None:
        raise UserError(f"the run was trained on {', '.join(run.inputs)} and knows no texts")
    field = next(name for name in run.experiment.views.of_each if name in fields)
    try:
        tokenizer = Tokenizer.load(
            config.tokenizer, max_length=config.max_length, too_long=config.too_long
        )
        tokens = tokenizer(texts).texts
        source = _One(field, pad_tokens(tokens))
        return encoded_fields(run, run.state, batch_size=batch_size)(source, field)
    except (ValueError, FileNotFoundError, MissingExtra) as error:
        raise UserError(str(error)) from error


def embed_texts(
    directory: Path,
    path: Path,
    out: Path,
    *,
    column: str = "text",
    batch_size: int = 128,
    experiment: Experiment | None = None,
) -> str:
    """Writes the features of the texts in a file to an .npz: `features` [N, F], `names` [N].

    Args:
      directory: a run directory with at least one checkpoint.
      path: a file of texts, as `data.Texts` takes it; empty ones are passed over.
      out: where to write.
      column: name of the texts' column, where the file has columns.
      batch_size: texts at once.
      experiment: as in `restore_run`.

    Returns:
      What was written, in words.

    Raises:
      UserError: if the texts cannot be read, or do not fit the run.
      OSError: if `out` cannot be written.
    """
    if out.suffix != ".npz":
        raise UserError(f"--out is {out}: give a file name that ends in .npz")
    out.parent.mkdir(parents=True, exist_ok=True)
    check_writable(out.parent)
    run = restore_run(directory, experiment)
    try:
        read = read_columns(str(path), (column,))[column]
    except ValueError as error:
        raise UserError(str(error)) from error
    flat = [text for row in read for text in ([row] if isinstance(row, str) else row)]
    texts = [text for text in flat if text.strip()]
    if not texts:
        raise UserError(f"{path} holds no texts")
    features = text_features(run, texts, batch_size=batch_size)
    names = np.array(texts)
    write_durably(out, lambda file: np.savez(file, features=features, names=names))
    passed = len(flat) - len(texts)
    said = f" ({passed} empty ones passed over)" if passed else ""
    return f"{len(features)} x {features.shape[1]} features of step {run.step}: {out}{said}"


def search_run(
    directory: Path,
    index: Path,
    *,
    query: str | None = None,
    image: Path | None = None,
    count: int = 12,
    out: Path | None = None,
    experiment: Experiment | None = None,
) -> str:
    """What in an index is most like a text or a picture, best first.

    Args:
      directory: the run whose features the index holds.
      index: what `jaxcl embed` wrote, of pictures or texts.
      query: a text; or
      image: a picture.
      count: how many to find.
      out: where to draw the found pictures (.png); None: nowhere.
      experiment: as in `restore_run`.

    Returns:
      A line for each: similarity and name.

    Raises:
      UserError: if the index is none, or does not fit the run or the query.
    """
    if (query is None) == (image is None):
        raise UserError("give one of --query TEXT and --image FILE")
    if out is not None and out.suffix != ".png":
        raise UserError(f"--out is {out}, expected a file that ends in .png")
    if count < 1:
        raise UserError(f"--count is {count}: give at least 1")
    found = _read_index(index)
    run = restore_run(directory, experiment)
    if query is not None:
        features = text_features(run, [query])
    else:
        assert image is not None
        features = _picture_features(run, image)
    if features.shape[1] != found["features"].shape[1]:
        raise UserError(
            f"{index} holds features of width {found['features'].shape[1]}, the query's are "
            f"{features.shape[1]} wide: embed it with this run"
        )
    count = min(count, len(found["names"]))
    rows, similarities = nearest_neighbours(found["features"], features, count)
    names = [str(found["names"][row]) for row in rows[0]]
    lines = [f"{s:.3f}  {name}" for s, name in zip(similarities[0], names, strict=True)]
    if out is not None:
        if "source" not in found:
            raise UserError(f"{index} holds no pictures, so none can be drawn: leave --out away")
        pictures = [
            _picture(str(found["source"]), str(found["array"]), row, name)
            for row, name in zip(rows[0].tolist(), names, strict=True)
        ]
        sheet = _sheet(pictures, lines, query or str(image))
        write_durably(out, lambda file: sheet.save(file, format="PNG"))
        lines.append(f"Picture: {out}")
    return "\n".join(lines)


def _read_index(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise UserError(f"{path} is no .npz file: write one with jaxcl embed") from error
    if not {"features", "names"} <= set(found):
        raise UserError(f"{path} holds no features and names: write it with jaxcl embed")
    return found


def _picture_features(run: RestoredRun, path: Path) -> np.ndarray:
    height, width, channels = run.image.shape
    try:
        picture = decode(path.read_bytes(), str(path), size=min(height, width), channels=channels)
        source = _One(run.image_field, picture[None])
        return encoded_fields(run, run.state, batch_size=1)(source, run.image_field)
    except (UndecodableImage, ValueError) as error:
        raise UserError(str(error)) from error


def _picture(source: str, array: str, row: int, name: str) -> Image.Image:
    """A picture of an index, from where it was embedded."""
    if source.endswith(".npz"):
        pixels = Arrays(source, image=array).open().images[row]
        if pixels.dtype != np.uint8:
            pixels = (255 * pixels).round().astype(np.uint8)
        return Image.fromarray(pixels.squeeze()).convert("RGB")
    path = Path(source) / name if Path(source).is_dir() else Path(source)
    with Image.open(path) as picture:
        return picture.convert("RGB")


def _sheet(pictures: Sequence[Image.Image], captions: Sequence[str], title: str) -> Image.Image:
    """Pictures in rows of six, each with its caption beneath."""
    columns = min(6, len(pictures))
    rows = -(-len(pictures) // columns)
    width, height = _SIDE + _GAP, _SIDE + _CAPTION
    sheet = Image.new("RGB", (_GAP + columns * width, _HEAD + rows * height + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, 6), title, fill="black")
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left, top = _GAP + number % columns * width, _HEAD + number // columns * height
        scale = _SIDE / max(picture.size)
        size = [max(1, round(side * scale)) for side in picture.size]
        sheet.paste(picture.resize((size[0], size[1])), (left, top))
        pen.text((left, top + _SIDE + 2), caption[:20], fill="#555555")
    return sheet


def _texts_of(config: Any) -> Texts | None:
    """The texts within a tree of source configs."""
    if isinstance(config, Texts):
        return config
    if isinstance(config, tuple):
        parts: Sequence[Any] = config
    elif dataclasses.is_dataclass(config):
        parts = [getattr(config, field.name) for field in dataclasses.fields(config)]
    else:
        return None
    return next((found for part in parts if (found := _texts_of(part)) is not None), None)
