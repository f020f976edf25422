"""Curves for TensorBoard and Weights & Biases, beside metrics.jsonl."""

import contextlib
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from jaxcl.extras import import_extra
from jaxcl.training.config_json import to_data
from jaxcl.training.durable_files import write_durably
from jaxcl.training.errors import UserError
from jaxcl.training.experiment import Experiment
from jaxcl.training.run_directory import RunDirectory

_MODULES = {"tensorboard": "tensorboard.summary.writer.event_file_writer", "wandb": "wandb"}


class Tracker(Protocol):
    """Takes figures as a run goes on."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Takes figures of a step, by names such as `train/loss` and `eval/knn_top1`."""

    def close(self) -> None:
        """Writes what is not written yet."""


def check_trackers(names: Sequence[str]) -> None:
    """Raises `MissingExtra` where what a tracker needs is not installed."""
    for name in names:
        import_extra(_MODULES[name], name)


@contextlib.contextmanager
def trackers(
    experiment: Experiment, directory: Path, *, from_step: int | None
) -> Iterator[list[Tracker]]:
    """Opens the trackers that `experiment.run.trackers` names, and closes them.

    Args:
      experiment: what is run.
      directory: the run directory; a resumed run goes on with the same curves.
      from_step: the first step that is logged, from which on a curve that is there is replaced;
        None: what is logged comes beside it.

    Raises:
      MissingExtra: where a package is not installed.
      UserError: where Weights & Biases cannot begin.
    """
    with contextlib.ExitStack() as closing:
        found: list[Tracker] = []
        for name in experiment.run.trackers:
            one: Tracker
            if name == "tensorboard":
                one = TensorBoard(RunDirectory(directory).tensorboard, from_step=from_step)
            else:
                one = WeightsAndBiases(directory, experiment)
            closing.callback(one.close)
            found.append(one)
        yield found


class TensorBoard:
    """Event files that TensorBoard reads."""

    def __init__(self, folder: Path, *, from_step: int | None) -> None:
        writer = import_extra("tensorboard.summary.writer.event_file_writer", "tensorboard")
        self._events = import_extra("tensorboard.compat.proto.event_pb2", "tensorboard")
        self._summaries = import_extra("tensorboard.compat.proto.summary_pb2", "tensorboard")
        is_resumed = folder.exists()
        self._writer: Any = writer.EventFileWriter(str(folder))
        if is_resumed and from_step is not None:  # TensorBoard drops what it has from there on
            begin = self._events.SessionLog(status=self._events.SessionLog.START)
            self._write(from_step, session_log=begin)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """As `Tracker`."""
        values = [
            self._summaries.Summary.Value(tag=name, simple_value=float(value))
            for name, value in figures.items()
        ]
        self._write(step, summary=self._summaries.Summary(value=values))

    def _write(self, step: int, **content: Any) -> None:
        self._writer.add_event(self._events.Event(wall_time=time.time(), step=step, **content))

    def close(self) -> None:
        """As `Tracker`."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases: one for a run directory, however often it is stopped.

    Its own variables say where to: WANDB_PROJECT (else "jaxcl"), WANDB_MODE=offline, and so on.
    """

    def __init__(self, directory: Path, experiment: Experiment) -> None:
        wandb = import_extra("wandb", "wandb")
        try:
            self._run: Any = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "jaxcl"),
                id=_identity(RunDirectory(directory).wandb),
                name=directory.name,
                dir=str(directory),
                config=to_data(experiment),
                resume="allow",
            )
        except wandb.errors.Error as error:
            raise UserError(
                f"Weights & Biases cannot begin: {str(error).splitlines()[0]} Log in by `wandb "
                "login`, or set WANDB_MODE=offline and `wandb sync` later"
            ) from error

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """As `Tracker`."""
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        """As `Tracker`."""
        self._run.finish()


def _identity(path: Path) -> str:
    """The run's name for good, written at its beginning."""
    if not path.exists():
        write_durably(path, secrets.token_hex(8) + "\n")
    return path.read_text().strip()
