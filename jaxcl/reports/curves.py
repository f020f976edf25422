"""Curves of what runs logged, as SVG."""

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np

from jaxcl.reports.html import COLOURS, text
from jaxcl.training.observers import Row

_POINTS = 400  # of a curve, at most: more cannot be told apart
_CHARTS = {
    "loss": "Loss (dashed: at chance)",
    "accuracy": "Positives found first, share",
    "probe_accuracy": "Online linear probe, accuracy",
    "probe_knn_accuracy": "Online kNN, accuracy",
    "positive_similarity": "Similarity of positives",
    "negative_similarity": "Similarity of negatives",
    "embedding_std": "Spread of embeddings (falls when they collapse)",
    "effective_rank": "Effective rank of embeddings (falls when they collapse)",
    "gradient_norm": "Gradient norm",
    "parameter_norm": "Parameter norm",
    "learning_rate": "Learning rate",
    "examples_per_second": "Examples a second",
    "waiting_share": "Share of time waited for input",
}
"""What is shown first, in this order."""
_LEFT_OUT = {"step", "epoch", "chance_loss", "step_seconds", "computing_share", "saving_share"}
_LOGARITHMIC = {"gradient_norm", "examples_per_second"}


def charts(runs: Mapping[str, Sequence[Row]]) -> tuple[str, list[str]]:
    """A chart for each figure that a run logged.

    Args:
      runs: rows by run, each coloured by its place.

    Returns:
      HTML, and what is odd in words.
    """
    logged = {name for rows in runs.values() for row in rows for name in row}
    known = [name for name in _CHARTS if name in logged]
    others = sorted(logged - {*_CHARTS} - _LEFT_OUT)
    varying = [name for name in others if _varies(name, runs)]
    odd = []
    for run, rows in runs.items():
        bad = [row for row in rows if not math.isfinite(_number(row.get("loss")))]
        if bad:
            odd.append(
                f"{run}: the loss is not a number in {len(bad)} rows, first at step "
                f"{bad[0].get('step')}"
            )
    first = "".join(_figure(name, _CHARTS[name], runs) for name in known)
    more = "".join(_figure(name, name.replace("_", " "), runs) for name in varying)
    if more:
        more = (
            f'<details><summary>{len(varying)} more</summary><div class="charts">{more}</div>'
            "</details>"
        )
    return f'<div class="charts">{first}</div>{more}', odd


def thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most 400 points of a curve: means over equal parts of its rows, without what is no number.

    Args:
      steps: [N].
      values: [N].

    Returns:
      Steps and values.
    """
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    if len(steps) <= _POINTS:
        return steps, values
    edges = np.linspace(0, len(steps), _POINTS + 1).astype(int)
    counts = np.diff(edges)
    return (
        np.add.reduceat(steps, edges[:-1]) / counts,
        np.add.reduceat(values, edges[:-1]) / counts,
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _column(rows: Sequence[Row], name: str) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(_number(row.get("step")), _number(row[name])) for row in rows if name in row]
    if not pairs:
        return np.zeros(0), np.zeros(0)
    steps, values = np.array(pairs, np.float64).T
    return thinned(steps, values)


def _varies(name: str, runs: Mapping[str, Sequence[Row]]) -> bool:
    values = {row[name] for rows in runs.values() for row in rows if name in row}
    return len(values) > 1


def _figure(name: str, title: str, runs: Mapping[str, Sequence[Row]]) -> str:
    from matplotlib.figure import Figure  # without pyplot, which keeps figures

    figure = Figure(figsize=(4.0, 2.4), layout="constrained")
    axes = figure.add_subplot()
    ends, least = [], math.inf
    for place, (run, rows) in enumerate(runs.items()):
        steps, values = _column(rows, name)
        if not len(steps):
            continue
        colour = COLOURS[place % len(COLOURS)]
        dot = "o" if len(steps) == 1 else None
        axes.plot(steps, values, color=colour, linewidth=1.4, marker=dot, markersize=4)
        ends.append(f"{run} ends at {values[-1]:.4g}")
        least = min(least, float(values.min()))
        if name == "loss":
            chance_steps, chance = _column(rows, "chance_loss")
            axes.plot(chance_steps, chance, color=colour, linewidth=1.0, linestyle=(0, (3, 3)))
            if len(chance_steps) == 1:
                axes.axhline(chance[0], color=colour, linewidth=1.0, linestyle=(0, (3, 3)))
    if name in _LOGARITHMIC and 0 < least < math.inf:
        axes.set_yscale("log")
    axes.set_xlabel("step", fontsize=9)
    axes.tick_params(labelsize=9)
    axes.grid(color="#d0d7de", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    words = f"{title}, by step: {'; '.join(ends) or 'nothing to show'}"
    return (
        f'<figure><figcaption>{text(title)}</figcaption><div role="img" aria-label="{text(words)}">'
        f"{_svg(figure)}</div></figure>"
    )


def _svg(figure: "object") -> str:
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})  # type: ignore[attr-defined]
    content = file.getvalue()
    return content[content.index("<svg") :].replace("<svg ", '<svg aria-hidden="true" ', 1)
