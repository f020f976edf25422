"""From a run directory to what its encoder is worth: features of any images, and a report."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import methodcaller
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

from jaxcl.augment import Views, batch_views
from jaxcl.data import Source, SourceConfig
from jaxcl.data.source import image_shape, opened_once
from jaxcl.encoders import OnSpectrogram
from jaxcl.evaluation.embedding import Embedding, embed_source
from jaxcl.evaluation.fields import (
    NotCounted,
    counted_fields,
    encoded_fields,
    mean_spectra,
    raw_fields,
)
from jaxcl.evaluation.knn import knn_accuracy, knn_classify, nearest_neighbours
from jaxcl.evaluation.linear import fit_linear, linear_probe
from jaxcl.evaluation.neighbours import neighbour_sheet
from jaxcl.evaluation.report import (
    Report,
    Scores,
    markdown_table,
    measure_representations,
    report_markdown,
)
from jaxcl.evaluation.retrieval import recall_at_k
from jaxcl.evaluation.robustness import (
    Classify,
    Robustness,
    check_severities,
    measure_robustness,
)
from jaxcl.evaluation.tracking import track_evaluation
from jaxcl.evaluation.whitening import fit_whitening
from jaxcl.extras import MissingExtra
from jaxcl.training import (
    Evaluate,
    Experiment,
    FieldFeatures,
    RestoredRun,
    RunDirectory,
    UserError,
    restore_run,
    start_state,
)
from jaxcl.training.durable_files import check_writable, write_durably

_SHEET_ROWS, _SHEET_COLUMNS = 10, 8
_ALIGNED, _DRAWS = 512, 5  # test examples whose views are compared, and pairs of views of each
_CORRUPTED = 2000  # test examples that are corrupted, at most: in up to 70 ways each
_CLASSIFIERS = {"knn": "kNN", "linear": "linear"}

Accuracies = dict[str, dict[str, float]]
"""By representation and classifier."""


def evaluate_run(
    directory: Path, experiment: Experiment | None = None, *, severities: Sequence[int] = ()
) -> str:
    """Measures a run's features beside raw input and the untrained encoder, and its tasks.

    Writes `evaluation.json` and the picture `neighbours.png`, and of tasks `tasks.json`.

    Args:
      directory: a run directory with at least one checkpoint.
      experiment: as in `restore_run`; what its `evaluate` names is measured.
      severities: those, 1 to 5, at which test images are corrupted too; none: they are not.

    Returns:
      The report as text.

    Raises:
      UserError: if the run has no checkpoint, or names no examples to be measured on, or these lack
        labels that are needed.
      OSError: if the directory cannot be written.
    """
    run = restore_run(directory, experiment)
    check_writable(directory)
    try:
        return _evaluate(run, directory, severities)
    except (ValueError, MissingExtra) as error:
        raise UserError(f"cannot evaluate {directory}: {error}") from error


def _evaluate(run: RestoredRun, directory: Path, severities: Sequence[int]) -> str:
    experiment = run.experiment
    if not experiment.tasks:
        text = _evaluate_by_labels(run, directory, severities)
        track_evaluation(run, directory)
        return text
    parts = []
    if experiment.evaluate is not None:
        parts.append(_evaluate_by_labels(run, directory, severities))
    else:
        parts += _passed_over(run)
    figures = _measure_tasks(run)
    path = RunDirectory(directory).tasks
    write_durably(path, json.dumps({"step": run.step, "tasks": figures}, indent=2) + "\n")
    track_evaluation(run, directory)
    parts += [_describe_task(name, found) for name, found in figures.items()]
    return "\n\n".join([*parts, f"Figures of tasks: {path}"])


def _measure_tasks(run: RestoredRun) -> dict[str, dict[str, dict[str, float]]]:
    """Figures by task, representation and name."""
    for changed in RunDirectory(run.directory).changed_tokenizers(run.experiment):
        raise UserError(f"{changed}: its tasks would read other tokens; put that one back")
    representations: dict[str, FieldFeatures] = {"raw input": raw_fields}
    texts = tuple(name for name, one in run.inputs.items() if one.dtype == np.int32)
    if texts:
        representations["counted tokens (TF-IDF)"] = counted_fields(
            _open(run.experiment.data), texts
        )
    fronts = [
        network.front
        for network in run.experiment.method.networks.values()
        if isinstance(network, OnSpectrogram)
    ]
    if fronts:
        representations["mean log-mel"] = mean_spectra(fronts[0])
    before = "as given" if run.experiment.start else "untrained"
    representations[f"{before} encoder"] = encoded_fields(
        run, start_state(run.experiment, run.inputs)
    )
    representations["trained encoder"] = encoded_fields(run, run.state)
    figures: dict[str, dict[str, dict[str, float]]] = {}
    with opened_once():
        for task in run.experiment.tasks:
            figures[task.name] = {}
            for name, features in representations.items():
                try:
                    figures[task.name][name] = task.measure(features)
                except ValueError as error:
                    # Of an image no tokens are counted, and pixels of two sizes are not compared.
                    if features is not raw_fields and not isinstance(error, NotCounted):
                        raise
    return figures


def _describe_task(name: str, found: Mapping[str, Mapping[str, float]]) -> str:
    figures = list(next(iter(found.values())))
    rows = [[figure, *(f"{values[figure]:.3f}" for values in found.values())] for figure in figures]
    return f"{name}:\n\n{markdown_table(['', *found], rows)}"


def _evaluate_by_labels(run: RestoredRun, directory: Path, severities: Sequence[int]) -> str:
    settings, train_source, test_source = open_parts(run, directory)
    if severities:
        check_severities(severities)
        for part, source in {"train": train_source, "test": test_source}.items():
            if source.labels is None:
                raise UserError(f"--corruptions needs labels, and evaluate.{part} has none")
    transfers = _open_transfers(run, settings)
    encoders = {
        "raw input": Embedding.of_pixels(),
        "untrained encoder": Embedding.of_encoder(run, start_state(run.experiment, run.inputs)),
        "trained encoder": Embedding.of_encoder(run, run.state),
    }
    train = embed_source(encoders, train_source, settings.batch_size)
    test = embed_source(encoders, test_source, settings.batch_size)
    representations = {name: (train[name], test[name]) for name in encoders}
    report = measure_representations(
        representations,
        train_source.labels,
        test_source.labels,
        views=_view_features(encoders, run, test_source),
        k=min(settings.neighbours, len(train_source)),
        temperature=settings.temperature,
        weights=settings.weights,
        whiten=settings.whiten,
        labels_per_class=settings.labels_per_class,
    )
    retrieval = _retrieval(representations, settings.whiten) if settings.paired else {}
    robustness = (
        _robustness(encoders, settings, report, train, train_source, test_source, severities)
        if severities
        else {}
    )
    transferred = {
        name: _transferred(encoders, settings, *sources) for name, sources in transfers.items()
    }
    files = RunDirectory(directory)
    document = {
        "step": run.step,
        "whiten": settings.whiten,
        "retrieval": retrieval,
        **report.as_dict(),
        "transfer": transferred,
        "corruptions": {
            name: {kind: found.as_dict() for kind, found in kinds.items()}
            for name, kinds in robustness.items()
        },
    }
    write_durably(files.evaluation, json.dumps(document, indent=2) + "\n")
    _draw_neighbours(
        files.neighbours, train_source, test_source, *representations["trained encoder"]
    )
    parts = [
        *_passed_over(run),
        f"Features after step {run.step}:\n\n{report_markdown(report)}",
        *([_describe_retrieval(retrieval)] if retrieval else []),
        *([_describe_transfer(transferred)] if transferred else []),
        *([_describe_robustness(robustness, len(test_source))] if robustness else []),
        f"Figures: {files.evaluation}\nPicture: {files.neighbours}",
    ]
    return "\n\n".join(parts)


def open_parts(run: RestoredRun, directory: Path) -> tuple[Evaluate, Source, Source]:
    """What is measured of a run, the examples to fit on, and those to be scored on.

    Raises:
      UserError: where they cannot be read, or there are none to be scored on.
    """
    settings = run.experiment.evaluate
    if settings is None or settings.test is None:
        raise UserError(
            f"{directory} names no test examples: set evaluate.test in its config and resume with "
            f"the config, as in: jaxcl train CONFIG --out {directory}"
        )
    return settings, _open(settings.train or run.experiment.data), _open(settings.test)


def _open_transfers(run: RestoredRun, settings: Evaluate) -> dict[str, tuple[Source, Source]]:
    """Data sets by name; all are opened, and what does not fit said, before one is measured."""
    opened = {transfer.name: transfer.open() for transfer in settings.transfer}
    channels = run.image.shape[-1]
    for name, sources in opened.items():
        for source in sources:
            found = image_shape(source)[-1]
            if found != channels and {found, channels} != {1, 3}:
                raise UserError(
                    f"evaluate.transfer {name!r} holds images of {found} channels, the run was "
                    f"trained on {channels}: only grey and RGB become each other"
                )
    return opened


def _transferred(
    encoders: Mapping[str, Embedding], settings: Evaluate, train_source: Source, test_source: Source
) -> Accuracies:
    """Accuracies on other data, as on the run's own."""
    train = embed_source(encoders, train_source, settings.batch_size)
    test = embed_source(encoders, test_source, settings.batch_size)
    labels, truth = np.asarray(train_source.labels), np.asarray(test_source.labels)
    found = {}
    for name in encoders:
        parts = train[name], labels, test[name], truth
        found[name] = {
            "knn": knn_accuracy(
                *parts,
                k=min(settings.neighbours, len(train_source)),
                temperature=settings.temperature,
                weights=settings.weights,
            ),
            "linear": linear_probe(*parts).accuracy,
        }
    return found


