"""From run directories to a page: curves, pictures of what features know, settings."""

import dataclasses
import datetime
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcl.data import SourceConfig
from jaxcl.data.source import opened_once
from jaxcl.evaluation.contact_sheet import contact_sheet
from jaxcl.evaluation.tasks.retrieval import Retrieval
from jaxcl.extras import MissingExtra
from jaxcl.methods import MultiModal
from jaxcl.reports.curves import charts
from jaxcl.reports.examples import GALLERY, QUERIES, Examples, encoded, open_examples
from jaxcl.reports.html import COLOURS, Section, legend, note, page, picture
from jaxcl.reports.maps import MAP_KINDS, MapKind, feature_map, is_finite
from jaxcl.reports.mistakes import confusion, neighbours, not_found
from jaxcl.reports.settings import environments, heading, measured, settings
from jaxcl.training import (
    CheckpointError,
    Experiment,
    RestoredRun,
    RunDirectory,
    UserError,
    read_metrics,
    restore_run,
)
from jaxcl.training.durable_files import check_writable, write_durably

_MOST_RUNS = len(COLOURS)
_VIEWED = 6  # examples of a contact sheet


@dataclasses.dataclass(frozen=True)
class _Run:
    """All that a report reads of a run."""

    name: str
    files: RunDirectory
    config: dict[str, Any]
    rows: list[dict[str, float]]
    restored: RestoredRun | None
    why_not: str
    """Why its newest state could not be read."""

    @functools.cached_property
    def examples(self) -> tuple[Examples, Examples, bool]:
        """As `_open`, once for all parts."""
        return _open(_restored(self))

    def read(self, path: Path) -> dict[str, Any]:
        """A JSON file of the run; nothing where it is missing or damaged."""
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def write_report(
    directories: Sequence[Path],
    out: Path,
    *,
    kind: MapKind = "tsne",
    experiments: Sequence[Experiment | None] | None = None,
) -> str:
    """Writes what runs learned as one HTML file.

    What cannot be shown (a run has no checkpoint, its data are gone) is said in its place.

    Args:
      directories: of the runs, 1 to 10.
      out: the file; replaced.
      kind: how features are put into the plane.
      experiments: of each run, as in `restore_run`; None: as the directories have them.

    Returns:
      What was written, in words.

    Raises:
      FileNotFoundError: if a directory holds no run.
      UserError: for a damaged run, or too many.
      ImportError: if what makes the map is not installed.
      OSError: if the file cannot be written.
    """
    if out.suffix not in (".html", ".htm"):
        raise UserError(f"--out is {out}: give a file name that ends in .html")
    if kind not in MAP_KINDS:
        raise UserError(f"--map {kind!r}: expected one of {', '.join(MAP_KINDS)}")
    if not 1 <= len(directories) <= _MOST_RUNS:
        raise UserError(f"a report shows 1 to {_MOST_RUNS} runs, got {len(directories)}")
    if out.parent.is_dir():
        check_writable(out.parent)
    given = experiments or [None] * len(directories)
    names = _names(directories)
    with opened_once():
        runs = [
            _read(name, directory, experiment)
            for name, directory, experiment in zip(names, directories, given, strict=True)
        ]
        content = page(*_titles(runs), _sections(runs, kind))
    encoded_page = content.encode("utf-8", "replace")  # names of files may be no text
    out.parent.mkdir(parents=True, exist_ok=True)
    write_durably(out, lambda file: file.write(encoded_page))
    return f"report of {', '.join(names)}: {out}, {len(encoded_page) / 1e6:.1f} MB"


def _names(directories: Sequence[Path]) -> list[str]:
    """The directories' names, longer where two are alike."""
    for parts in range(1, 20):
        names = ["/".join(path.absolute().parts[-parts:]) for path in directories]
        if len({*names}) == len(names):
            return names
    raise UserError(f"{directories[0]} is given twice")


def _read(name: str, directory: Path, experiment: Experiment | None) -> _Run:
    files = RunDirectory(directory)
    restored, why_not = None, ""
    try:
        config = json.loads(files.config.read_text()) if files.config.is_file() else {}
    except ValueError as error:
        raise UserError(f"{files.config} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{files.config} is damaged: it holds no JSON object")
    try:
        restored = restore_run(directory, experiment)
    except FileNotFoundError:
        raise
    except (UserError, CheckpointError) as error:
        why_not = str(error)
        if not files.config.is_file():
            raise
    return _Run(name, files, config, read_metrics(files.metrics), restored, why_not)


def _titles(runs: Sequence[_Run]) -> tuple[str, str]:
    if len(runs) > 1:
        return f"{len(runs)} runs", f"{', '.join(run.name for run in runs)}. {_today()}"
    (run,) = runs
    method = str(run.config.get("method", {}).get("class", "")).rsplit(".", 1)[-1]
    step = f"step {run.restored.step:,}" if run.restored else "no checkpoint"
    return run.name, f"{method}, {step}. {_today()}"


def _today() -> str:
    return f"Written {datetime.datetime.now():%Y-%m-%d %H:%M}."


def _sections(runs: Sequence[_Run], kind: MapKind) -> list[Section]:
    shown, odd = charts({run.name: run.rows for run in runs})
    notes = "".join(map(note, odd))
    notes += "".join(note(f"{run.name}: no step was logged.") for run in runs if not run.rows)
    names = [run.name for run in runs]
    colours = legend(names, COLOURS[: len(names)]) if len(names) > 1 else ""
    sections = [Section("Curves", f"{notes}{colours}{shown}")]
    figures = measured(
        {run.name: run.read(run.files.evaluation) for run in runs},
        {run.name: some for run in runs if (some := run.read(run.files.tasks)).get("tasks")},
    )
    if figures:
        sections.append(Section("Figures", figures))
    parts: list[tuple[str, Callable[[_Run], str]]] = [
        ("Views", _views),
        ("Nearest neighbours", _neighbours),
        ("Map", functools.partial(_map, kind=kind)),
        ("Confusion", _confusion),
        ("Not found", _failures),
    ]
    for title, make in parts:
        found = [(run.name, _told(make, run)) for run in runs]
        bodies = [(heading(name) if len(runs) > 1 else "") + body for name, body in found if body]
        if bodies:
            sections.append(Section(title, "".join(bodies)))
    sections.append(Section("Settings", settings({run.name: run.config for run in runs})))
    sections.append(Section("Environment", environments({run.name: _place(run) for run in runs})))
    return sections


def _told(make: Callable[[_Run], str], run: _Run) -> str:
    """A part of a run, or why there is none."""
    try:
        return make(run)
    except MissingExtra:
        raise
    except (ValueError, OSError) as error:
        return note(f"Cannot be shown: {error}")


def _restored(run: _Run) -> RestoredRun:
    if run.restored is None:
        raise ValueError(run.why_not)
    return run.restored


def _views(run: _Run) -> str:
    restored = _restored(run)
    experiment = restored.experiment
    fields = [name for name in experiment.views.of_each if len(restored.inputs[name].shape) == 3]
    if not fields:
        return ""
    source = experiment.data.open()
    sheet = contact_sheet(source, experiment.views, examples=min(_VIEWED, len(source)))
    words = "Examples as read, and views of them that the method sees"
    return picture(sheet, f"{words}: {experiment.views}", caption=words)


def _open(restored: RestoredRun) -> tuple[Examples, Examples, bool]:
    """What is found, what it is found for, and whether they are the same."""
    # Not features alone: a compiled rectifier may make 0 of what is no number.
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(restored.state.params)):
        raise ValueError(
            f"the parameters of step {restored.step} are not all numbers: training diverged"
        )
    settings = restored.experiment.evaluate
    train: SourceConfig = restored.experiment.data
    if settings is not None and settings.test is not None:
        gallery = open_examples(restored, settings.train or train, GALLERY)
        queries = open_examples(restored, settings.test, QUERIES)
        same = False
    else:
        gallery = queries = open_examples(restored, train, QUERIES)
        same = True
    for examples in (gallery, queries):
        if not is_finite(examples.features):
            raise ValueError(f"the features of step {restored.step} are not all numbers")
    return gallery, queries, same


def _neighbours(run: _Run) -> str:
    gallery, queries, same = run.examples
    return neighbours(gallery, queries, same=same)


def _map(run: _Run, *, kind: MapKind) -> str:
    _, queries, _ = run.examples
    return feature_map(queries, kind)


def _confusion(run: _Run) -> str:
    gallery, queries, same = run.examples
    if gallery.source.labels is None or queries.source.labels is None:
        return ""
    return confusion(gallery, queries, same=same)


def _failures(run: _Run) -> str:
    """Of fields that have encoders each, or of pairs that evaluation is of."""
    restored = _restored(run)
    experiment = restored.experiment
    if experiment.evaluate is not None and experiment.evaluate.paired:
        assert experiment.evaluate.test is not None
        train = open_examples(restored, experiment.evaluate.train or experiment.data, QUERIES)
        test = open_examples(restored, experiment.evaluate.test, QUERIES)
        return not_found(train, test, what="From training to test examples")
    source, fields = experiment.data, encoded(restored)
    for task in experiment.tasks:
        if isinstance(task, Retrieval) and task.first != task.second:
            source, fields = task.source, [task.first, task.second]
            break
    else:
        if not isinstance(experiment.method, MultiModal) or len(fields) < 2:
            return ""
    first, second = (
        open_examples(restored, source, QUERIES, field=field, beside=other)
        for field, other in (fields[:2], fields[1::-1])
    )
    return not_found(first, second, what=f"From {fields[0]} to {fields[1]}") + not_found(
        second, first, what=f"From {fields[1]} to {fields[0]}"
    )


def _place(run: _Run) -> Mapping[str, Any]:
    """Versions and machine of the last start, and what the data are."""
    facts = run.read(run.files.facts)
    inputs = ", ".join(
        f"{name} {'x'.join(map(str, shape))} {dtype}"
        for name, (shape, dtype) in facts.get("inputs", {}).items()
    )
    about = {"examples": f"{facts['examples']:,}"} if "examples" in facts else {}
    return {**run.read(run.files.environment), **about, "an example": inputs}
