"""Texts as features of a run, and searching among what was embedded by a text or a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from jaxcl.data import Arrays, SourceConfig, Texts, Tokenizer
from jaxcl.data.arrays import read_npz
from jaxcl.data.decoding import Undecodable, decode
from jaxcl.data.parts import OneField
from jaxcl.data.tables import read_columns
from jaxcl.data.text import texts_within
from jaxcl.data.tokenizer import pad_tokens
from jaxcl.evaluation.fields import encoded_fields
from jaxcl.evaluation.knn import nearest_neighbours
from jaxcl.evaluation.validation import as_features
from jaxcl.extras import MissingExtra
from jaxcl.training import Experiment, RestoredRun, UserError, restore_run
from jaxcl.training.durable_files import check_writable, write_durably
from jaxcl.training.experiment import networks_of_fields
from jaxcl.training.run_directory import RunDirectory

_NAME = 200  # characters of a text that an index keeps
_SIDE, _GAP, _HEAD, _CAPTION = 128, 8, 24, 28  # pixels


def text_features(run: RestoredRun, texts: Sequence[str], *, batch_size: int = 128) -> np.ndarray:
    """Features [N, F] of texts by a run that was trained on some; of several towers, embeddings in
    their common space.

    Raises:
      UserError: if the run was trained on no texts, or a text has no tokens.
    """
    fields = [name for name, one in run.inputs.items() if one.dtype == np.int32]
    field = next((name for name in run.experiment.views.of_each if name in fields), None)
    config = None if field is None else _texts_of(run.experiment.data, field)
    if field is None or config is None:
        raise UserError(
            f"the run was trained on {', '.join(run.inputs)}, and no text among it is of data.Texts"
        )
    networks = {of: network for of, _, network in networks_of_fields(run.experiment)}
    most = getattr(networks[field], "max_length", config.max_length)
    try:
        number = texts_within(run.experiment.data).index(config)
        own = RunDirectory(run.directory).tokenizer(number)
        tokenizer = Tokenizer.load(
            own if own.is_file() else config.tokenizer,
            max_length=min(config.max_length, most),
            too_long=config.too_long,
        )
        tokens = tokenizer(texts).texts
        source = OneField(field, pad_tokens(tokens))
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
    """Writes the features of the texts in a file to an .npz: `features` [N, F], `names` [N], the
    beginning of each text.

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
    if batch_size < 1:
        raise UserError(f"--batch-size is {batch_size}: give at least 1")
    if out.exists() and path.exists() and out.samefile(path):
        raise UserError(f"--out is {out}, which holds the texts: give another file")
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
    names = np.array([text[:_NAME] for text in texts])  # all as wide as the longest
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
        try:
            pictures = _pictures(str(found["source"]), str(found["array"]), rows[0], names)
        except (ValueError, LookupError) as error:
            raise UserError(
                f"the pictures of {index} are no longer as they were: {error}"
            ) from error
        sheet = _sheet(pictures, lines, query or str(image))
        write_durably(out, lambda file: sheet.save(file, format="PNG"))
        lines.append(f"Picture: {out}")
    return "\n".join(lines)


def _read_index(path: Path) -> dict[str, np.ndarray]:
    try:
        found = {**read_npz(str(path), ("features", "names"))}
        with np.load(path, allow_pickle=False) as file:
            found |= {name: file[name] for name in ("source", "array") if name in file.files}
        found["features"] = as_features("features", found["features"])
    except ValueError as error:
        raise UserError(f"{error} (an index is written by jaxcl embed)") from error
    if len(found["features"]) != len(found["names"]):
        raise UserError(
            f"{path} holds {len(found['features'])} features and {len(found['names'])} names: "
            "write it with jaxcl embed"
        )
    return found


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


def _texts_of(config: SourceConfig, field: str) -> Texts | None:
    """The texts of a data config that have a field, or the only ones."""
    every = texts_within(config)
    found = [texts for texts in every if field in texts.columns]
    return found[0] if found else every[0] if len(every) == 1 else None
