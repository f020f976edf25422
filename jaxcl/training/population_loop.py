"""The training loop of a population: batches in, an ordinary run directory for each member out."""

import contextlib
import dataclasses
import json
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from jaxcl.data import Batches, prefetch
from jaxcl.training.checkpoints import Checkpoints
from jaxcl.training.durable_files import write_durably
from jaxcl.training.errors import DivergedError, UserError
from jaxcl.training.loop import Clock, say
from jaxcl.training.observers import (
    MetricsFile,
    ProgressBar,
    ReplacedExamples,
    Row,
    Verdict,
    check_finite,
)
from jaxcl.training.population import Population, PopulationSetup
from jaxcl.training.run_directory import RunDirectory, RunLock
from jaxcl.training.state import TrainState
from jaxcl.training.steps import take_steps
from jaxcl.training.stopping import StopRequest


@dataclasses.dataclass(frozen=True)
class PopulationOutcome:
    """How `train_population` ended."""

    step: int
    """Steps done by each member, all in all."""
    total_steps: int
    """Steps of the whole run."""
    stopped_by: signal.Signals | None
    """The signal that ended it early."""
    alarms: tuple[tuple[str, ...], ...]
    """What the health signals said of each member, in words."""
    diverged: tuple[str | None, ...]
    """For each member whose loss is not a number any more, when; None for the others."""

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.total_steps


class PopulationDirectory:
    """The files of a population: what it is, and an ordinary run directory for each member."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def document(self) -> Path:
        """Field and values; once trained, every member's figures and curve too."""
        return self.path / "population.json"

    @property
    def curves(self) -> Path:
        """Picture of the losses over the steps."""
        return self.path / "population.png"

    def member(self, number: int) -> RunDirectory:
        """The run directory of a member: `0`, `1`, ..., in the order of the values."""
        return RunDirectory(self.path / str(number))

    def prepare(self, population: Population) -> None:
        """Writes what the population is, or checks that the directory is of the same one.

        Raises:
          UserError: if an ordinary run or another population lies there.
        """
        if RunDirectory(self.path).config.exists():
            raise UserError(
                f"{self.path} holds a run, and a population needs a directory of its own: choose "
                "another --out"
            )
        new = {"field": population.field, "values": list(population.values)}
        if not self.document.exists():
            write_durably(self.document, json.dumps(new) + "\n")
            return
        try:
            old = json.loads(self.document.read_text())
            there = {name: old[name] for name in new}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.document} is damaged: choose another --out") from error
        if there != new:
            raise UserError(
                f"{self.path} holds the population {there['field']}={there['values']}, not "
                f"{new['field']}={new['values']}: choose another --out"
            )


