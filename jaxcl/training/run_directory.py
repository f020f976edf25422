"""A run's directory: its configuration, its lock, and where everything lies."""

import datetime
import json
import os
import socket
from pathlib import Path

import jax
import numpy as np

from jaxcl.training.checkpoints import write_durably
from jaxcl.training.config_json import differences, from_data, to_data
from jaxcl.training.errors import UserError
from jaxcl.training.experiment import Experiment

_MAY_DIFFER = ("run", "evaluate")
"""Parts of an experiment that may change on resuming, for they do not change what is learned."""


class RunDirectory:
    """The files of one run. Nothing in it is ever executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def config(self) -> Path:
        """The resolved experiment, as JSON."""
        return self.path / "config.json"

    @property
    def image(self) -> Path:
        """Shape and type of the training images, which evaluation needs without the data."""
        return self.path / "image.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a logged step."""
        return self.path / "metrics.jsonl"

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

    def prepare(self, experiment: Experiment, image: jax.ShapeDtypeStruct) -> None:
        """Creates the directory, or checks that it is of the same experiment.

        Raises:
          UserError: if a run of another experiment lies there, naming what differs.
          OSError: if it cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if self.config.exists():
            changed = differences(self.read_experiment(), experiment, ignore=_MAY_DIFFER)
            if changed:
                more = f"; and {len(changed) - 4} more" if len(changed) > 4 else ""
                raise UserError(
                    f"{self.path} holds a run of another experiment: "
                    + "; ".join(changed[:4])
                    + f"{more}. Choose another --out, or resume it with: jaxcl train {self.path}"
                )
        write_durably(self.config, json.dumps(to_data(experiment), indent=2) + "\n")
        write_durably(
            self.image, json.dumps({"shape": list(image.shape), "dtype": image.dtype.name}) + "\n"
        )

    def read_experiment(self) -> Experiment:
        """The experiment that the directory holds.

        Raises:
          FileNotFoundError: if there is none.
          UserError: if it is damaged, or names classes that are not jaxcl's.
        """
        if not self.config.is_file():
            raise FileNotFoundError(
                f"{self.path} is not a run directory (it has no config.json): give a config file "
                "or a directory that `jaxcl train` made"
            )
        try:
            data = json.loads(self.config.read_text())
        except ValueError as error:
            raise UserError(f"{self.config} is damaged: {error}") from error
        try:
            experiment = from_data(data)
        except (ValueError, TypeError) as error:
            raise UserError(f"{self.config}: {error}") from error
        if not isinstance(experiment, Experiment):
            raise UserError(f"{self.config} holds no experiment")
        return experiment

    def read_image(self) -> jax.ShapeDtypeStruct:
        """Shape and type of the training images.

        Raises:
          UserError: if the file that says so is missing or damaged.
        """
        try:
            image = json.loads(self.image.read_text())
            return jax.ShapeDtypeStruct(tuple(image["shape"]), np.dtype(image["dtype"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.image} is missing or damaged ({error}): it is written when the run is "
                f"resumed with: jaxcl train {self.path}"
            ) from error


class RunLock:
    """Keeps two processes from writing one run directory; a lock whose process is gone is taken."""

    def __init__(self, path: Path) -> None:
        self._path = path / "lock.json"

    def __enter__(self) -> "RunLock":
        owner = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "start": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        for _ in range(2):
            try:
                with self._path.open("x") as file:
                    json.dump(owner, file)
                return self
            except FileExistsError:
                self._remove_if_stale()
        raise UserError(self._held())

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)

    def _remove_if_stale(self) -> None:
        holder = self._holder()
        if holder.get("host") == socket.gethostname() and not _is_alive(holder.get("process")):
            self._path.unlink(missing_ok=True)
        else:
            raise UserError(self._held())

    def _holder(self) -> dict:
        try:
            holder = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return holder if isinstance(holder, dict) else {}

    def _held(self) -> str:
        holder = self._holder()
        return (
            f"{self._path.parent} is in use by process {holder.get('process', 'unknown')} on "
            f"{holder.get('host', 'unknown')} since {holder.get('start', 'unknown')}. If that is "
            f"gone, delete {self._path}"
        )


def _is_alive(process: object) -> bool:
    if not isinstance(process, int) or process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def free_directory(path: Path) -> Path:
    """`path`, or the first of `path-2`, `path-3` ... that does not exist."""
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate
