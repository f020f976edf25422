"""What longer training buys: one experiment at several numbers of epochs, with curves.

    python benchmarks/budgets.py configs/quickstart.py --epochs 5 20 60
    python benchmarks/budgets.py configs/emoji_best.py --epochs 10 100 1000 --out runs/emoji_best

Each budget is a run of its own, with its own schedule, trained and evaluated as `jaxcl train` does,
in OUT/EPOCHS; a run that was stopped goes on, a finished one is evaluated again only. Printed are
the trained encoder's figures beside those of raw input and of the untrained encoder;
OUT/budgets.png draws them over the minutes of training, and the losses over epochs. Minutes are
those that the logged rates make of the steps; evaluating is left out.
"""

import argparse
import dataclasses
import json
from pathlib import Path

from jaxcl.compilation import prefer_fast_convolutions

prefer_fast_convolutions()

from jaxcl.cli import load_config
from jaxcl.evaluation.report import markdown_table
from jaxcl.evaluation.runs import evaluate_run
from jaxcl.training import Experiment, RunDirectory, read_metrics, train

RAW, UNTRAINED, TRAINED = "raw input", "untrained encoder", "trained encoder"


@dataclasses.dataclass(frozen=True)
class Budget:
    """One trained run."""

    epochs: float
    minutes: float
    curve: tuple[list[float], list[float]]  # epochs and losses, of the logged steps
    figures: dict[str, dict[str, float]]  # by representation and measure, %


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="that names test examples (evaluate.test)")
    parser.add_argument("--epochs", type=float, nargs="+", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/budgets"))
    parser.add_argument("--json", action="store_true", help="one JSON document, no text")
    arguments = parser.parse_args()
    experiment = load_config(arguments.config)
    if experiment.evaluate is None or experiment.evaluate.test is None:
        parser.error(f"{arguments.config} names no test examples: set evaluate.test")
    budgets = [run(experiment, epochs, arguments.out) for epochs in sorted(arguments.epochs)]
    picture = arguments.out / "budgets.png"
    draw(budgets, picture)
    if arguments.json:
        print(json.dumps([dataclasses.asdict(budget) for budget in budgets], indent=1))
        return
    print_table(budgets)
    print(f"curves: {picture}")


def run(experiment: Experiment, epochs: float, out: Path) -> Budget:
    directory = out / f"{epochs:g}"
    experiment = dataclasses.replace(
        experiment, train=dataclasses.replace(experiment.train, epochs=epochs)
    )
    outcome = train(experiment, directory)
    if not outcome.finished:
        raise SystemExit(f"stopped after {outcome.step} of {outcome.total_steps} steps")
    evaluate_run(directory, experiment)
    files = RunDirectory(directory)
    rows = read_metrics(files.metrics)
    starts = [0, *(row["step"] for row in rows)]
    # The first row's time is mostly the compiler's; its steps go at the next one's rate.
    rates = [row["examples_per_second"] for row in rows]
    rates[0] = rates[min(1, len(rates) - 1)]
    seconds = sum(
        (row["step"] - start) * experiment.train.batch_size / rate
        for row, start, rate in zip(rows, starts, rates, strict=False)
    )
    return Budget(
        epochs=epochs,
        minutes=seconds / 60,
        curve=([row["epoch"] for row in rows], [row["loss"] for row in rows]),
        figures=measured(json.loads(files.evaluation.read_text())),
    )


def measured(document: dict) -> dict[str, dict[str, float]]:
    """From evaluation.json: by representation, those of its shares that compare, in %."""
    figures = {}
    for name, scores in document["scores"].items():
        recalls = document["retrieval"].get(name, {})
        found = {
            "R@1": recalls.get("recall_at_1"),
            "R@1 whitened": recalls.get("whitened_recall_at_1"),
            f"{document['k']}-NN": scores["knn"],
            f"{document['k']}-NN whitened": scores["whitened_knn"],
            "linear": scores["linear"] and scores["linear"]["accuracy"],
        }
        figures[name] = {
            measure: 100 * share for measure, share in found.items() if share is not None
        }
    return figures


def print_table(budgets: list[Budget]) -> None:
    def row(name: str, minutes: str, figures: dict[str, float]) -> list[str]:
        return [name, minutes, *(f"{figure:.1f}" for figure in figures.values())]

    last = budgets[-1].figures
    rows = [row(name, "-", last[name]) for name in (RAW, UNTRAINED)]
    rows += [
        row(f"{budget.epochs:g} epochs", f"{budget.minutes:.1f}", budget.figures[TRAINED])
        for budget in budgets
    ]
    print(markdown_table(["", "minutes", *(f"{measure}, %" for measure in last[RAW])], rows))


def draw(budgets: list[Budget], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    scores, losses = figure.subplots(1, 2)
    minutes = [budget.minutes for budget in budgets]
    raw = budgets[-1].figures[RAW]
    for color, measure in enumerate(raw):
        shares = [budget.figures[TRAINED][measure] for budget in budgets]
        scores.plot(minutes, shares, "o-", color=f"C{color}", label=measure)
        scores.axhline(raw[measure], color=f"C{color}", linestyle=":", linewidth=1)
    scores.set(xscale="log", xlabel="minutes of training", ylabel="% (dotted: raw input)")
    scores.legend(fontsize="small")
    for budget in budgets:
        losses.plot(*budget.curve, label=f"{budget.epochs:g}", linewidth=1)
    losses.set(xscale="log", xlabel="epoch", ylabel="loss")
    losses.legend(title="epochs", fontsize="small")
    for axes in (scores, losses):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
