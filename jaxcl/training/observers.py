"""What a run says: rows of metrics on disk, a progress bar, and a verdict in words."""

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TextIO, TypeAlias

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from jaxcl.training.durable_files import cannot_write, write_durably
from jaxcl.training.errors import DivergedError

Row: TypeAlias = dict[str, float]
"""One logged step: `step`, `loss`, and the signals beside it."""

_PLAIN_SECONDS = 10.0
_NAMED = 5


class MetricsFile:
    """Appends rows to metrics.jsonl, one JSON object a line."""

    def __init__(self, path: Path, *, restored_step: int, write: bool = True) -> None:
        """Opens the file and cuts the rows past the restored step, which are computed anew.

        Without `write`, as in all processes of a run but the first, it is only read.
        """
        rows = read_metrics(path)
        kept = [row for row in rows if row.get("step", 0) <= restored_step]
        self.last_row: Row | None = kept[-1] if kept else None
        """The row that the run goes on from."""
        self._file: TextIO | None = None
        if not write:
            return
        if len(kept) < len(rows) or (path.exists() and not path.read_text().endswith("\n")):
            write_durably(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._path = path
        try:
            self._file = path.open("a", buffering=1)
        except OSError as error:
            raise cannot_write(path, error) from error

    def log(self, row: Row) -> None:
        """Writes one row."""
        if self._file is None:
            return
        line = json.dumps({name: _rounded(value) for name, value in row.items()}) + "\n"
        try:
            self._file.write(line)
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def close(self) -> None:
        """Closes the file; a row that the disk refused stays lost, and was complained of."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()


def read_metrics(path: Path) -> list[Row]:
    """The rows of a metrics file; a line cut short by a kill does not count."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


class ProgressBar:
    """Step, loss beside chance, examples a second and time left; plain lines where no one looks."""

    def __init__(self, console: Console, *, total_steps: int, start: int) -> None:
        self._console = console
        self._total = total_steps
        self._plain = not console.is_terminal
        self._last_line = -math.inf
        self._started: float | None = None
        self._start = start
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=self._plain,
        )
        self._task = self._bar.add_task("", total=total_steps, completed=start, figures="compiling")

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def advance(self, step: int) -> None:
        """Moves the bar to `step`."""
        self._bar.update(self._task, completed=step)

    def log(self, row: Row) -> None:
        """Shows a row's figures."""
        figures = f"loss {row['loss']:.3f}"
        if "chance_loss" in row:
            figures += f" (chance {row['chance_loss']:.2f})"
        if "accuracy" in row:
            figures += f"  accuracy {row['accuracy']:.0%}"
        if "probe_accuracy" in row:
            figures += f"  probe {row['probe_accuracy']:.0%}, kNN {row['probe_knn_accuracy']:.0%}"
        figures += f"  {row['examples_per_second']:,.0f} examples/s"
        self._bar.update(self._task, figures=figures)
        now, step = time.monotonic(), int(row["step"])
        if self._started is None:  # the first step compiles, which says nothing of the rest
            self._started, self._start = now, step
        if self._plain and (now - self._last_line >= _PLAIN_SECONDS or step == self._total):
            self._last_line = now
            done = step - self._start
            left = (now - self._started) / done * (self._total - step) if done else None
            figures += "" if left is None else f"  {left:.0f} s left"
            self.say(f"step {step}/{self._total}  {figures}")

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class ReplacedExamples:
    """Counts examples that cannot be read, for which others stand in; names the first few."""

    def __init__(
        self, names: Sequence[str], say: Callable[[str], None], *, before: Row | None
    ) -> None:
        self._names, self._say = names, say
        self._seen: set[int] = set()
        self.count = 0 if before is None else int(before.get("replaced_examples", 0))
        """How many so far, of the whole run; one that comes every epoch counts every time."""

    def note(self, records: np.ndarray) -> None:
        """Takes the numbers of the records of a batch that others stand in for."""
        self.count += len(records)
        for record in map(int, records):
            if record in self._seen or len(self._seen) > _NAMED:
                continue
            self._seen.add(record)
            if len(self._seen) > _NAMED:
                self._say(
                    "note: more examples cannot be read: metrics.jsonl counts replaced_examples"
                )
            else:
                self._say(
                    f"note: {self._names[record]} cannot be read: the next one that can stands in "
                    "for it"
                )


