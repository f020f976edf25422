"""A run's directory: its configuration, its lock, and where everything lies."""

import contextlib
import dataclasses
import datetime
import fcntl
import importlib.metadata
import json
import os
import platform
import socket
from pathlib import Path
from typing import IO, TypeAlias

import jax
import numpy as np

from jaxcl.data.text import texts_within
from jaxcl.data.tokenizer import tokenizer_file
from jaxcl.training.config_json import classes_of, differences, from_data, to_data
from jaxcl.training.durable_files import cannot_write, write_durably
from jaxcl.training.errors import UserError
from jaxcl.training.experiment import Experiment

_MAY_DIFFER = ("run", "evaluate", "tasks")
"""Parts of an experiment that may change on resuming, for they do not change what is learned."""

Inputs: TypeAlias = dict[str, jax.ShapeDtypeStruct]
"""Shapes and types of the fields of one example that views are made of."""


class RunDirectory:
    """The files of one run. Nothing in it is ever executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def config(self) -> Path:
        """The resolved experiment, as JSON."""
        return self.path / "config.json"

    @property
    def facts(self) -> Path:
        """What the run found out: image shape and type, number of examples, devices."""
        return self.path / "facts.json"

    @property
    def environment(self) -> Path:
        """Versions and machine of the last start."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a logged step."""
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Event files, where TensorBoard tracks the run."""
        return self.path / "tensorboard"

    @property
    def wandb(self) -> Path:
        """The run's name at Weights & Biases, where that tracks it."""
        return self.path / "wandb_run.txt"

    @property
    def profile(self) -> Path:
        """What `--profile` traced."""
        return self.path / "profile"

    @property
    def checkpoints(self) -> Path:
        """One folder a checkpoint."""
        return self.path / "checkpoints"

    @property
    def evaluation(self) -> Path:
        """What was measured of the trained features."""
        return self.path / "evaluation.json"

    @property
    def neighbours(self) -> Path:
        """Picture of test examples and their nearest training examples."""
        return self.path / "neighbours.png"

    @property
    def tasks(self) -> Path:
        """What the experiment's tasks measured."""
        return self.path / "tasks.json"

    def tokenizer(self, texts: int) -> Path:
        """A copy of a tokenizer, by the place of its texts within the training data's."""
        return self.path / f"tokenizer_{texts}.json"

    def changed_tokenizers(self, experiment: Experiment) -> list[str]:
        """Tokenizers that are not what the run was trained with, in words."""
        return [
            f"{texts.tokenizer} is not the tokenizer that the run was trained with, "
            f"{self.tokenizer(number)}"
            for number, texts in enumerate(texts_within(experiment.data))
            if self.tokenizer(number).exists()
            and self.tokenizer(number).read_text("utf-8")
            != Path(tokenizer_file(texts.tokenizer)).read_text("utf-8")
        ]

    def prepare(self, experiment: Experiment, facts: "RunFacts") -> list[str]:
        """Writes what the run is, or checks that the directory is of the same experiment.

        Call it while holding the directory's `RunLock`.

        Returns:
          What may be meant or not, in words.

        Raises:
          UserError: if a run of another experiment, or of other data, lies there, naming what
            differs.
          OSError: if it cannot be written.
        """
        new, notices = to_data(experiment), []
        tokenizers = {
            self.tokenizer(number): Path(tokenizer_file(texts.tokenizer)).read_text("utf-8")
            for number, texts in enumerate(texts_within(experiment.data))
        }
        if self.config.exists():
            changed = differences(self._read_json(self.config), new, ignore=_MAY_DIFFER)
            if self.facts.exists():
                before = self.read_facts()
                changed += before.changes(facts)
                if before.devices != facts.devices and "batch_norm_groups" in _integers(new):
                    notices.append(
                        f"the run goes on with {facts.devices} devices, {before.devices} before: "
                        "batch_norm_groups counts groups on each, so batch statistics change"
                    )
            changed += self.changed_tokenizers(experiment)
            if changed:
                more = f"; and {len(changed) - 4} more" if len(changed) > 4 else ""
                raise UserError(
                    f"{self.path} holds a run of another experiment: "
                    + "; ".join(changed[:4])
                    + f"{more}. Choose another --out, or resume it without these changes (options "
                    "below run, evaluate and tasks may change)"
                )
        for copy, content in tokenizers.items():
            write_durably(copy, content)
        write_durably(self.config, json.dumps(new, indent=2) + "\n")
        write_durably(self.facts, json.dumps(dataclasses.asdict(facts)) + "\n")
        write_durably(self.environment, json.dumps(_environment(), indent=2) + "\n")
        return notices

    def read_experiment(self, like: Experiment | None = None) -> Experiment:
        """The experiment that the directory holds.

        Args:
          like: one whose classes it may have beside jaxcl's own; None: only these.

        Raises:
          FileNotFoundError: if there is none.
          UserError: if it is damaged, or names other classes.
        """
        if not self.config.is_file():
            raise FileNotFoundError(
                f"{self.path} is not a run directory (it has no config.json): give a config file "
                "or a directory that `jaxcl train` made"
            )
        try:
            experiment = from_data(self._read_json(self.config), classes_of(like))
        except (ValueError, TypeError) as error:
            raise UserError(f"{self.config}: {error}") from error
        if not isinstance(experiment, Experiment):
            raise UserError(f"{self.config} holds no experiment")
        return experiment

    def read_facts(self) -> "RunFacts":
        """What the run found out.

        Raises:
          UserError: if the file that says so is missing or damaged.
        """
        try:
            facts = self._read_json(self.facts)
            return RunFacts(
                {
                    name: (tuple(shape), np.dtype(dtype).name)
                    for name, (shape, dtype) in facts["inputs"].items()
                },
                int(facts["examples"]),
                int(facts["devices"]),
                facts.get("classes"),
            )
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.facts} is missing or damaged. It is written anew, once deleted, by: "
                f"jaxcl train {self.path}"
            ) from error

    def _read_json(self, path: Path) -> dict:
        try:
            data = json.loads(path.read_text())
        except ValueError as error:
            raise UserError(f"{path} is damaged: {error}") from error
        if not isinstance(data, dict):
            raise UserError(f"{path} is damaged: it holds no JSON object")
        return data