def _robustness(
    encoders: Mapping[str, Embedding],
    settings: Evaluate,
    report: Report,
    train: Mapping[str, np.ndarray],
    train_source: Source,
    test_source: Source,
    severities: Sequence[int],
) -> dict[str, dict[str, Robustness]]:
    """Classifiers of clean training features on corrupted test images, evenly spread over them."""
    chosen = np.linspace(0, len(test_source) - 1, min(_CORRUPTED, len(test_source))).astype(int)
    images = np.stack([test_source[int(record)]["image"] for record in chosen])
    labels, truth = np.asarray(train_source.labels), np.asarray(test_source.labels)[chosen]

    def classifiers(name: str, scores: Scores) -> dict[str, Classify]:
        assert scores.linear is not None  # there are labels
        vote = partial(
            knn_classify,
            train[name],
            labels,
            k=report.k,
            temperature=settings.temperature,
            weights=settings.weights,
        )
        return {"knn": vote, "linear": fit_linear(train[name], labels, l2=scores.linear.l2).predict}

    return measure_robustness(
        {
            name: partial(encoder, batch_size=min(settings.batch_size, len(images)))
            for name, encoder in encoders.items()
        },
        {name: classifiers(name, scores) for name, scores in report.scores.items()},
        images,
        truth,
        severities=severities,
        batch_size=settings.batch_size,
        progress=partial(
            track, description="corrupting", console=Console(stderr=True), transient=True
        ),
    )