def train_population(
    population: Population, directory: Path, *, console: Console | None = None
) -> PopulationOutcome:
    """Trains all members in one program, each as `train` would by itself.

    Member i is left as the run directory `directory/i`, with its own config, metrics and
    checkpoints, so that everything that works on a run works on it. Losses are those of `train` up
    to floating-point order (a value such as a momentum is rounded to float32 before it is computed
    with). A member that diverges stops being logged and saved; the others go on. Called again, it
    goes on from the members' newest checkpoints, which have to be of the same step.

    Args:
      population: what to train; on one device.
      directory: where to; made if missing.
      console: where to say how it goes; None: standard error. Figures of the progress bar are means
        over the members, examples a second their sum.

    Returns:
      How it ended.

    Raises:
      UserError: where the experiment does not fit together, a directory holds another, or every
        member diverged (`DivergedError`).
      OSError: where files cannot be read or written; checkpoints written before are kept.
    """
    console = console or Console(stderr=True)
    setup = PopulationSetup(population)
    folder = PopulationDirectory(directory)
    with RunLock(directory), StopRequest() as stop, contextlib.ExitStack() as closing:
        folder.prepare(population)
        for notice in setup.setup.notices:
            say(console, f"note: {notice}")
        for number, member in enumerate(population.members):
            files = folder.member(number)
            closing.enter_context(RunLock(files.path))
            files.prepare(member, setup.setup.facts)
        checkpoints = [_checkpoints(folder, number, population) for number in _numbers(population)]
        for each in checkpoints:
            closing.callback(each.close)
        start, state = _start_or_resume(setup, checkpoints, folder, console)
        total = setup.setup.total_steps
        bar = closing.enter_context(ProgressBar(console, total_steps=total, start=start))
        members = []
        say_once = _saying_once(bar.say)
        for number in _numbers(population):
            metrics = MetricsFile(folder.member(number).metrics, restored_step=start)
            closing.callback(metrics.close)
            name = f"member {number} ({population.field}={population.values[number]})"
            replaced = ReplacedExamples(setup.setup.source.names, say_once, before=metrics.last_row)
            members.append(_Member(name, metrics, checkpoints[number], replaced, bar.say))
        step = start
        if start < total:
            watch = _Watch(setup, Clock(setup.setup, start), members, stop, bar)
            source = _source_batches(setup, start)
            depth = population.experiment.run.prefetch
            with prefetch(source, _placing(setup), depth=depth) as batches:
                step = take_steps(
                    lambda _, state, batch: setup.step(state, batch),
                    state,
                    batches,
                    watch,
                    start=start,
                    total=total,
                    run=population.experiment.run,
                    stop=stop,
                    bar=bar,
                )
            for each in checkpoints:
                each.wait()
    return PopulationOutcome(
        step,
        total,
        stop.signal,
        tuple(tuple(member.verdict.alarms) for member in members),
        tuple(member.diverged for member in members),
    )


@dataclasses.dataclass
class _Member:
    """What watches one member."""

    name: str
    metrics: MetricsFile
    checkpoints: Checkpoints
    replaced: ReplacedExamples
    say: Callable[[str], None]
    verdict: Verdict = dataclasses.field(default_factory=Verdict)
    diverged: str | None = None

    def log(self, row: Row) -> None:
        """Writes a row and says what it tells; nothing more once the member has diverged."""
        if self.diverged is not None:
            return
        try:
            check_finite(row)
        except DivergedError as error:
            self.diverged = str(error)
            self.say(f"warning: {self.name}: {error}")
            return
        self.metrics.log(row)
        for alarm in self.verdict.log(row):
            self.say(f"warning, at step {int(row['step'])}: {self.name}: {alarm}")


@dataclasses.dataclass
class _Watch:
    """Looks on at all members, as `take_steps` has it."""

    setup: PopulationSetup
    clock: Clock
    members: Sequence[_Member]
    stop: StopRequest
    bar: ProgressBar

    def note(self, without_image: Sequence[np.ndarray]) -> None:
        for member, records in zip(self.members, without_image, strict=True):
            member.replaced.note(records)

    def agree(self, *, due: bool) -> tuple[signal.Signals | None, list[int]]:
        del due  # one process
        return self.stop.signal, [member.replaced.count for member in self.members]

    def log(self, step: int, metrics: Any, replaced: list[int], waited: float, done: int) -> None:
        values = jax.device_get(metrics)  # waits until they are computed
        shared = self.clock.row(step, {}, 0, waited, done)
        rates = self.setup.learning_rates(step - 1)
        rows: list[Row] = [
            shared
            | {"learning_rate": rates[number], "replaced_examples": replaced[number]}
            | {name: float(value[number]) for name, value in values.items()}
            for number in range(len(self.members))
        ]
        alive = []
        for member, row in zip(self.members, rows, strict=True):
            member.log(row)
            if not member.diverged:
                alive.append(row)
        if not alive:
            raise DivergedError(f"every member has diverged; the first: {self.members[0].diverged}")
        self.bar.log(_summary(alive))

    def save(self, step: int, state: TrainState) -> None:
        with self.clock.saving():
            for member, own in zip(self.members, self.setup.unstack(state), strict=True):
                if member.diverged is None:
                    member.checkpoints.save(step, own)


