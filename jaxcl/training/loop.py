"""The training loop: batches in, checkpoints and metrics out."""

import contextlib
import dataclasses
import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from jaxcl.data import Batches, prefetch
from jaxcl.training.checkpoints import Checkpoints
from jaxcl.training.config_json import differences, to_data
from jaxcl.training.devices import device_memory
from jaxcl.training.errors import TAKES_LESS_MEMORY, UserError
from jaxcl.training.experiment import Experiment
from jaxcl.training.observers import (
    MetricsFile,
    ProgressBar,
    ReplacedExamples,
    Row,
    Verdict,
    check_finite,
)
from jaxcl.training.processes import agree, all_or_none, code_digest, is_first, totals
from jaxcl.training.profiling import Profile, Tracer
from jaxcl.training.run_directory import RunDirectory, RunLock
from jaxcl.training.setup import Setup, set_up
from jaxcl.training.state import TrainState
from jaxcl.training.steps import take_steps
from jaxcl.training.stopping import StopRequest
from jaxcl.training.trackers import check_trackers, trackers


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How `train` ended."""

    step: int
    """Steps done, all in all."""
    total_steps: int
    """Steps of the whole run."""
    stopped_by: signal.Signals | None
    """The signal that ended it early."""
    alarms: tuple[str, ...]
    """What the health signals said, in words."""

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.total_steps


def train(
    experiment: Experiment,
    directory: Path,
    *,
    console: Console | None = None,
    profile: Profile | None = None,
    listeners: Sequence[Callable[[Row], None]] = (),
) -> Outcome:
    """Trains, from the newest checkpoint in `directory` if there is one.

    Ctrl-C and SIGTERM save a checkpoint after the step at hand and return. A run that was stopped
    and resumed ends with the very same arrays as one that never stopped, on the same devices.

    Args:
      experiment: what to train.
      directory: the run directory; made if missing.
      console: where to say how it goes; None: standard error.
      profile: steps to trace, into `profile` of the run directory; of several processes the first.
      listeners: called with each row of the log, once it is in the file; of several processes, in
        the first.

    Returns:
      How it ended.

    Raises:
      UserError: where the experiment does not fit together, the directory holds another, or the
        loss is not a number any more (`DivergedError`).
      OSError: where files cannot be read or written; checkpoints written before are kept.
    """
    console = console or Console(stderr=True)
    first = is_first()
    if not first:
        console = Console(quiet=True)
    with all_or_none():
        check_trackers(experiment.run.trackers if first else ())
        setup = set_up(experiment)
        check_fits(setup)
    _agree(setup)
    files, run = RunDirectory(directory), experiment.run
    with StopRequest() as stop, what_does_not_fit(setup), contextlib.ExitStack() as closing:
        notices = setup.notices
        with all_or_none():
            if first:
                closing.enter_context(RunLock(directory))
                notices = (*notices, *files.prepare(experiment, setup.facts))
        for notice in notices:
            say(console, f"note: {notice}")
        checkpoints = Checkpoints(
            files.checkpoints,
            keep_last=run.keep_last,
            keep_every=run.keep_every,
            process=jax.process_index(),
            processes=jax.process_count(),
        )
        closing.callback(checkpoints.close)
        with all_or_none():
            start, state = _start_or_resume(setup, checkpoints, console)
            if profile is not None:
                profile.check(start=start, total=setup.total_steps)
            metrics_file = MetricsFile(files.metrics, restored_step=start, write=first)
        closing.callback(metrics_file.close)
        agree("newest checkpoint", f"that of step {start}")
        if start >= setup.total_steps:
            return Outcome(start, setup.total_steps, None, ())
        bar = closing.enter_context(
            ProgressBar(console, total_steps=setup.total_steps, start=start)
        )
        verdict = Verdict()
        with all_or_none():
            tracking = trackers(experiment, directory, from_step=start + 1)
            followers = closing.enter_context(tracking) if first else []

        def observe(row: Row) -> None:
            check_finite(row)
            metrics_file.log(row)
            for follower in followers:
                follower.log(int(row["step"]), _for_trackers(row))
            for listen in listeners:
                listen(row)
            bar.log(row)
            for alarm in verdict.log(row):
                bar.say(f"warning, at step {int(row['step'])}: {alarm}")

        replaced = ReplacedExamples(
            setup.source.names, bar.say, before=metrics_file.last_row if first else None
        )
        tracer = Tracer(profile if first else None, files.profile, bar.say)
        closing.callback(tracer.close)

        def advance(step: int, state: Any, batch: Any) -> tuple[Any, Any]:
            tracer.before(step)
            done = setup.advance(state, batch)
            tracer.after(step, done)
            return done

        source_batches = Batches(
            setup.source,
            experiment.train.batch_size,
            seed=experiment.train.seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            workers=run.workers,
            start=start,
            steps=setup.total_steps - start,
            apart=experiment.train.apart,
        )
        watch = _Watch(setup, Clock(setup, start), checkpoints, stop, replaced, observe)
        with prefetch(source_batches, _placing(setup), depth=run.prefetch) as batches:
            step = take_steps(
                advance,
                state,
                batches,
                watch,
                start=start,
                total=setup.total_steps,
                run=run,
                stop=stop,
                bar=bar,
            )
        checkpoints.wait()
    return Outcome(step, setup.total_steps, stop.signal, tuple(verdict.alarms))


def _for_trackers(row: Row) -> Row:
    return {f"train/{name}": value for name, value in row.items() if name != "step"}


def check_fits(setup: Setup) -> None:
    """Raises a `UserError` where the state alone is too large for a device."""
    state = sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(setup.placed_shapes())
    )
    memory = device_memory(jax.local_devices()[0])
    if state > memory:
        raise UserError(
            f"the state takes {state / 1e9:.1f} GB of each device, which has {memory / 1e9:.1f}: "
            "take a smaller encoder, queue or bank, or spread it over more devices by "
            "--run.spread-state --run.mapping shard_map"
        )


@contextlib.contextmanager
def what_does_not_fit(setup: Setup) -> Iterator[None]:
    """Says of a device that runs out of memory what would fit.

    Raises:
      UserError: with what was wanted, in the compiler's or the allocator's words.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        said = str(error).splitlines()[0].partition("RESOURCE_EXHAUSTED: ")[2][:200].rstrip(". ")
        raise UserError(
            f"batch {setup.experiment.train.batch_size} over {len(setup.devices.devices)} devices "
            f"does not fit into their memory ({said}): {TAKES_LESS_MEMORY}"
        ) from error


