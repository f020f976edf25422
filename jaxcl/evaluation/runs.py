"""From a run directory to what its encoder is worth: features of any images, and a report."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

from jaxcl.augment import Normalize, Transform, Views, resized_crop, to_float
from jaxcl.data import Arrays, ArraySource, Folder, Source, SourceConfig, sequential_batches
from jaxcl.data.decoding import UndecodableImage, decode
from jaxcl.evaluation.neighbours import neighbour_sheet
from jaxcl.evaluation.report import Report, measure_representations, report_markdown
from jaxcl.evaluation.retrieval import recall_at_k
from jaxcl.methods import Method
from jaxcl.training import (
    RestoredRun,
    RunDirectory,
    TrainState,
    UserError,
    restore_run,
    start_state,
    view_shapes,
)
from jaxcl.training.checkpoints import write_durably

_RAW_SIDE = 32  # raw input is compared at no more than this many pixels a side
_SHEET_ROWS = 10


def evaluate_run(directory: Path) -> str:
    """Measures a run's features beside raw input and the untrained encoder.

    Writes `evaluation.json` and, with test examples, the picture `neighbours.png`.

    Args:
      directory: a run directory with at least one checkpoint.

    Returns:
      The report as text.

    Raises:
      UserError: if the run has no checkpoint, or names no examples to be measured on.
    """
    run = restore_run(directory)
    settings = run.experiment.evaluate
    if settings is None or settings.test is None:
        raise UserError(
            f"{directory} names no test examples: set evaluate.test in its config and resume with "
            f"the config, as in: jaxcl train CONFIG --out {directory}"
        )
    train_source = _open(settings.train or run.experiment.data)
    test_source = _open(settings.test)
    train_images, test_images = (
        read_images(source, settings.batch_size) for source in (train_source, test_source)
    )
    untrained = start_state(run.experiment, run.image)
    representations = {}
    for name, embed in (
        ("raw input", raw_embedding()),
        ("untrained encoder", encoder_embedding(run, untrained)),
        ("trained encoder", encoder_embedding(run, run.state)),
    ):
        parts = (train_images, test_images)
        train, test = (embed_all(embed, part, settings.batch_size, name) for part in parts)
        representations[name] = (train, test)
    try:
        report = measure_representations(
            representations,
            train_source.labels,
            test_source.labels,
            k=min(settings.neighbours, len(train_source)),
            temperature=settings.temperature,
            labels_per_class=settings.labels_per_class,
        )
        retrieval = _retrieval(representations) if settings.paired else {}
    except ValueError as error:
        raise UserError(f"cannot evaluate {directory}: {error}") from error
    files = RunDirectory(directory)
    document = {"step": run.step, "retrieval": retrieval, **report.as_dict()}
    write_durably(files.evaluation, json.dumps(document, indent=2) + "\n")
    _draw_neighbours(
        files.neighbours, train_source, train_images, test_source, test_images, representations
    )
    return _describe(report, retrieval, run, files)


def embed_run(
    directory: Path, source: Path, out: Path, *, batch_size: int = 256, array: str = "image"
) -> str:
    """Writes the features of images to an .npz file: `features` [N, F] and `names` [N].

    Args:
      directory: a run directory with at least one checkpoint.
      source: a folder of images, one image, or an .npz file.
      out: where to write.
      batch_size: images at once.
      array: name of the images in an .npz file.

    Returns:
      What was written, in words.

    Raises:
      UserError: if images cannot be read, or do not fit the encoder.
    """
    if out.suffix != ".npz":
        raise UserError(f"--out is {out}: give a file name that ends in .npz")
    run = restore_run(directory)
    height, width, channels = run.image.shape
    if not source.exists():
        raise UserError(f"{source} does not exist: give a folder of images, an image, or an .npz")
    if source.suffix == ".npz":
        opened = _open(Arrays(str(source), image=array))
    elif source.is_file():
        opened = _one_picture(source, min(height, width), channels)
    else:
        size = min(height, width)
        opened = _open(Folder(str(source), size=size, channels=1 if channels == 1 else 3))
    if opened.image_shape[-1] != channels:
        raise UserError(
            f"{source} holds images of {opened.image_shape[-1]} channels; the run was trained on "
            f"{channels}"
        )
    embed = encoder_embedding(run, run.state)
    features, replaced = [], 0
    for images, bad in _read_batches(opened, batch_size, "embedding"):
        features.append(embed_all(embed, images, batch_size))
        replaced += bad
    everything = np.concatenate(features)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".writing.npz")
    np.savez(temporary, features=everything, names=np.array(list(opened.names)))
    temporary.replace(out)
    written = f"{len(everything)} x {everything.shape[1]} features of step {run.step}: {out}"
    if replaced:
        written += f" ({replaced} images did not decode; their rows repeat another's)"
    return written


def encoder_embedding(run: RestoredRun, state: TrainState) -> Callable[[jax.Array], jax.Array]:
    """[N, H, W, C] images to the features of the run's encoder at that state."""
    prepare = evaluation_view(run.experiment.views, run.image)
    method: Method = run.experiment.method
    params, method_state = jax.device_put((state.params, state.method))

    @jax.jit
    def embed(images: jax.Array) -> jax.Array:
        return method.embed(params, method_state, jax.vmap(prepare)(images))

    return embed