def _start_or_resume(
    setup: PopulationSetup,
    checkpoints: Sequence[Checkpoints],
    folder: PopulationDirectory,
    console: Console,
) -> tuple[int, TrainState]:
    target = setup.setup.state_shapes
    restored = [each.restore(target) for each in checkpoints]
    steps = [0 if each is None else each.step for each in restored]
    for each in restored:
        for reason in () if each is None else each.passed_over:
            say(console, f"note: passed over a checkpoint: {reason}")
    if len(set(steps)) > 1:
        raise UserError(
            f"the members in {folder.path} are at steps {', '.join(map(str, steps))}, and a "
            "population goes on from one step: train those that lack some by themselves, as in: "
            f"jaxcl train {folder.member(int(np.argmin(steps))).path}"
        )
    states = [each.state for each in restored if each is not None]
    if not states:
        return 0, setup.start()
    say(console, f"resuming after step {steps[0]}")
    return steps[0], setup.stack(states)


def _numbers(population: Population) -> range:
    return range(len(population.values))


def _checkpoints(folder: PopulationDirectory, number: int, population: Population) -> Checkpoints:
    run = population.experiment.run
    return Checkpoints(
        folder.member(number).checkpoints, keep_last=run.keep_last, keep_every=run.keep_every
    )


def _source_batches(setup: PopulationSetup, start: int) -> Iterable[dict[str, np.ndarray]]:
    """Host batches of the steps to do; with an axis of members where seeds differ."""
    members = setup.population.members if setup.population.own_data else [setup.setup.experiment]
    streams = [
        Batches(
            setup.setup.source,
            member.train.batch_size,
            seed=member.train.seed,
            workers=member.run.workers,
            start=start,
            steps=setup.setup.total_steps - start,
            apart=member.train.apart,
        )
        for member in members
    ]
    return _side_by_side(streams) if setup.population.own_data else streams[0]


def _side_by_side(streams: Sequence[Batches]) -> Iterator[dict[str, np.ndarray]]:
    with contextlib.ExitStack() as closing:
        iterators = [iter(stream) for stream in streams]
        for iterator in iterators:
            closing.callback(iterator.close)
        for batches in zip(*iterators, strict=True):
            yield {name: _stacked([batch[name] for batch in batches]) for name in batches[0]}


def _stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Members' arrays with an axis of members; texts are filled up to the longest batch."""
    longest = max(array.shape[-1] for array in arrays)
    if any(array.shape[-1] < longest for array in arrays):
        arrays = [
            np.pad(
                array,
                [(0, 0)] * (array.ndim - 1) + [(0, longest - array.shape[-1])],
                constant_values=-1,
            )
            for array in arrays
        ]
    return np.stack(arrays)


def _placing(
    setup: PopulationSetup,
) -> Callable[[dict[str, np.ndarray]], tuple[Any, list[np.ndarray]]]:
    """Places a batch on the device; each member's records without an image stay on the host."""
    count = len(setup.population.values)

    def place(batch: dict[str, np.ndarray]) -> tuple[Any, list[np.ndarray]]:
        arrays = {name: value for name, value in batch.items() if name != "replaced"}
        index, replaced = batch["index"], batch["replaced"]
        if setup.population.own_data:
            without = [rows[which] for rows, which in zip(index, replaced, strict=True)]
        else:
            without = [index[replaced]] * count
        return setup.place(arrays), without

    return place


def _saying_once(say: Callable[[str], None]) -> Callable[[str], None]:
    said: set[str] = set()

    def say_once(text: str) -> None:
        if text not in said:
            said.add(text)
            say(text)

    return say_once


def _summary(rows: Sequence[Row]) -> Row:
    """One row for the progress bar: means over members, and the examples of all of them."""
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return mean | {"examples_per_second": sum(row["examples_per_second"] for row in rows)}