def _agree(setup: Setup) -> None:
    """Sees that all processes do the same; else they would compute nonsense, or wait for ever."""

    def describe(here: str, there: str) -> str:
        return "; ".join(differences(json.loads(there), json.loads(here))[:3])

    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "optax"))
    agree("version", versions)
    agree("jaxcl", code_digest())
    agree("experiment", json.dumps(to_data(setup.experiment)), describe=describe)
    facts = setup.facts
    agree("data set", f"{facts.examples} examples of {facts.inputs}")


def _start_or_resume(
    setup: Setup, checkpoints: Checkpoints, console: Console
) -> tuple[int, TrainState]:
    restored = checkpoints.restore(setup.state_shapes)
    if restored is None:
        return 0, setup.start()
    for reason in restored.passed_over:
        say(console, f"note: passed over a checkpoint: {reason}")
    say(console, f"resuming after step {restored.step}")
    return restored.step, setup.place(restored.state)


@dataclasses.dataclass
class _Watch:
    """Looks on at a run, as `take_steps` has it."""

    setup: Setup
    clock: "Clock"
    checkpoints: Checkpoints
    stop: StopRequest
    replaced: ReplacedExamples
    observe: Callable[[Row], None]

    def note(self, without_image: np.ndarray) -> None:
        self.replaced.note(without_image)

    def agree(self, *, due: bool) -> tuple[signal.Signals | None, int]:
        count = self.replaced.count
        if jax.process_count() == 1:
            return self.stop.signal, count
        if not due:
            return None, count
        asked, count = totals(int(self.stop.signal is not None), count)
        if not asked:  # of a signal that has come meanwhile all hear when they next ask
            return None, count
        self.stop.signal = self.stop.signal or signal.SIGTERM
        return self.stop.signal, count

    def log(self, step: int, metrics: Any, replaced: int, waited: float, done: int) -> None:
        self.observe(self.clock.row(step, metrics, replaced, waited, done))

    def save(self, step: int, state: Any) -> None:
        with self.clock.saving():
            self.checkpoints.save(step, self.setup.fetch(state))


def _placing(setup: Setup) -> Callable[[dict[str, np.ndarray]], tuple[Any, np.ndarray]]:
    """Places a batch on the devices; the records without an image of their own stay on the host."""

    def place(batch: dict[str, np.ndarray]) -> tuple[Any, np.ndarray]:
        arrays = {name: value for name, value in batch.items() if name != "replaced"}
        return setup.devices.split(arrays), batch["index"][batch["replaced"]]

    return place


class Clock:
    """Rates, and where the time went, between one row of the log and the next."""

    def __init__(self, setup: Setup, start: int) -> None:
        self._setup = setup
        self._time, self._waited, self._done = time.monotonic(), 0.0, start
        self._saving = 0.0
        self._rates: Row = {}

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Counts the time within as that of a checkpoint, which the devices wait for."""
        began = time.monotonic()
        yield
        self._saving += time.monotonic() - began

    def row(
        self, step: int, metrics: dict[str, jax.Array], replaced: int, waited: float, done: int
    ) -> Row:
        """A step's row, made when `done` steps are; waits until the device has its metrics."""
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        now = time.monotonic()
        if done > self._done:  # else the last row has just been, and its rates are the latest
            seconds = max(now - self._time, 1e-9)
            examples = (done - self._done) * self._setup.experiment.train.batch_size
            waiting = min((waited - self._waited) / seconds, 1.0)
            saving = min(self._saving / seconds, 1.0 - waiting)
            self._rates = {
                "examples_per_second": examples / seconds,
                "step_seconds": seconds / (done - self._done),
                "computing_share": 1.0 - waiting - saving,
                "waiting_share": waiting,
                "saving_share": saving,
            }
            self._time, self._waited, self._done, self._saving = now, waited, done, 0.0
        return {
            "step": step,
            "epoch": step / self._setup.steps_per_epoch,
            "learning_rate": float(self._setup.learning_rate(step - 1)),
            **self._rates,
            "replaced_examples": replaced,
            **values,
        }


def say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
