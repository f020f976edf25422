"""What longer training buys: one experiment at several numbers of epochs, with curves.

    python benchmarks/budgets.py configs/quickstart.py --epochs 5 20 60
    python benchmarks/budgets.py configs/emoji_best.py --epochs 10 100 1000 --out runs/emoji_best

Each budget is a run of its own, with its own schedule, trained and evaluated as `jaxcl train` does,
in OUT/EPOCHS; what was trained before is not trained again. Printed are the trained encoder's
figures beside those of raw input; OUT/budgets.png draws them over the minutes of training, and the
losses over epochs. Minutes are those of the steps: compiling and evaluating are left out.
"""

import argparse
import dataclasses
import json
from pathlib import Path

from jaxcl.cpu_flags import prefer_fast_convolutions

prefer_fast_convolutions()

from jaxcl.cli import load_config
from jaxcl.evaluation.report import markdown_table
from jaxcl.evaluation.runs import evaluate_run
from jaxcl.training import RunDirectory, read_metrics, train


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="that names test examples (evaluate.test)")
    parser.add_argument("--epochs", type=float, nargs="+", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/budgets"))
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    experiment = load_config(arguments.config)
    runs = {epochs: run(experiment, epochs, arguments.out) for epochs in sorted(arguments.epochs)}
    last = next(reversed(runs.values()))
    measures = list(last["trained encoder"])
    rows = [
        [name, "-", *(f"{100 * last[name][measure]:.1f}" for measure in measures)]
        for name in ("raw input", "untrained encoder")
    ]
    rows += [
        [
            f"{epochs:g} epochs",
            f"{found['minutes']:.1f}",
            *(f"{100 * found['trained encoder'][measure]:.1f}" for measure in measures),
        ]
        for epochs, found in runs.items()
    ]
    print(markdown_table(["", "minutes", *(f"{measure}, %" for measure in measures)], rows))
    picture = arguments.out / "budgets.png"
    draw(runs, measures, picture)
    print(f"curves: {picture}")


def run(experiment, epochs: float, out: Path) -> dict:
    """Figures of each representation, minutes, and the loss over epochs."""
    directory = out / f"{epochs:g}"
    train(
        dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, epochs=epochs)),
        directory,
    )
    evaluate_run(directory)
    files = RunDirectory(directory)
    document = json.loads(files.evaluation.read_text())
    rows = read_metrics(files.metrics)
    before = [0, *(row["step"] for row in rows)]
    examples = experiment.train.batch_size
    seconds = sum(
        (row["step"] - start) * examples / row["examples_per_second"]
        for start, row in zip(before, rows, strict=False)
    )
    figures = {name: measured(document, name) for name in document["scores"]}
    curve = [row["epoch"] for row in rows], [row["loss"] for row in rows]
    return {"minutes": seconds / 60, "curve": curve, **figures}


def measured(document: dict, name: str) -> dict[str, float]:
    """The shares of one representation that were measured, by name."""
    scores = document["scores"][name]
    found = {}
    if name in document["retrieval"]:
        found["R@1"] = document["retrieval"][name]["recall_at_1"]
    if scores["knn"] is not None:
        found[f"{document['k']}-NN"] = scores["knn"]
        found["linear"] = scores["linear"]["accuracy"]
    return found


def draw(runs: dict[float, dict], measures: list[str], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    scores, losses = figure.subplots(1, 2)
    minutes = [found["minutes"] for found in runs.values()]
    raw = next(iter(runs.values()))["raw input"]
    for color, measure in enumerate(measures):
        shares = [100 * found["trained encoder"][measure] for found in runs.values()]
        scores.plot(minutes, shares, "o-", color=f"C{color}", label=measure)
        scores.axhline(100 * raw[measure], color=f"C{color}", linestyle=":", linewidth=1)
    scores.set(xscale="log", xlabel="minutes of training", ylabel="% (dotted: raw input)")
    scores.legend()
    for epochs, found in runs.items():
        losses.plot(*found["curve"], label=f"{epochs:g}", linewidth=1)
    losses.set(xscale="log", xlabel="epoch", ylabel="loss")
    losses.legend(title="epochs")
    for axes in (scores, losses):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
