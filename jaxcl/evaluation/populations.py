"""The report of a population: a row a member, and their curves."""

import io
import json
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxcl.evaluation.runs import evaluate_run
from jaxcl.training.checkpoints import Checkpoints
from jaxcl.training.durable_files import write_durably
from jaxcl.training.observers import Row, read_metrics
from jaxcl.training.population import Population
from jaxcl.training.population_loop import PopulationDirectory
from jaxcl.training.run_directory import RunDirectory

_LAST_ROWS = 5
_COLUMNS = ("loss", "accuracy", "positive_similarity", "effective_rank", "knn", "linear")


def report_population(population: Population, directory: Path) -> str:
    """Measures every member, and writes population.json and the curves, population.png.

    Args:
      population: what was trained.
      directory: where `train_population` left it.

    Returns:
      A table as text: value, means of the last five logged rows, and the accuracy of nearest
      neighbours and a linear probe where the experiment names test examples. A member that
      diverged before its first checkpoint has no such accuracy.

    Raises:
      UserError: if a member cannot be evaluated.
      OSError: if files cannot be written.
    """
    folder = PopulationDirectory(directory)
    figures, curves = [], []
    for number, value in enumerate(population.values):
        files = folder.member(number)
        rows = read_metrics(files.metrics)
        figures.append({"value": value, **_last(rows), **_scores(population, files.path)})
        curves.append(
            {"step": [row["step"] for row in rows], "loss": [row["loss"] for row in rows]}
        )
    document = {
        "field": population.field,
        "values": list(population.values),
        "figures": figures,
        "curves": curves,
    }
    write_durably(folder.document, json.dumps(document) + "\n")
    write_durably(folder.curves, _draw(population, curves))
    return f"{_table(population.field, figures)}\ncurves: {folder.curves}"


def _last(rows: list[Row]) -> dict[str, float]:
    """Means of the last rows, of what the method reports."""
    last = rows[-_LAST_ROWS:]
    names = [name for name in _COLUMNS if last and all(name in row for row in last)]
    return {name: float(np.mean([row[name] for row in last])) for name in names}


def _scores(population: Population, directory: Path) -> dict[str, float]:
    trained = Checkpoints(RunDirectory(directory).checkpoints).steps()
    if population.experiment.evaluate is None or not trained:
        return {}
    evaluate_run(directory)
    scores = json.loads((directory / "evaluation.json").read_text())["scores"]["trained encoder"]
    linear = scores["linear"]
    found = {"knn": scores["knn"], "linear": linear["accuracy"] if linear else None}
    return {name: score for name, score in found.items() if score is not None}


def _table(field: str, figures: list[dict[str, Any]]) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    columns = [name for name in _COLUMNS if any(name in row for row in figures)]
    shares = {"accuracy", "knn", "linear"}
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("member", field, *columns):
        unit = ", %" if name in shares else ""
        table.add_column(name.replace("_", " ") + unit, justify="right", no_wrap=True)
    for number, row in enumerate(figures):
        cells = [
            f"{row[name] * (100 if name in shares else 1):.{1 if name in shares else 3}f}"
            if name in row
            else "-"
            for name in columns
        ]
        table.add_row(str(number), f"{row['value']:g}", *cells)
    text = io.StringIO()
    Console(file=text, width=120).print(table)
    return text.getvalue().strip("\n")


def _draw(population: Population, curves: list[dict[str, list[float]]]) -> Any:
    """Loss against step, a line a member."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for value, curve in zip(population.values, curves, strict=True):
        axes.plot(curve["step"], curve["loss"], label=f"{value:g}")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend(title=population.field)
    axes.spines[["top", "right"]].set_visible(False)

    def write(file: BinaryIO) -> None:
        figure.savefig(file, format="png", dpi=120, bbox_inches="tight")

    return write
