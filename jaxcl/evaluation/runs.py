"""From a run directory to what its encoder is worth: features of any images, and a report."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

from jaxcl.augment import (
    Normalize,
    Transform,
    Views,
    batch_views,
    resized_crop,
    to_float,
)
from jaxcl.data import Arrays, ArraySource, Folder, Source, SourceConfig, sequential_batches
from jaxcl.data.decoding import UndecodableImage, decode
from jaxcl.evaluation.knn import nearest_neighbours
from jaxcl.evaluation.neighbours import neighbour_sheet
from jaxcl.evaluation.report import Report, measure_representations, report_markdown
from jaxcl.evaluation.retrieval import recall_at_k
from jaxcl.methods import Method
from jaxcl.training import (
    Experiment,
    RestoredRun,
    RunDirectory,
    TrainState,
    UserError,
    restore_run,
    start_state,
    view_shapes,
)
from jaxcl.training.durable_files import check_writable, write_durably

_RAW_SIDE = 32  # raw input is compared at no more than this many pixels a side
_SHEET_ROWS, _SHEET_COLUMNS = 10, 8
_ALIGNED = 512  # test examples whose views are compared


def evaluate_run(directory: Path, experiment: Experiment | None = None) -> str:
    """Measures a run's features beside raw input and the untrained encoder.

    Writes `evaluation.json` and the picture `neighbours.png`.

    Args:
      directory: a run directory with at least one checkpoint.
      experiment: as in `restore_run`.

    Returns:
      The report as text.

    Raises:
      UserError: if the run has no checkpoint, or names no examples to be measured on.
      OSError: if the directory cannot be written.
    """
    run = restore_run(directory, experiment)
    check_writable(directory)
    settings = run.experiment.evaluate
    if settings is None or settings.test is None:
        raise UserError(
            f"{directory} names no test examples: set evaluate.test in its config and resume with "
            f"the config, as in: jaxcl train CONFIG --out {directory}"
        )
    train_source = _open(settings.train or run.experiment.data)
    test_source = _open(settings.test)
    untrained = start_state(run.experiment, run.image)
    encoders = {
        "raw input": Embedding.of_pixels(run),
        "untrained encoder": Embedding.of_encoder(run, untrained),
        "trained encoder": Embedding.of_encoder(run, run.state),
    }
    train = embed_source(encoders, train_source, settings.batch_size)
    test = embed_source(encoders, test_source, settings.batch_size)
    representations = {name: (train[name], test[name]) for name in encoders}
    try:
        report = measure_representations(
            representations,
            train_source.labels,
            test_source.labels,
            views=_view_features(encoders, run, test_source),
            k=min(settings.neighbours, len(train_source)),
            temperature=settings.temperature,
            weights=settings.weights,
            labels_per_class=settings.labels_per_class,
        )
        retrieval = _retrieval(representations) if settings.paired else {}
    except ValueError as error:
        raise UserError(f"cannot evaluate {directory}: {error}") from error
    files = RunDirectory(directory)
    document = {"step": run.step, "retrieval": retrieval, **report.as_dict()}
    write_durably(files.evaluation, json.dumps(document, indent=2) + "\n")
    _draw_neighbours(
        files.neighbours, train_source, test_source, *representations["trained encoder"]
    )
    return _describe(report, retrieval, run, files)


def embed_run(
    directory: Path,
    source: Path,
    out: Path,
    *,
    batch_size: int = 256,
    array: str = "image",
    experiment: Experiment | None = None,
) -> str:
    """Writes the features of images to an .npz file.

    It holds `features` [N, F], `names` [N], and `replaced` [N], true where an image did not decode
    and the row is that of the next one that did.

    Args:
      directory: a run directory with at least one checkpoint.
      source: a folder of images, one image, or an .npz file.
      out: where to write.
      batch_size: images at once.
      array: name of the images in an .npz file.
      experiment: as in `restore_run`.

    Returns:
      What was written, in words.

    Raises:
      UserError: if images cannot be read, or do not fit the encoder.
      OSError: if `out` cannot be written.
    """
    if out.suffix != ".npz":
        raise UserError(f"--out is {out}: give a file name that ends in .npz")
    if batch_size < 1:
        raise UserError(f"--batch-size is {batch_size}: give at least 1")
    if not source.exists():
        raise UserError(f"{source} does not exist: give a folder of images, an image, or an .npz")
    if out.exists() and out.samefile(source):
        raise UserError(f"--out is {out}, which holds the images: give another file")
    out.parent.mkdir(parents=True, exist_ok=True)
    check_writable(out.parent)
    run = restore_run(directory, experiment)
    height, width, channels = run.image.shape
    size = min(height, width)
    if source.suffix == ".npz":
        opened = _open(Arrays(str(source), image=array))
    elif source.is_file():
        opened = _one_picture(source, size, channels)
    else:
        opened = _open(Folder(str(source), size=size, channels=1 if channels == 1 else 3))
    if opened.image_shape[-1] != channels:
        raise UserError(
            f"{source} holds images of {opened.image_shape[-1]} channels; the run was trained on "
            f"{channels}"
        )
    embedding = Embedding.of_encoder(run, run.state)
    features, replaced = [], []
    for batch in _read_batches(opened, batch_size, "embedding"):
        features.append(embedding(batch["image"], batch_size))
        replaced.append(batch["replaced"])
    everything, bad = np.concatenate(features), np.concatenate(replaced)
    names = np.array(list(opened.names))
    write_durably(out, lambda file: np.savez(file, features=everything, names=names, replaced=bad))
    written = f"{len(everything)} x {everything.shape[1]} features of step {run.step}: {out}"
    if bad.any():
        written += f" ({bad.sum()} did not decode: see the array `replaced`)"
    return "\n".join([*_passed_over(run), written])


@dataclasses.dataclass(frozen=True)
class Embedding:
    """A representation of images: how one is prepared, and what maps prepared ones to features."""

    prepare: Callable[[jax.Array], jax.Array]
    """Of one image [H, W, C]."""
    features: Callable[[Any, jax.Array], jax.Array]
    """Of arrays that it may need, and [N, H, W, C] prepared images, to [N, F]."""
    arrays: Any = ()

    @classmethod
    def of_encoder(cls, run: RestoredRun, state: TrainState) -> "Embedding":
        """The features of the run's encoder at that state."""
        method: Method = run.experiment.method
        return cls(
            evaluation_view(run.experiment.views, run.image),
            lambda arrays, images: method.embed(arrays[0], arrays[1], images),
            jax.device_put((state.params, state.method)),
        )

    @classmethod
    def of_pixels(cls, run: RestoredRun) -> "Embedding":
        """The pixels themselves, of images shrunk to 32 x 32 where they are larger."""

        def prepare(image: jax.Array) -> jax.Array:
            image = to_float(image)
            height, width = image.shape[:2]
            if max(height, width) <= _RAW_SIDE:
                return image
            return _centre_square((height, width), (_RAW_SIDE, _RAW_SIDE))(image)

        return cls(prepare, lambda _, images: images.reshape(len(images), -1))

    def __call__(self, images: np.ndarray, batch_size: int) -> np.ndarray:
        """Embeds up to `batch_size` images; fewer are padded, so that one program serves all."""
        padding = [(0, batch_size - len(images)), *[(0, 0)] * (images.ndim - 1)]
        features = self._program(self.arrays, jnp.asarray(np.pad(images, padding)))
        return np.asarray(features)[: len(images)]

    @cached_property
    def _program(self) -> Callable[[Any, jax.Array], jax.Array]:
        return jax.jit(lambda arrays, x: self.features(arrays, jax.vmap(self.prepare)(x)))


