"""What runs were told, where they differ, and what they ran on."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcl.reports.html import paragraph, table, text

_MISSING = "-"


def flat(data: Any, path: str = "") -> dict[str, str]:
    """A tree of JSON as values by dotted paths."""
    if isinstance(data, Mapping):
        if not data:
            return {path: "{}"}
        items = {str(name): value for name, value in data.items()}
    elif (
        isinstance(data, Sequence)
        and not isinstance(data, str)
        and any(isinstance(value, Mapping) for value in data)
    ):
        items = {str(place): value for place, value in enumerate(data)}
    else:
        return {path: data if isinstance(data, str) else json.dumps(data)}
    found: dict[str, str] = {}
    for name, value in items.items():
        found |= flat(value, f"{path}.{name}" if path else name)
    return found


def settings(configs: Mapping[str, Any]) -> str:
    """The experiment of each run: first what differs, then all."""
    values = {run: flat(config) for run, config in configs.items()}
    paths = list(dict.fromkeys(path for of_run in values.values() for path in of_run))
    runs = list(values)

    def rows(chosen: Sequence[str]) -> list[list[str]]:
        return [[path, *(values[run].get(path, _MISSING) for run in runs)] for path in chosen]

    said = ""
    if len(runs) > 1:
        differing = [
            path for path in paths if len({values[run].get(path, _MISSING) for run in runs}) > 1
        ]
        if differing:
            said = table(["", *runs], rows(differing), caption="What differs", numbers=False)
        else:
            said = paragraph("The runs' experiments do not differ.")
    whole = table(["", *runs], rows(paths), caption="The whole experiment", numbers=False)
    summary = f"<summary>The whole experiment, {len(paths)} values</summary>"
    return f"{said}<details>{summary}{whole}</details>"


def environments(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Versions and machines, a column a run."""
    names = list(dict.fromkeys(name for one in found.values() for name in one))
    rows = [[name, *(one.get(name, _MISSING) for one in found.values())] for name in names]
    return table(["", *found], rows, caption="Versions and machine", numbers=False)


def measured(evaluations: Mapping[str, Any], tasks: Mapping[str, Any]) -> str:
    """What was measured of each run's features."""
    parts = []
    scores = [
        [
            representation if len(evaluations) == 1 else f"{run}: {representation}",
            *_scores(one),
        ]
        for run, found in evaluations.items()
        for representation, one in _items(found.get("scores"))
    ]
    if scores:
        head = ["features", "kNN, %", "linear, %", "mAP@R, %", "RankMe"]
        parts.append(table(head, scores, caption="Features by labels, on the test part"))
    names = list(
        dict.fromkeys(name for found in tasks.values() for name, _ in _items(found["tasks"]))
    )
    for name in names:
        columns = {
            features if len(tasks) == 1 else f"{run}: {features}": figures
            for run, found in tasks.items()
            for features, figures in _items(dict(_items(found["tasks"])).get(name))
        }
        figures = list(dict.fromkeys(figure for one in columns.values() for figure in one))
        rows = [
            [figure, *(_figure(one.get(figure)) for one in columns.values())] for figure in figures
        ]
        parts.append(table(["", *columns], rows, caption=name))
    return f'<div class="tables">{"".join(parts)}</div>' if parts else ""


def _items(value: Any) -> list[tuple[str, Any]]:
    """What a file should hold by name; of a damaged one nothing."""
    found = value.items() if isinstance(value, Mapping) else ()
    return [(name, one) for name, one in found if isinstance(one, Mapping)]


def _scores(one: Mapping[str, Any]) -> list[str]:
    linear = one.get("linear") or {}
    shares = [one.get("knn"), linear.get("accuracy"), one.get("map_at_r")]
    rank = one.get("rankme")
    return [*(_figure(share, 100, 1) for share in shares), _figure(rank, 1, 1)]


def _figure(value: Any, factor: float = 1, digits: int = 3) -> str:
    return f"{factor * value:.{digits}f}" if isinstance(value, int | float) else _MISSING


def heading(words: str) -> str:
    """A heading within a section."""
    return f"<h3>{text(words)}</h3>"