def _view_features(
    embeddings: Mapping[str, Embedding], run: RestoredRun, source: Source
) -> dict[str, list[np.ndarray]]:
    """Features of training views of some test examples, full-size ones: for alignment and LiDAR."""
    count = min(_ALIGNED, len(source))
    images = np.stack([source[record]["image"] for record in range(count)])
    recipe = run.experiment.views.of_field(run.image_field)
    if len(recipe.views) == 1:  # of several modalities: two draws of the one
        recipe = Views(recipe.views * 2)
    draw = jax.jit(lambda key, x: batch_views(recipe, key, x, jnp.arange(count))[:2])
    programs = {name: jax.jit(embedding.features) for name, embedding in embeddings.items()}
    features: dict[str, list[np.ndarray]] = {name: [] for name in embeddings}
    for number in range(_DRAWS):
        for view in draw(jax.random.key(number), images):
            for name, embedding in embeddings.items():
                features[name].append(np.asarray(programs[name](embedding.arrays, view)))
    return features


def _open(config: SourceConfig) -> Source:
    try:
        return config.open()
    except ValueError as error:
        raise UserError(str(error)) from error


def _retrieval(
    representations: dict[str, tuple[np.ndarray, np.ndarray]], whiten: int | None
) -> dict[str, dict[str, float]]:
    """From each training example to its partner among the test examples, columns centred."""
    found = {}
    for name, (train, test) in representations.items():
        recalls = recall_at_k(train, test, ks=(1, 5), centre="columns")
        found[name] = {f"recall_at_{k}": share for k, share in recalls.items()}
        if whiten is not None:
            whitening = fit_whitening(train, whiten)
            recalls = recall_at_k(whitening(train), whitening(test), ks=(1, 5), centre="columns")
            found[name] |= {f"whitened_recall_at_{k}": share for k, share in recalls.items()}
    return found