_WINDOW = 5  # rows of the log that are averaged
_EARLY = 100  # steps from which a first epoch longer than that is judged too


@dataclasses.dataclass
class Verdict:
    """Says in words when a run does not learn: each alarm once, with what to look at."""

    alarms: list[str] = dataclasses.field(default_factory=list)
    _recent: list[Row] = dataclasses.field(default_factory=list)
    _first: Row | None = None

    def log(self, row: Row) -> list[str]:
        """Takes a row; returns the alarms that it raises."""
        self._first = self._first or row
        self._recent = [*self._recent[1 - 2 * _WINDOW :], row]
        raised = [text for text in self._judge() if text not in self.alarms]
        self.alarms += raised
        return raised

    def _judge(self) -> list[str]:
        latest = self._recent[-_WINDOW:]
        if len(latest) < _WINDOW or (self._recent[-1]["epoch"] < 1 and not self._shrank()):
            return []
        mean = {
            name: sum(row[name] for row in latest) / _WINDOW
            for name in ("loss", "chance_loss", "embedding_std", "effective_rank")
            if all(name in row for row in latest)  # what the method reports
        }
        alarms = []
        if mean.get("embedding_std", 1.0) < 0.1 or self._stays_on_a_line():
            alarms.append(
                "the embeddings have collapsed: they hardly differ between examples. Look at the "
                "learning rate, the temperature, the target's momentum and, without negatives, the "
                "predictor and where gradients stop"
            )
        elif mean.get("chance_loss", 0.0) > 0 and self._stays_at(0.98 * mean["chance_loss"]):
            alarms.append(
                "the loss stays at chance: queries find their positives no better than by luck. "
                "Look at the learning rate, the temperature and the strength of the views"
            )
        return alarms

    def _shrank(self) -> bool:
        """Whether embeddings, early in a long first epoch, have lost their spread.

        Little spread alone says nothing so early: some networks start with it.
        """
        first, rows = self._first, self._recent[-_WINDOW:]
        if first is None or rows[0]["step"] < _EARLY or "embedding_std" not in first:
            return False
        return all(row["embedding_std"] < 0.2 * first["embedding_std"] for row in rows)

    def _stays_at(self, loss: float) -> bool:
        """Whether the loss is above this and neither falls nor, as DINO's at first, lets the
        embeddings spread."""
        rows = [row["loss"] for row in self._recent]
        if len(rows) < 2 * _WINDOW or self._spread_grows():
            return False
        before, now = sum(rows[:_WINDOW]) / _WINDOW, sum(rows[_WINDOW:]) / _WINDOW
        return now > loss and now > 0.995 * before

    def _stays_on_a_line(self) -> bool:
        """Whether embeddings differ along one direction only, and no more than before.

        Without negatives healthy runs go through such a state, in which their spread grows.
        """
        rows = self._recent
        if len(rows) < 2 * _WINDOW or not all("effective_rank" in row for row in rows):
            return False
        rank = sum(row["effective_rank"] for row in rows) / len(rows)
        # SwAV's healthy features are of rank 2 on small data.
        return rank < 1.8 and not self._spread_grows()

    def _spread_grows(self) -> bool:
        spread = [row.get("embedding_std", 0.0) for row in self._recent]
        return sum(spread[_WINDOW:]) > 1.02 * sum(spread[:_WINDOW])


def check_finite(row: Row) -> None:
    """Raises where the loss, or what the step made of the parameters, is not a number any more.

    Raises:
      DivergedError: naming the step and what to change.
    """
    for name in ("loss", "parameter_norm"):
        if not math.isfinite(row[name]):
            raise DivergedError(
                f"{name} is {row[name]} at step {int(row['step'])}: training diverged. Lower "
                "optimizer.learning_rate, lengthen schedule.warmup_epochs or set "
                "optimizer.clip_norm; checkpoints before that step are kept"
            )


def _rounded(value: float) -> float | int:
    return int(value) if float(value).is_integer() and abs(value) < 2**53 else float(value)
