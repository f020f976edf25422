"""Pictures or texts of any number to an index: a part at a time, each kept until all are done."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcl.data import Arrays, ArraySource, Folder, Source
from jaxcl.data.decoding import Undecodable, decode
from jaxcl.data.source import image_shape
from jaxcl.data.tables import read_columns
from jaxcl.evaluation.embedding import Embedding, read_batches
from jaxcl.evaluation.index_files import SUFFIXES, Rows, check_format, names_beside, write_index
from jaxcl.evaluation.text_features import text_features
from jaxcl.training import Experiment, RestoredRun, UserError, restore_run
from jaxcl.training.durable_files import check_writable, write_durably

_NAME = 200  # characters of a text that an index keeps
_PART_ROWS, _PART_SECONDS = 16_384, 30.0  # a part is written when it has as many, or after so long
_TEXTS = 16_384  # texts that are cut into tokens at once


def embed_run(
    directory: Path,
    source: Path,
    out: Path,
    *,
    batch_size: int = 256,
    array: str = "image",
    experiment: Experiment | None = None,
) -> str:
    """Writes the features of images to an index.

    It holds `features` [N, F], `names` [N], and `replaced` [N], true where an image did not decode
    and the row is that of the next one that did; and where the images lie, for `jaxcl search`. Of a
    run with several towers features are embeddings in their common space.

    Images are read, and features written, a part at a time: to a folder beside `out`, where the
    same call finds them if it was interrupted.

    Args:
      directory: a run directory with at least one checkpoint.
      source: a folder of images, one image, or an .npz file.
      out: where to write: a file of `index_files.SUFFIXES`.
      batch_size: images at once.
      array: name of the images in an .npz file.
      experiment: as in `restore_run`.

    Returns:
      What was written, in words.

    Raises:
      UserError: if images cannot be read, or do not fit the encoder.
      OSError: if `out` cannot be written.
      ImportError: if what writes its format is not installed.
    """
    _check_out(out, batch_size)
    if not source.exists():
        raise UserError(f"{source} does not exist: give a folder of images, an image, or an .npz")
    if any(path.exists() and path.samefile(source) for path in (out, names_beside(out))):
        raise UserError(f"--out is {out}, which holds the images: give another file")
    _make_folder(out)
    run = restore_run(directory, experiment)
    opened = _open_images(source, array, run)
    embedding = Embedding.of_encoder(run, run.state, project=True)
    names = np.array(list(opened.names))

    def embed(start: int) -> Iterator[dict[str, np.ndarray]]:
        for batch in read_batches(opened, batch_size, "embedding", start=start):
            features = embedding(batch["image"], batch_size)
            yield {"features": features, "replaced": batch["replaced"]}

    about = {"source": str(source.absolute()), "array": array}
    parts = _Parts(out, _digest(run, names, about, _changed(source, opened.names)), len(names))
    with parts.alone():
        said = parts.fill(embed)
        columns = {"names": names, "replaced": parts.column("replaced")}
        width = parts.write(columns, about)
    written = f"{len(names)} x {width} features of step {run.step}: {out}{said}"
    bad = columns["replaced"]
    if bad.any():
        written += f" ({bad.sum()} did not decode: see `replaced` in it)"
    return "\n".join(
        [*(f"note: passed over a checkpoint: {why}" for why in run.passed_over), written]
    )


def embed_texts(
    directory: Path,
    path: Path,
    out: Path,
    *,
    column: str = "text",
    batch_size: int = 128,
    experiment: Experiment | None = None,
) -> str:
    """Writes the features of the texts in a file to an index: `features` [N, F], `names` [N], the
    beginning of each text. In parts, as `embed_run` does.

    Args:
      directory: a run directory with at least one checkpoint.
      path: a file of texts, as `data.Texts` takes it; empty ones are passed over.
      out: where to write: a file of `index_files.SUFFIXES`.
      column: name of the texts' column, where the file has columns.
      batch_size: texts at once.
      experiment: as in `restore_run`.

    Returns:
      What was written, in words.

    Raises:
      UserError: if the texts cannot be read, or do not fit the run.
      OSError: if `out` cannot be written.
      ImportError: if what writes its format is not installed.
    """
    _check_out(out, batch_size)
    beside = (out, names_beside(out))
    if path.exists() and any(one.exists() and one.samefile(path) for one in beside):
        raise UserError(f"--out is {out}, which holds the texts: give another file")
    _make_folder(out)
    run = restore_run(directory, experiment)
    try:
        read = read_columns(str(path), (column,))[column]
    except ValueError as error:
        raise UserError(str(error)) from error
    flat = [text for row in read for text in ([row] if isinstance(row, str) else row)]
    texts = [text for text in flat if text.strip()]
    if not texts:
        raise UserError(f"{path} holds no texts")
    encode = text_features(run, batch_size=batch_size)

    def embed(start: int) -> Iterator[dict[str, np.ndarray]]:
        for first in range(start, len(texts), _TEXTS):
            yield {"features": encode(texts[first : first + _TEXTS])}

    names = np.array([text[:_NAME] for text in texts])  # all as wide as the longest
    whole = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    parts = _Parts(out, _digest(run, names, {"texts": whole}), len(texts))
    with parts.alone():
        said = parts.fill(embed)
        width = parts.write({"names": names}, {})
    passed = len(flat) - len(texts)
    said += f" ({passed} empty ones passed over)" if passed else ""
    return f"{len(texts)} x {width} features of step {run.step}: {out}{said}"


@dataclasses.dataclass(frozen=True)
class _Parts:
    """Rows that are done, in files of a folder beside the index; of another digest they go."""

    out: Path
    digest: str
    count: int

    @property
    def folder(self) -> Path:
        return self.out.with_name(self.out.name + ".parts")

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Within it no other call writes the same index."""
        path = self.out.with_name(self.out.name + ".lock")
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(f"{self.out} is being written by another call") from error
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def fill(self, embed: Any) -> str:
        """Embeds what is not done, `embed(start)` giving batches from that row on.

        Returns:
          How many rows were done before, in words.
        """
        plan = self.folder / "plan.json"
        if not (plan.is_file() and json.loads(plan.read_text()).get("digest") == self.digest):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
        try:
            write_durably(plan, json.dumps({"digest": self.digest}))
            before = done = sum(map(len, self._read("features")))
            if done < self.count:
                for part in _gather(embed(done)):
                    path = self.folder / f"{done:012d}.npz"
                    write_durably(path, lambda file, part=part: np.savez(file, **part))  # type: ignore[misc]
                    done += len(part["features"])
        except BaseException:
            if not any(self.folder.glob("*.npz")):
                shutil.rmtree(self.folder)
            raise
        return f" ({before:,} rows were there from before)" if before else ""

    def column(self, name: str) -> np.ndarray:
        """One value of each row, [N]."""
        return np.concatenate(list(self._read(name)))

    def write(self, columns: dict[str, np.ndarray], about: dict[str, str]) -> int:
        """Makes the index of the parts, which then go; returns the features' width."""
        width = int(next(self._read("features")).shape[1])
        rows = Rows(lambda: self._read("features"), self.count, width, columns, about)
        try:
            write_index(self.out, rows)
        except ValueError as error:
            raise UserError(str(error)) from error
        shutil.rmtree(self.folder)
        return width

    def _read(self, name: str) -> Iterator[np.ndarray]:
        for path in sorted(self.folder.glob("*.npz")):
            with np.load(path, allow_pickle=False) as part:
                yield part[name]


