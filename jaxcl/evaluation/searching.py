"""Searching among what was embedded, by a text or a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from jaxcl.data import Arrays
from jaxcl.data.decoding import Undecodable, decode
from jaxcl.data.parts import OneField
from jaxcl.evaluation.fields import encoded_fields
from jaxcl.evaluation.index_files import open_index
from jaxcl.evaluation.text_features import text_features
from jaxcl.training import Experiment, RestoredRun, UserError, restore_run
from jaxcl.training.durable_files import write_durably

_SIDE, _GAP, _HEAD, _CAPTION = 128, 8, 24, 28  # pixels


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
    try:
        found = open_index(index)
    except ValueError as error:
        raise UserError(str(error)) from error
    run = restore_run(directory, experiment)
    if query is not None:
        features = text_features(run)([query])
    else:
        assert image is not None
        features = _picture_features(run, image)
    if features.shape[1] != found.width:
        raise UserError(
            f"{index} holds features of width {found.width}, the query's are "
            f"{features.shape[1]} wide: embed it with this run"
        )
    rows, similarities = found.search(features[0], min(count, len(found)))
    names = found.names(rows)
    lines = [f"{s:.3f}  {name}" for s, name in zip(similarities, names, strict=True)]
    if out is not None:
        if "source" not in found.about:
            raise UserError(f"{index} holds no pictures, so none can be drawn: leave --out away")
        try:
            pictures = _pictures(found.about["source"], found.about["array"], rows, names)
        except (ValueError, LookupError) as error:
            raise UserError(
                f"the pictures of {index} are no longer as they were: {error}"
            ) from error
        sheet = _sheet(pictures, lines, query or str(image))
        write_durably(out, lambda file: sheet.save(file, format="PNG"))
        lines.append(f"Picture: {out}")
    return "\n".join(lines)


def _picture_features(run: RestoredRun, path: Path) -> np.ndarray:
    height, width, channels = run.image.shape
    try:
        picture = decode(path.read_bytes(), str(path), size=min(height, width), channels=channels)
        source = OneField(run.image_field, picture[None])
        return encoded_fields(run, run.state, batch_size=1)(source, run.image_field)
    except (Undecodable, ValueError) as error:
        raise UserError(str(error)) from error


def _pictures(source: str, array: str, rows: np.ndarray, names: Sequence[str]) -> list[Image.Image]:
    """Pictures of an index, from where they were embedded."""
    if source.endswith(".npz"):
        pixels = Arrays(source, image=array).open().images[rows]
        if pixels.dtype != np.uint8:
            pixels = (255 * pixels).round().astype(np.uint8)
        return [Image.fromarray(one.squeeze()).convert("RGB") for one in pixels]
    root = Path(source)
    pictures = []
    for name in names:
        with Image.open(root / name if root.is_dir() else root) as picture:
            pictures.append(picture.convert("RGB"))
    return pictures


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