_PACKAGES = ("jaxcl", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def _environment() -> dict[str, str]:
    """Versions and machine, in words."""
    device = jax.devices()[0]
    return {
        "Python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        "devices": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "processes": str(jax.process_count()),
        "system": platform.platform(),
    }


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What a run found out about its data and machine."""

    inputs: dict[str, tuple[tuple[int, ...], str]]
    """Shape and type of each field of an example."""
    examples: int
    devices: int
    classes: int | None = None
    """One more than the largest label; None without labels."""

    @property
    def shapes(self) -> Inputs:
        """Shapes and types of the fields of an example."""
        return {
            name: jax.ShapeDtypeStruct(shape, np.dtype(dtype))
            for name, (shape, dtype) in self.inputs.items()
        }

    def changes(self, now: "RunFacts") -> list[str]:
        """What of the data is not as it was, for the order of the data hangs on it."""
        return [
            f"data, {name}: {getattr(self, name)} there, {getattr(now, name)} here"
            for name in ("inputs", "examples")
            if getattr(self, name) != getattr(now, name)
        ]


def _integers(data: object) -> set[str]:
    """Names of the fields anywhere in an experiment that hold an integer."""
    if isinstance(data, list):
        return set().union(*map(_integers, data))
    if not isinstance(data, dict):
        return set()
    own = {name for name, value in data.items() if type(value) is int}
    return own.union(*map(_integers, data.values()))


class RunLock:
    """Keeps two processes from writing one run directory; makes the directory if missing.

    The operating system's lock on a file, which ends with its process however that ends; the file
    says who holds it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path / "lock.json"
        self._file: IO[str] | None = None

    def __enter__(self) -> "RunLock":
        where = self._path.parent
        try:
            where.mkdir(parents=True, exist_ok=True)
            file = self._path.open("a+")
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(f"{where} is not a directory: choose another --out") from error
        except OSError as error:
            raise cannot_write(self._path, error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = self._holder()
            file.close()
            raise UserError(
                f"{where} is in use by process {holder.get('process', 'unknown')} on "
                f"{holder.get('host', 'unknown')} since {holder.get('start', 'unknown')}: wait for "
                "it or choose another --out"
            ) from error
        owner = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "start": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        try:
            file.truncate(0)
            file.write(json.dumps(owner))
            file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):
                file.close()
            raise cannot_write(self._path, error) from error
        self._file = file
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def _holder(self) -> dict:
        try:
            holder = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return holder if isinstance(holder, dict) else {}


def free_directory(path: Path) -> Path:
    """`path`, or the first of `path-2`, `path-3` ... that does not exist."""
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate
