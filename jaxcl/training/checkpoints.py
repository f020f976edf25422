"""Checkpoints: orbax writes the arrays; a manifest with a digest of each says whether they hold."""

import contextlib
import dataclasses
import errno
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy's dtype names)
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint._src.multihost import multihost

from jaxcl.training.durable_files import write_durably
from jaxcl.training.errors import UserError
from jaxcl.training.processes import all_or_none
from jaxcl.training.state import name_leaves, path_name

_MANIFEST = "manifest.json"
_ARRAYS = "arrays"
_ORBAX = threading.RLock()  # what is patched while it reads or writes is the whole process's
_BYTES_BESIDE = 4096  # an array's own metadata and digests, at most

# What orbax and tensorstore raise at damaged bytes.
_DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, IndexError)


class CheckpointError(OSError):
    """A checkpoint could not be written or read; the message says which and what to do."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """A state read back."""

    step: int
    state: Any
    passed_over: tuple[str, ...]
    """Newer checkpoints that did not hold, and why, a line each."""


class Checkpoints:
    """The checkpoints of one run, written in the background.

    Each is a folder named by its step, with the arrays as orbax writes them and a manifest, written
    last: the type, shape and sha256 of every array, and the sha256 of every file. One without a
    whole manifest does not count.

    Of several processes each writes a share of the arrays, into a folder of its own, and says so in
    a file beside it; the first makes the manifest of all. They need a file system that all see.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep_last: int = 2,
        keep_every: int | None = None,
        process: int = 0,
        processes: int = 1,
        seconds: float = 600,
    ) -> None:
        """Prepares, and writes nothing.

        Args:
          folder: of all checkpoints.
          keep_last: newest ones kept.
          keep_every: those of steps that it divides are kept for good, too.
          process: the number of this process.
          processes: how many write.
          seconds: how long the first waits for the shares of the others.
        """
        self._folder = folder.absolute()
        self._process = process
        self._processes = processes
        self._seconds = seconds
        self._keep_last = keep_last
        self._keep_every = keep_every
        self._last_step = 0
        # One thread: a checkpoint is whole before the next one is begun.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._saving: Future[None] | None = None

    def save(self, step: int, state: Any) -> None:
        """Copies this process's share of `state` and writes it in the background.

        All processes have to call it.

        Waits for the checkpoint before it, if that is still being written.

        Args:
          step: steps done.
          state: the whole state, as host arrays.

        Raises:
          CheckpointError: if that one, or the start of this one, failed.
          UserError: if it did in another process.
        """
        arrays = {name: np.asarray(leaf) for name, leaf in name_leaves(state).items()}
        own = _share(arrays, self._process, self._processes)
        copies = {name: np.array(array) for name, array in own.items()}
        folder = self._folder / f"{step:08d}"
        with all_or_none():
            self.wait()
            try:
                if self._process == 0:
                    shutil.rmtree(folder, ignore_errors=True)
                    folder.mkdir(parents=True)
                    self._check_space(arrays)
            except OSError as error:
                raise self._failure(step, error) from error
        self._last_step = step
        self._saving = self._thread.submit(self._write_share, step, copies)

    def wait(self) -> None:
        """Waits until nothing is being written.

        Raises:
          CheckpointError: if writing failed.
        """
        saving, self._saving = self._saving, None
        if saving is None:
            return
        try:
            saving.result()
        except (OSError, ValueError, RuntimeError) as error:
            raise self._failure(self._last_step, error) from error

    def close(self) -> None:
        """Waits, and ends the background thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def steps(self) -> list[int]:
        """Steps that have a manifest, ascending; whether they hold is seen on reading."""
        return sorted(
            int(manifest.parent.name)
            for manifest in self._folder.glob(f"*/{_MANIFEST}")
            if manifest.parent.name.isdigit()
        )

    def restore(self, target: Any) -> Restored | None:
        """The newest checkpoint whose digests hold.

        Args:
          target: a state of the same structure; its values are not looked at.

        Returns:
          The state as host arrays, or None if no checkpoint exists.

        Raises:
          CheckpointError: if some exist and none holds.
          UserError: if the newest one that holds is of another structure, naming what differs.
        """
        passed_over: list[str] = []
        for step in reversed(self.steps()):
            try:
                arrays = self._read(step)
            except CheckpointError as error:
                passed_over.append(str(error))
                continue
            return Restored(step, _fill(target, arrays, step), tuple(passed_over))
        if passed_over:
            raise CheckpointError(
                f"no checkpoint in {self._folder} holds: " + "; ".join(passed_over)
            )
        return None

    def _read(self, step: int) -> dict[str, np.ndarray]:
        folder = self._folder / f"{step:08d}"
        link = next((path for path in (folder, *folder.rglob("*")) if path.is_symlink()), None)
        if link is not None:
            raise CheckpointError(f"step {step}: {link.name} is a link, which is not followed")
        try:
            manifest = json.loads((folder / _MANIFEST).read_text())
            if "arrays" in manifest:
                raise CheckpointError(f"step {step}: an earlier version of jaxcl wrote it")
            shares = manifest["shares"]
            digests: dict[str, str] = {}
            files: dict[str, str] = {}
            empty = []
            for share in shares:
                entries = share["arrays"]
                digests |= {name: entry["sha256"] for name, entry in entries.items()}
                files |= share["files"]
                empty.append(
                    {
                        name: np.zeros(entry["shape"], np.dtype(entry["dtype"]))
                        for name, entry in entries.items()
                    }
                )
        except CheckpointError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"step {step}: its manifest is damaged ({error})") from error
        # First the files, so that orbax never sees damaged ones.
        for name, digest in files.items():
            path = folder / name
            if not path.is_file() or _file_digest(path) != digest:
                raise CheckpointError(f"step {step}: its file {name} is damaged or missing")
        arrays: dict[str, np.ndarray] = {}
        try:
            for number, share in enumerate(empty):
                arrays |= share
                if _without_empty(share):
                    with _checkpointer() as reader:
                        arrays |= reader.restore(
                            folder / f"{_ARRAYS}-{number}",
                            args=ocp.args.StandardRestore(_without_empty(share)),
                        )
        except _DAMAGED as error:
            reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
            raise CheckpointError(f"step {step}: its arrays do not read ({reason})") from error
        for name, digest in digests.items():
            if _digest(arrays[name]) != digest:
                raise CheckpointError(f"step {step}: the digest of {name} does not match")
        return arrays

    def _write_share(self, step: int, own: dict[str, np.ndarray]) -> None:
        """Runs in the background: this process's share, and the manifest if it is the first."""
        path = self._shares(self._folder / f"{step:08d}")[self._process]
        try:
            share = self._write_arrays(path.with_suffix(""), own)
        except (OSError, ValueError, RuntimeError) as error:
            with contextlib.suppress(OSError):  # then the first waits
                write_durably(path, json.dumps({"error": str(error)[:500]}))
            raise
        if self._processes > 1:
            write_durably(path, json.dumps(share))
        if self._process == 0:
            shares = [share, *map(self._await_share, self._shares(path.parent)[1:])]
            manifest = {"step": step, "shares": shares}
            write_durably(path.parent / _MANIFEST, json.dumps(manifest, indent=1))
            for each in self._shares(path.parent):
                each.unlink(missing_ok=True)
            self._prune(newest=step)

    def _write_arrays(self, where: Path, own: dict[str, np.ndarray]) -> dict[str, Any]:
        """Arrays by orbax; returns what tells whether they hold."""
        if _without_empty(own):
            with _checkpointer() as writer:
                writer.save(where, args=ocp.args.StandardSave(_without_empty(own)))
        entries = {
            name: {
                "dtype": array.dtype.name,
                "shape": list(array.shape),
                "sha256": _digest(array),
            }
            for name, array in own.items()
        }
        files = {
            str(path.relative_to(where.parent)): _file_digest(path)
            for path in sorted(where.rglob("*"))
            if path.is_file()
        }
        return {"arrays": entries, "files": files}

    def _shares(self, folder: Path) -> list[Path]:
        """The files in which the processes say what they wrote."""
        return [folder / f"{_ARRAYS}-{process}.json" for process in range(self._processes)]

    def _await_share(self, path: Path) -> dict[str, Any]:
        who = path.stem.replace(f"{_ARRAYS}-", "process ")
        deadline = time.monotonic() + self._seconds
        while time.monotonic() < deadline:
            if path.exists():  # whole, as it was renamed into place
                share: dict[str, Any] = json.loads(path.read_text())
                if "error" in share:
                    raise OSError(f"{who}: {share['error']}")
                return share
            time.sleep(0.05)
        raise OSError(
            f"{who} has not written its share within {self._seconds:g} s: do all processes see "
            "this folder?"
        )

    def _prune(self, newest: int) -> None:
        """Removes what `newest`, just written, makes superfluous.

        That is: old ones that are not to be kept; later ones, which did not hold when the run went
        on from an earlier one; and what a save that failed or was killed left behind.
        """
        whole = set(self.steps())
        kept = {step for step in whole if step <= newest}
        old = sorted(kept)[: -self._keep_last]
        kept -= {step for step in old if self._keep_every is None or step % self._keep_every}
        for folder in self._folder.iterdir():
            if folder.name.isdigit() and int(folder.name) not in kept:
                # The manifest first, so that a half-removed one does not count.
                (folder / _MANIFEST).unlink(missing_ok=True)
                shutil.rmtree(folder)

    def _check_space(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Sees a full disk before orbax meets it halfway; a quota shows only then."""
        needed = sum(array.nbytes + _BYTES_BESIDE for array in arrays.values())
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise OSError(
                errno.ENOSPC, f"{needed / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free"
            )

    def _failure(self, step: int, error: Exception) -> CheckpointError:
        kept = self.steps()
        newest = f"step {kept[-1]} is the newest kept" if kept else "none was kept before"
        text = (error.strerror if isinstance(error, OSError) else None) or str(error)
        reason = next((line for line in text.splitlines() if line), type(error).__name__)
        return CheckpointError(
            f"cannot write the checkpoint of step {step} below {self._folder} ({reason[:200]}); "
            f"{newest}. Free some disk or mend the permissions, then resume the run"
        )


@contextlib.contextmanager
def _checkpointer() -> Iterator[ocp.Checkpointer]:
    """Orbax's own, as in a run of one process: this one reads and writes by itself.

    Of several, Orbax would have the first alone write what lies on hosts.
    """
    alone = ocp.options.MultiprocessingOptions(
        primary_host=0, active_processes={0}, barrier_sync_key_prefix=f"{jax.process_index()}"
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    with (
        _ORBAX,
        mock.patch.object(multihost, "process_index", return_value=0),
        ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer,
    ):
        yield checkpointer


def _fill(target: Any, arrays: Mapping[str, np.ndarray], step: int) -> Any:
    """`target` with the arrays in place of its leaves."""
    wanted = name_leaves(target)
    problems = [f"{name} is missing" for name in wanted.keys() - arrays.keys()]
    problems += [f"{name} is not expected" for name in arrays.keys() - wanted.keys()]
    problems += [
        f"{name} is {arrays[name].dtype}{list(arrays[name].shape)}, "
        f"expected {leaf.dtype}{list(leaf.shape)}"
        for name, leaf in wanted.items()
        if name in arrays
        and (arrays[name].shape != tuple(leaf.shape) or arrays[name].dtype != leaf.dtype)
    ]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"the checkpoint of step {step} is of another experiment: "
            + "; ".join(sorted(problems)[:3])
            + more
        )
    return jax.tree_util.tree_map_with_path(lambda path, _: arrays[path_name(path)], target)


def _share(arrays: Mapping[str, np.ndarray], process: int, processes: int) -> dict[str, np.ndarray]:
    """The arrays that a process writes: of all, the largest first, each to who has least."""
    written = [0] * processes
    own = {}
    for name in sorted(arrays, key=lambda name: (-arrays[name].nbytes, name)):
        least = written.index(min(written))
        written[least] += arrays[name].nbytes + 1
        if least == process:
            own[name] = arrays[name]
    return own


def _without_empty(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Orbax does not write arrays without elements; the manifest alone holds those."""
    return {name: array for name, array in arrays.items() if array.size}


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