def _gather(batches: Iterator[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    """Batches in parts: of so many rows, or of so many seconds."""
    held: list[dict[str, np.ndarray]] = []
    begun = time.monotonic()
    for batch in batches:
        held.append(batch)
        rows = sum(len(one["features"]) for one in held)
        if rows >= _PART_ROWS or time.monotonic() - begun > _PART_SECONDS:
            yield _joined(held)
            held, begun = [], time.monotonic()
    if held:
        yield _joined(held)


def _joined(batches: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _digest(run: RestoredRun, names: np.ndarray, about: dict[str, str], *more: str) -> str:
    """Of all that features come from: parameters, and which pictures or texts."""
    digest = hashlib.sha256(json.dumps([about, *more]).encode())
    digest.update(names.tobytes())
    for leaf in jax.tree.leaves((run.state.params, run.state.method)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _changed(source: Path, names: Sequence[str]) -> str:
    """Sizes of all files, and when they were last written."""
    digest = hashlib.sha256()
    for path in [source / name for name in names] if source.is_dir() else [source]:
        found = path.stat()
        digest.update(f"{found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _check_out(out: Path, batch_size: int) -> None:
    if out.suffix not in SUFFIXES:
        raise UserError(f"--out is {out}: give a file name that ends in {', '.join(SUFFIXES)}")
    check_format(out)
    if batch_size < 1:
        raise UserError(f"--batch-size is {batch_size}: give at least 1")


def _make_folder(out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    check_writable(out.parent)


def _open_images(source: Path, array: str, run: RestoredRun) -> Source:
    height, width, channels = run.image.shape
    size = min(height, width)
    opened: Source
    try:
        if source.suffix == ".npz":
            opened = Arrays(str(source), image=array).open()
        elif source.is_file():
            picture = decode(source.read_bytes(), str(source), size=size, channels=channels)
            opened = ArraySource(picture[None], names=[source.name])
        else:
            opened = Folder(str(source), size=size, channels=1 if channels == 1 else 3).open()
    except (ValueError, Undecodable) as error:
        raise UserError(str(error)) from error
    if image_shape(opened)[-1] != channels:
        raise UserError(
            f"{source} holds images of {image_shape(opened)[-1]} channels; the run was trained on "
            f"{channels}"
        )
    return opened
