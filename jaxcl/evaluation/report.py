"""All measures of several representations side by side, as data and as a table."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jax.typing import ArrayLike

from jaxcl.evaluation.clustering import Clustering, clustering
from jaxcl.evaluation.few_labels import FewLabels, label_efficiency
from jaxcl.evaluation.geometry import alignment, effective_rank, lidar, rankme, spread, uniformity
from jaxcl.evaluation.knn import Weights, knn_accuracy
from jaxcl.evaluation.linear import L2_GRID, LinearProbe, linear_probe
from jaxcl.evaluation.retrieval import mean_average_precision_at_r
from jaxcl.evaluation.validation import as_features, as_labels
from jaxcl.evaluation.whitening import fit_whitening

if TYPE_CHECKING:
    from rich.console import Group

_CLUSTERED = 10_000  # test examples, at most: k-means of more takes longer than all the rest
_LIDAR_WIDTH = 4096  # at most: it decomposes matrices of width x width, which pixels may exceed
_ABSENT = "-"  # a cell of the table that was not measured
COLLAPSED_BELOW = 0.01  # of `spread`; features spread evenly have 1


@dataclasses.dataclass(frozen=True)
class Scores:
    """One representation, measured. Accuracies are shares of the test part; None: not measured."""

    width: int
    knn: float | None
    whitened_knn: float | None
    linear: LinearProbe | None
    few_labels: tuple[FewLabels, ...]
    map_at_r: float | None
    nmi: float | None
    ari: float | None
    alignment: float | None
    uniformity: float | None
    rankme: float
    lidar: float | None
    effective_rank: float
    spread: float

    @property
    def collapsed(self) -> bool:
        """Whether all examples point in nearly one direction."""
        return self.spread < COLLAPSED_BELOW


@dataclasses.dataclass(frozen=True)
class Report:
    """Several representations of the same examples, by name, in the order given."""

    scores: dict[str, Scores]
    train_examples: int
    test_examples: int
    k: int
    seed: int

    def as_dict(self) -> dict[str, object]:
        """Everything as dicts, lists and numbers, as `json.dumps` takes them."""
        return dataclasses.asdict(self)


def measure_representations(
    representations: Mapping[str, tuple[ArrayLike, ArrayLike]],
    train_labels: ArrayLike | None = None,
    test_labels: ArrayLike | None = None,
    *,
    views: Mapping[str, Sequence[ArrayLike]] | None = None,
    k: int = 20,
    temperature: float = 0.07,
    weights: Weights = "distance",
    whiten: int | None = None,
    l2: float | Sequence[float] = L2_GRID,
    labels_per_class: Sequence[int] = (1, 5, 10),
    draws: int = 10,
    seed: int = 0,
) -> Report:
    """Runs every measure that the input allows on every representation.

    Args:
      representations: name to (training features [N, D], test features [M, D]); D may differ. The
        habit worth keeping: "raw input", "untrained encoder", "trained encoder".
      train_labels: [N] int >= 0, or None: geometry only.
      test_labels: [M] int >= 0, or None with `train_labels`.
      views: name to features of two or more views of the same examples, each [V, D]: for LiDAR, and
        of the first two the alignment.
      k: neighbours of `knn_accuracy`.
      temperature: of `knn_accuracy`.
      weights: of `knn_accuracy`.
      whiten: directions of `fit_whitening`, fitted on the training features, for `knn_accuracy` of
        whitened features too; None: leave it out.
      l2: of `linear_probe`.
      labels_per_class: of `label_efficiency`.
      draws: of `label_efficiency`.
      seed: of all that draws.

    Returns:
      The report. Retrieval, clusters (of at most 10,000, evenly spread) and geometry are those of
      the test features; no LiDAR above a width of 4096.

    Raises:
      ValueError: if one kind of labels lacks, names or sizes do not fit, or a measure refuses its
        input; the message names the representation.
    """
    if not representations:
        raise ValueError("representations is empty, expected a name and features for at least one")
    if (train_labels is None) != (test_labels is None):
        lacking = "train_labels" if train_labels is None else "test_labels"
        raise ValueError(
            f"{lacking} is None: accuracies need labels of both parts. Give both, or neither for "
            "the measures that need none"
        )
    unknown = set(views or ()) - set(representations)
    if unknown:
        raise ValueError(f"views names {sorted(unknown)}, which representations does not")

    sizes = {
        name: np.shape(train)[:1] + np.shape(test)[:1]
        for name, (train, test) in representations.items()
    }
    if len(set(sizes.values())) > 1:
        raise ValueError(
            "representations differ in their numbers of (training, test) examples: "
            + ", ".join(f"{name} {size}" for name, size in sizes.items())
        )
    train_examples, test_examples = next(iter(sizes.values()))
    if train_labels is not None:
        train_labels = as_labels("train_labels", train_labels, train_examples)
        test_labels = as_labels("test_labels", test_labels, test_examples)

    scores = {}
    for name, (train, test) in representations.items():
        try:
            scores[name] = _measure(
                train,
                test,
                train_labels,
                test_labels,
                views=(views or {}).get(name),
                k=k,
                temperature=temperature,
                weights=weights,
                whiten=whiten,
                l2=l2,
                labels_per_class=labels_per_class,
                draws=draws,
                seed=seed,
            )
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return Report(scores, train_examples, test_examples, k, seed)


def _measure(
    train: ArrayLike,
    test: ArrayLike,
    train_labels: ArrayLike | None,
    test_labels: ArrayLike | None,
    *,
    views: Sequence[ArrayLike] | None,
    k: int,
    temperature: float,
    weights: Weights,
    whiten: int | None,
    l2: float | Sequence[float],
    labels_per_class: Sequence[int],
    draws: int,
    seed: int,
) -> Scores:
    train = as_features("training features", train)
    test = as_features("test features", test, width=train.shape[1])
    knn: float | None = None
    whitened_knn: float | None = None
    linear: LinearProbe | None = None
    few: tuple[FewLabels, ...] = ()
    precision: float | None = None
    clusters: Clustering | None = None
    if train_labels is not None and test_labels is not None:
        parts = train, train_labels, test, test_labels
        vote = partial(knn_accuracy, k=k, temperature=temperature, weights=weights)
        knn = vote(*parts)
        if whiten is not None:
            whitening = fit_whitening(train, whiten)
            whitened_knn = vote(whitening(train), train_labels, whitening(test), test_labels)
        linear = linear_probe(*parts, l2=l2, seed=seed)
        few = label_efficiency(*parts, labels_per_class=labels_per_class, draws=draws, seed=seed)
        classes = np.asarray(test_labels)
        if np.unique(classes, return_counts=True)[1].max() > 1:
            precision = mean_average_precision_at_r(test, classes)
        some = np.linspace(0, len(test) - 1, min(len(test), _CLUSTERED)).astype(int)
        clusters = clustering(test[some], classes[some], restarts=3, seed=seed)
    return Scores(
        width=test.shape[1],
        knn=knn,
        whitened_knn=whitened_knn,
        linear=linear,
        few_labels=few,
        map_at_r=precision,
        nmi=None if clusters is None else clusters.nmi,
        ari=None if clusters is None else clusters.ari,
        alignment=None if views is None else alignment(*views[:2]),
        uniformity=uniformity(test) if len(test) > 1 else None,
        rankme=rankme(test),
        lidar=lidar(np.stack(views, axis=1))
        if views is not None and test.shape[1] <= _LIDAR_WIDTH
        else None,
        effective_rank=effective_rank(test),
        spread=spread(test),
    )


def report_cells(report: Report) -> list[tuple[list[str], list[list[str]]]]:
    """Headers and rows of the report's tables, as text: accuracies, and how features lie.

    Args:
      report: from `measure_representations`.

    Returns:
      (headers, rows) of each table, rows in the report's order. A column that no representation has
      is left out, and so is a table without columns.
    """
    counts = [few.labels_per_class for few in next(iter(report.scores.values())).few_labels]
    accuracies = ["kNN", "kNN whitened", "linear"]
    accuracies += [f"{count} label{'s'[: count != 1]}" for count in counts]
    structure = ["mAP@R", "NMI", "ARI", "alignment", "uniformity", "RankMe", "LiDAR"]
    names = [
        name + (" (collapsed)" if score.collapsed else "") for name, score in report.scores.items()
    ]
    columns = [
        (
            accuracies,
            [
                [
                    _percent(score.knn),
                    _percent(score.whitened_knn),
                    _linear(score.linear),
                    *(f"{100 * few.mean:.1f}±{100 * few.std:.1f}" for few in score.few_labels),
                ]
                for score in report.scores.values()
            ],
        ),
        (
            structure,
            [
                [
                    _percent(score.map_at_r),
                    _decimal(score.nmi, 3),
                    _decimal(score.ari, 3),
                    _decimal(score.alignment, 3),
                    _decimal(score.uniformity, 3),
                    f"{score.rankme:.1f}/{score.width}",
                    _decimal(score.lidar, 1),
                ]
                for score in report.scores.values()
            ],
        ),
    ]
    tables = []
    for headers, rows in columns:
        kept = [i for i in range(len(headers)) if any(row[i] != _ABSENT for row in rows)]
        if kept:
            cells = [[name, *(row[i] for i in kept)] for name, row in zip(names, rows, strict=True)]
            tables.append((["representation", *(headers[i] for i in kept)], cells))
    return tables


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that also reads well as plain text: names to the left, figures to the right.

    Args:
      headers: of the columns.
      rows: cells, as many as there are headers.

    Returns:
      Lines joined by newlines, the last without one.

    Example:
      >>> print(markdown_table(["name", "kNN"], [["pixels", "9.5"]]))
      | name   | kNN |
      |--------|----:|
      | pixels | 9.5 |
    """
    widths = [max(len(line[i]) for line in [headers, *rows]) for i in range(len(headers))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(c.rjust(w) for c, w in rest)]) + " |"

    rule = "|" + "|".join(
        "-" * (width + 2) if i == 0 else "-" * (width + 1) + ":" for i, width in enumerate(widths)
    )
    return "\n".join([line(headers), rule + "|", *(line(row) for row in rows)])