def _draw_neighbours(
    path: Path, train_source: Source, test_source: Source, train: np.ndarray, test: np.ndarray
) -> None:
    """One row for each of a few test examples, spread evenly over them."""
    if image_shape(train_source)[-1] not in (1, 3):
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


def _describe_retrieval(retrieval: Mapping[str, Mapping[str, float]]) -> str:
    lines = []
    for name, recalls in retrieval.items():
        lines.append(
            f"  {name}: R@1 {recalls['recall_at_1']:.3f}, R@5 {recalls['recall_at_5']:.3f}"
        )
        if "whitened_recall_at_1" in recalls:
            lines[-1] += (
                f"; whitened {recalls['whitened_recall_at_1']:.3f}, "
                f"{recalls['whitened_recall_at_5']:.3f}"
            )
    return "\n".join(["Pairs found, from training to test examples:", *lines])


def _describe_transfer(transferred: Mapping[str, Accuracies]) -> str:
    return (
        "Frozen features on other data, accuracy in % on their test parts:\n\n"
        + _accuracy_table("data", transferred)
    )


def _describe_robustness(robustness: Mapping[str, Mapping[str, Robustness]], tested: int) -> str:
    def accuracies(of: Callable[[Robustness], float]) -> Accuracies:
        return {
            name: {kind: of(found) for kind, found in kinds.items()}
            for name, kinds in robustness.items()
        }

    some = next(iter(next(iter(robustness.values())).values()))
    levels = ", ".join(map(str, next(iter(some.corrupted.values()))))
    rows = {
        "clean": accuracies(lambda found: found.clean),
        **{name: accuracies(methodcaller("of", name)) for name in some.corrupted},
        "mean": accuracies(lambda found: found.mean),
        "mean, % of clean": accuracies(lambda found: found.relative),
    }
    return (
        f"{min(tested, _CORRUPTED):,} test images corrupted, classifiers fitted on clean ones, "
        f"accuracy in % (severity {levels}: the mean):\n\n" + _accuracy_table("corruption", rows)
    )


def _accuracy_table(what: str, rows: Mapping[str, Accuracies]) -> str:
    """A row for each name, a column for each classifier of each representation."""
    representations = list(next(iter(rows.values())))
    headers = [
        f"{title} {name.split()[0]}" for title in _CLASSIFIERS.values() for name in representations
    ]
    cells = [
        [row, *(f"{100 * found[name][kind]:.1f}" for kind in _CLASSIFIERS for name in found)]
        for row, found in rows.items()
    ]
    return markdown_table([what, *headers], cells)