def evaluation_view(views: Views, image: jax.ShapeDtypeStruct) -> Callable[[jax.Array], jax.Array]:
    """What an image passes before the encoder when nothing is random.

    The middle of the image at the size of the training views, with their normalization.

    Args:
      views: the training views.
      image: shape and type of a training image.

    Returns:
      A function of one image [H, W, C], of that shape or another.
    """
    _, height, width, _ = view_shapes(views, image)[0].shape
    size = (height, width)
    normalize = [step for step in _flatten(views.views[0]) if isinstance(step, Normalize)]

    def prepare(picture: jax.Array) -> jax.Array:
        picture = to_float(picture)
        if picture.shape[:2] != size:
            picture = _centre_square((picture.shape[0], picture.shape[1]), size)(picture)
        for step in normalize:
            picture = step(jax.random.key(0), picture)
        return picture

    return prepare


def embed_source(
    embeddings: Mapping[str, Embedding], source: Source, batch_size: int
) -> dict[str, np.ndarray]:
    """Features [N, F] of all examples of a source, in order, by each of several embeddings."""
    batch_size = min(batch_size, len(source))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in embeddings}
    for batch in _read_batches(source, batch_size, "embedding"):
        for name, embedding in embeddings.items():
            parts[name].append(embedding(batch["image"], batch_size))
    return {name: np.concatenate(features) for name, features in parts.items()}