def report_markdown(report: Report) -> str:
    """The report as Markdown tables that also read well as plain text.

    Args:
      report: from `measure_representations`.

    Returns:
      Lines joined by newlines, the last without one.
    """
    tables = [markdown_table(*cells) for cells in report_cells(report)]
    return "\n\n".join([*tables, _caption(report)])


def report_table(report: Report) -> "Group":
    """The report as rich tables, for a terminal.

    Args:
      report: from `measure_representations`.

    Returns:
      What `rich.console.Console().print` takes.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table

    tables = []
    for headers, rows in report_cells(report):
        table = Table(box=box.SIMPLE_HEAD)
        for i, header in enumerate(headers):
            table.add_column(header, justify="right" if i else "left", no_wrap=i > 0)
        for row in rows:
            table.add_row(*row)
        tables.append(table)
    return Group(*tables, _caption(report))


def _percent(share: float | None) -> str:
    return _ABSENT if share is None else f"{100 * share:.1f}"


def _linear(probe: LinearProbe | None) -> str:
    if probe is None:
        return _ABSENT
    return _percent(probe.accuracy) + ("" if probe.converged else " (not converged)")


def _decimal(value: float | None, digits: int) -> str:
    return _ABSENT if value is None else f"{value:.{digits}f}"


def _caption(report: Report) -> str:
    sizes = f"{report.train_examples:,} training and {report.test_examples:,} test examples"
    if next(iter(report.scores.values())).knn is None:
        return f"{sizes}, no labels."
    return (
        f"Accuracy in % on the test part: {report.k} nearest neighbours, linear probe, nearest "
        "class mean of a few labels a class (±: between draws). mAP@R (%), NMI and ARI (k-means): "
        f"classes among the test features alone. {sizes}."
    )
