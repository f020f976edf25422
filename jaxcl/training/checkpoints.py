"""Checkpoints: orbax writes the arrays; a manifest with a digest of each says whether they hold."""

import dataclasses
import errno
import hashlib
import json
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy's dtype names)
import numpy as np
import orbax.checkpoint as ocp

from jaxcl.training.durable_files import write_durably
from jaxcl.training.errors import UserError
from jaxcl.training.state import name_leaves, path_name

_MANIFEST = "manifest.json"
_ARRAYS = "arrays"
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
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep_last: int = 2,
        keep_every: int | None = None,
        write: bool = True,
    ) -> None:
        self._folder = folder.absolute()
        self._write = write
        self._keep_last = keep_last
        self._keep_every = keep_every
        self._last_step = 0
        # One thread: a checkpoint is whole before the next one is begun.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._saving: Future[None] | None = None

    def save(self, step: int, state: Any) -> None:
        """Copies `state` from the devices and writes it in the background.

        Waits for the checkpoint before it, if that is still being written. Does nothing without
        `write`, as in all processes of a run but the first.

        Raises:
          CheckpointError: if that one, or the start of this one, failed.
        """
        if not self._write:
            return
        self.wait()
        arrays = {name: np.array(leaf) for name, leaf in name_leaves(state).items()}
        folder = self._folder / f"{step:08d}"
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._check_space(arrays)
        except OSError as error:
            raise self._failure(step, error) from error
        self._last_step = step
        self._saving = self._thread.submit(self._write_whole, step, arrays)

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
            entries = manifest["arrays"]
            digests = {name: entry["sha256"] for name, entry in entries.items()}
            files = dict(manifest["files"])
            empty = {
                name: np.zeros(entry["shape"], np.dtype(entry["dtype"]))
                for name, entry in entries.items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"step {step}: its manifest is damaged ({error})") from error
        # First the files, so that orbax never sees damaged ones.
        for name, digest in files.items():
            path = folder / _ARRAYS / name
            if not path.is_file() or _file_digest(path) != digest:
                raise CheckpointError(f"step {step}: its file {name} is damaged or missing")
        try:
            with _checkpointer() as reader:
                arrays = reader.restore(
                    folder / _ARRAYS, args=ocp.args.StandardRestore(_without_empty(empty))
                )
        except _DAMAGED as error:
            reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
            raise CheckpointError(f"step {step}: its arrays do not read ({reason})") from error
        arrays = empty | arrays
        for name, digest in digests.items():
            if _digest(arrays[name]) != digest:
                raise CheckpointError(f"step {step}: the digest of {name} does not match")
        return arrays

    def _write_whole(self, step: int, arrays: dict[str, np.ndarray]) -> None:
        """Runs in the background: the arrays by orbax, then what tells whether they hold."""
        folder = self._folder / f"{step:08d}"
        with _checkpointer() as writer:
            writer.save(folder / _ARRAYS, args=ocp.args.StandardSave(_without_empty(arrays)))
        entries = {
            name: {
                "dtype": array.dtype.name,
                "shape": list(array.shape),
                "sha256": _digest(array),
            }
            for name, array in arrays.items()
        }
        files = {
            str(path.relative_to(folder / _ARRAYS)): _file_digest(path)
            for path in sorted((folder / _ARRAYS).rglob("*"))
            if path.is_file()
        }
        manifest = {"step": step, "arrays": entries, "files": files}
        write_durably(folder / _MANIFEST, json.dumps(manifest, indent=1))
        self._prune(newest=step)

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


def _checkpointer() -> ocp.Checkpointer:
    """Orbax's own; this process reads or writes by itself, not with the others of its run."""
    index = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process{index}"
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


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


def _without_empty(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Orbax does not write arrays without elements; the manifest alone holds those."""
    return {name: array for name, array in arrays.items() if array.size}


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