def _view_features(
    embeddings: Mapping[str, Embedding], run: RestoredRun, source: Source
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Features of two training views of some test examples, for alignment."""
    count = min(_ALIGNED, len(source))
    images = np.stack([source[record]["image"] for record in range(count)])
    views = run.experiment.views
    draw = jax.jit(lambda x: batch_views(views, jax.random.key(0), x, jnp.arange(count)))
    first, second = draw(images)[:2]
    features = {}
    for name, embedding in embeddings.items():
        program = jax.jit(embedding.features)
        features[name] = (
            np.asarray(program(embedding.arrays, first)),
            np.asarray(program(embedding.arrays, second)),
        )
    return features


def _read_batches(source: Source, batch_size: int, what: str) -> Iterator[dict[str, np.ndarray]]:
    console = Console(stderr=True)
    total = -(-len(source) // batch_size)
    batches = sequential_batches(source, batch_size)
    shown = console.is_terminal and total > 20
    try:
        yield from track(
            batches, what, total=total, console=console, disable=not shown, transient=True
        )
    except ValueError as error:
        raise UserError(f"reading the data: {error}") from error


def _one_picture(path: Path, size: int, channels: int) -> Source:
    try:
        picture = decode(path.read_bytes(), str(path), size=size, channels=channels)
    except UndecodableImage as error:
        raise UserError(str(error)) from error
    return ArraySource(picture[None], names=[path.name])


def _open(config: SourceConfig) -> Source:
    try:
        return config.open()
    except ValueError as error:
        raise UserError(str(error)) from error


def _flatten(transform: Transform) -> list[Transform]:
    inner = getattr(transform, "transforms", None)
    return [transform] if inner is None else [step for part in inner for step in _flatten(part)]


def _centre_square(
    shape: tuple[int, int], size: tuple[int, int]
) -> Callable[[jax.Array], jax.Array]:
    """Resizes the largest middle part of the aspect of `size` to it."""
    height, width = shape
    scale = min(height / size[0], width / size[1])
    box = (round(size[0] * scale), round(size[1] * scale))
    top, left = (height - box[0]) // 2, (width - box[1]) // 2
    return lambda image: resized_crop(image, top, left, *box, size)


def _retrieval(
    representations: dict[str, tuple[np.ndarray, np.ndarray]],
) -> dict[str, dict[str, float]]:
    """From each training example to its partner among the test examples, columns centred."""
    return {
        name: {
            f"recall_at_{k}": share
            for k, share in recall_at_k(train, test, ks=(1, 5), centre="columns").items()
        }
        for name, (train, test) in representations.items()
    }


def _draw_neighbours(
    path: Path, train_source: Source, test_source: Source, train: np.ndarray, test: np.ndarray
) -> None:
    """One row for each of a few test examples, spread evenly over them."""
    if train_source.image_shape[-1] not in (1, 3):
        return
    rows = np.linspace(0, len(test) - 1, min(_SHEET_ROWS, len(test))).astype(int)
    k = min(_SHEET_COLUMNS, len(train))
    found, _ = nearest_neighbours(train, test[rows], k)
    shown = np.unique(found)  # the only training images that are read again
    labels, test_labels = train_source.labels, test_source.labels
    labelled = labels is not None and test_labels is not None
    write_durably(
        path,
        lambda file: neighbour_sheet(
            np.stack([train_source[int(record)]["image"] for record in shown]),
            train[shown],
            np.stack([test_source[int(record)]["image"] for record in rows]),
            test[rows],
            file,
            labels=labels[shown] if labels is not None and labelled else None,
            query_labels=test_labels[rows] if test_labels is not None and labelled else None,
            class_names=train_source.label_names if labelled else None,
            k=k,
            title="Nearest training examples by the trained encoder",
        ),
    )


def _passed_over(run: RestoredRun) -> list[str]:
    return [f"note: passed over a checkpoint: {reason}" for reason in run.passed_over]


def _describe(report: Report, retrieval: dict, run: RestoredRun, files: RunDirectory) -> str:
    lines = [
        *_passed_over(run),
        f"Features after step {run.step}:",
        "",
        report_markdown(report),
    ]
    if retrieval:
        lines += ["", "Pairs found, from training to test examples:"]
        lines += [
            f"  {name}: R@1 {recalls['recall_at_1']:.3f}, R@5 {recalls['recall_at_5']:.3f}"
            for name, recalls in retrieval.items()
        ]
    lines += ["", f"Figures: {files.evaluation}", f"Picture: {files.neighbours}"]
    return "\n".join(lines)