def raw_embedding() -> Callable[[jax.Array], jax.Array]:
    """[N, H, W, C] images to their pixels, at 32 x 32 where they are larger."""

    @jax.jit
    def embed(images: jax.Array) -> jax.Array:
        height, width = images.shape[1:3]
        if max(height, width) > _RAW_SIDE:
            shrink = _centre_square((height, width), (_RAW_SIDE, _RAW_SIDE))
            images = jax.vmap(lambda image: shrink(to_float(image)))(images)
        else:
            images = to_float(images)
        return images.reshape(len(images), -1)

    return embed


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


def embed_all(
    embed: Callable[[jax.Array], jax.Array],
    images: np.ndarray,
    batch_size: int,
    what: str | None = None,
) -> np.ndarray:
    """Embeds images in batches of one shape, so that one program serves all."""
    batch_size = min(batch_size, len(images))
    starts = range(0, len(images), batch_size)
    console = Console(stderr=True)
    shown = what is not None and console.is_terminal and len(starts) > 20
    features = []
    for start in track(starts, what or "", console=console, disable=not shown, transient=True):
        batch = images[start : start + batch_size]
        padding = [(0, batch_size - len(batch)), *[(0, 0)] * (images.ndim - 1)]
        features.append(np.asarray(embed(jnp.asarray(np.pad(batch, padding))))[: len(batch)])
    return np.concatenate(features)


def read_images(source: Source, batch_size: int) -> np.ndarray:
    """All images of a source, in order, [N, H, W, C]."""
    return np.concatenate([images for images, _ in _read_batches(source, batch_size, "reading")])


def _read_batches(source: Source, batch_size: int, what: str) -> Iterator[tuple[np.ndarray, int]]:
    console = Console(stderr=True)
    total = -(-len(source) // batch_size)
    batches = sequential_batches(source, batch_size)
    shown = console.is_terminal and total > 20
    try:
        for batch in track(
            batches, what, total=total, console=console, disable=not shown, transient=True
        ):
            yield batch["image"], int(batch["replaced"].sum())
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
    path: Path,
    train_source: Source,
    train_images: np.ndarray,
    test_source: Source,
    test_images: np.ndarray,
    representations: dict[str, tuple[np.ndarray, np.ndarray]],
) -> None:
    """One row for each of a few test examples, spread evenly over them."""
    if train_images.shape[-1] not in (1, 3):
        return
    train, test = representations["trained encoder"]
    rows = np.linspace(0, len(test) - 1, min(_SHEET_ROWS, len(test))).astype(int)
    labels, test_labels = train_source.labels, test_source.labels
    labelled = labels is not None and test_labels is not None
    neighbour_sheet(
        train_images,
        train,
        test_images[rows],
        test[rows],
        path,
        labels=labels if labelled else None,
        query_labels=test_labels[rows] if test_labels is not None and labelled else None,
        class_names=train_source.label_names if labelled else None,
        k=min(8, len(train)),
        title="Nearest training examples by the trained encoder",
    )


def _describe(report: Report, retrieval: dict, run: RestoredRun, files: RunDirectory) -> str:
    lines = [f"Features after step {run.step}:", "", report_markdown(report)]
    if retrieval:
        lines += ["", "Pairs found, from training to test examples:"]
        lines += [
            f"  {name}: R@1 {recalls['recall_at_1']:.3f}, R@5 {recalls['recall_at_5']:.3f}"
            for name, recalls in retrieval.items()
        ]
    lines += ["", f"Figures: {files.evaluation}", f"Picture: {files.neighbours}"]
    return "\n".join(lines)
