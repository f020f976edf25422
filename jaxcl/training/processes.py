"""Several processes as one run: how they find each other, agree, and stop together.

Each has devices of its own and its part of every batch; the first writes the run's files.
"""

import contextlib
import dataclasses
import glob
import hashlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np

from jaxcl.extras import MissingExtra
from jaxcl.training.check_in import check_in
from jaxcl.training.errors import UserError
from jaxcl.training.lifeline import Lifeline

_PORT = 8476  # where none is given, as on TPU pods


@dataclasses.dataclass(frozen=True)
class Launch:
    """One process among those of a run."""

    coordinator: str | None
    """HOST:PORT of the first process; None: jax asks the TPU's metadata for it and the rest."""
    count: int | None
    """How many processes there are."""
    index: int | None
    """Which of them this one is, from 0."""


def find_launch(
    environment: Mapping[str, str],
    *,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
) -> Launch | None:
    """What launched this process: flags, or the variables of a cluster.

    Args:
      environment: environment variables. Those of jax (`JAX_COORDINATOR_ADDRESS`,
        `JAX_NUM_PROCESSES`, `JAX_PROCESS_ID`, for Kubernetes say) go before those of SLURM's
        `srun`, of Open MPI's `mpirun` and of TPU pods.
      coordinator: HOST:PORT of the first process; the flags go before all variables.
      processes: how many there are.
      process: which one this is.

    Returns:
      This process's place, or None where it is alone.

    Raises:
      UserError: where some are given and others lack, or a number is out of range.
    """
    flags = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    if any(value is not None for value in flags.values()):
        return _whole(flags)
    address, count, index = _of_scheduler(environment)
    found = {
        "JAX_COORDINATOR_ADDRESS": environment.get("JAX_COORDINATOR_ADDRESS", address),
        "JAX_NUM_PROCESSES": environment.get("JAX_NUM_PROCESSES", count),
        "JAX_PROCESS_ID": environment.get("JAX_PROCESS_ID", index),
    }
    if found["JAX_NUM_PROCESSES"] == "1" or not any(found.values()):
        on_tpu = importlib.util.find_spec("libtpu") is not None and glob.glob("/dev/accel*")
        if not any(found.values()) and on_tpu and environment.get("JAX_PLATFORMS") != "cpu":
            return Launch(None, None, None)
        return None
    return _whole(found)


def _of_scheduler(environment: Mapping[str, str]) -> tuple[str | None, str | None, str | None]:
    """Coordinator, count and index by a cluster's variables, as far as they say."""
    if "SLURM_STEP_NODELIST" in environment and "SLURM_PROCID" in environment:
        tasks = environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS", "1")
        # Jobs that share a host have ports of their own.
        port = 61_440 + int(environment.get("SLURM_JOB_ID", "0")) % 4096
        first = _first_host(environment["SLURM_STEP_NODELIST"])
        return f"{first}:{port}", tasks, environment["SLURM_PROCID"]
    if "OMPI_COMM_WORLD_SIZE" in environment:
        size, rank = environment["OMPI_COMM_WORLD_SIZE"], environment["OMPI_COMM_WORLD_RANK"]
        # Over several hosts Open MPI 5 does not say where the first is.
        one_host = size == environment.get("OMPI_COMM_WORLD_LOCAL_SIZE")
        return f"127.0.0.1:{_PORT}" if one_host else None, size, rank
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    if len(hosts) > 1:
        return f"{hosts[0]}:{_PORT}", str(len(hosts)), environment.get("TPU_WORKER_ID")
    return None, None, None


def join(
    launch: Launch, on_loss: Callable[[int, str | None], None], *, seconds: int = 60
) -> Lifeline | None:
    """Joins the processes of a run; call it before anything asks for devices.

    Args:
      launch: this process's place.
      on_loss: called, in a thread, when a process has ended that should not have: with its number,
        and its own words if it had any.
      seconds: how long to wait for the others, and after how long without a sign one is given up.

    Returns:
      The line to the other processes, to leave by; None where jax was to ask the TPU's metadata
      and found none: this process is alone.

    Raises:
      UserError: where the coordinator does not answer, or not all come.
    """
    if launch.coordinator is not None and launch.count and launch.index is not None:
        check_in(launch.coordinator, launch.index, launch.count, seconds=seconds)
    try:
        jax.distributed.initialize(
            launch.coordinator,
            launch.count,
            launch.index,
            initialization_timeout=seconds,
            heartbeat_timeout_seconds=seconds,
        )
    except (RuntimeError, ValueError, ConnectionError) as error:
        if launch.coordinator is None and isinstance(error, ValueError):
            return None
        reason = next((line for line in str(error).splitlines() if line), type(error).__name__)
        raise UserError(
            f"could not join the {launch.count or 'other'} processes at "
            f"{launch.coordinator or 'their coordinator'} within {seconds} s ({reason[:200]}). "
            "Start all of them, each with its own number and the same count"
        ) from error
    host = None if launch.coordinator is None else launch.coordinator.rpartition(":")[0]
    return Lifeline(
        host, jax.process_index(), jax.process_count(), _exchange, on_loss, seconds=seconds
    )


def part(lifeline: Lifeline) -> None:
    """Leaves the others once all are here: what follows is this process's own affair."""
    jax.distributed.shutdown()
    lifeline.leave()


def is_first() -> bool:
    """Whether this process writes the run's files."""
    return jax.process_index() == 0


@contextlib.contextmanager
def all_or_none() -> Iterator[None]:
    """What one process raises within, as `UserError`, `OSError` or `MissingExtra`, all raise: none
    waits in vain.

    Every process has to enter and leave it. Alone, it does nothing.

    Raises:
      UserError: naming the process that failed, and why.
    """
    failure: Exception | None = None
    try:
        yield
    except (UserError, OSError, MissingExtra) as error:
        failure = error
    if jax.process_count() > 1:
        texts = _exchange("" if failure is None else str(failure))
        failed = {index: text for index, text in enumerate(texts) if text}
        if failed and failure is None:
            index, text = next(iter(failed.items()))
            raise UserError(f"process {index}: {text}")
    if failure is not None:
        raise failure


def agree(what: str, own: str, *, describe: Callable[[str, str], str] | None = None) -> None:
    """Sees that a text is the same in all processes.

    Args:
      what: what it says, for the message.
      own: this process's.
      describe: puts the difference of process 0's and another in words; None: both as they are.

    Raises:
      UserError: in all processes, naming the first that differs.
    """
    if jax.process_count() == 1:
        return
    everyones = _exchange(own)
    for index, text in enumerate(everyones):
        if text != everyones[0]:
            words = describe or "process 0 has {0}, that one {1}".format
            raise UserError(
                f"process {index} has another {what} than process 0: {words(everyones[0], text)}. "
                "Give all processes the same"
            )


def totals(*values: int) -> tuple[int, ...]:
    """Each number's sum over the processes, the same in all of them."""
    if jax.process_count() == 1:
        return values
    rows = [map(int, row.split()) for row in _exchange(" ".join(map(str, values)))]
    return tuple(map(sum, zip(*rows, strict=True)))


def of_first(text: str) -> str:
    """The first process's text, in every process."""
    return text if jax.process_count() == 1 else _exchange(text)[0]


def code_digest() -> str:
    """A digest of jaxcl's own code."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _exchange(text: str) -> list[str]:
    """A text of each process, in their order, in every process."""
    from jax.experimental.multihost_utils import process_allgather

    own = np.frombuffer(text.encode(), np.uint8)
    lengths = np.asarray(process_allgather(np.int32(len(own))))
    row = np.zeros(max(1, lengths.max()), np.uint8)
    row[: len(own)] = own
    rows = np.asarray(process_allgather(row))
    return [bytes(row[:length]).decode() for row, length in zip(rows, lengths, strict=True)]


def _whole(given: Mapping[str, object]) -> Launch | None:
    missing = [name for name, value in given.items() if value is None]
    if missing:
        named = ", ".join(name for name, value in given.items() if value is not None)
        raise UserError(f"{named} came without {' and '.join(missing)}: give all three, or none")
    coordinator, count, index = given.values()
    return _of_several(str(coordinator), count, index)


def _of_several(coordinator: str, count: object, index: object) -> Launch | None:
    try:
        processes, process = int(str(count)), int(str(index))
    except ValueError as error:
        raise UserError(f"process {index} of {count}: expected two whole numbers") from error
    if not 0 <= process < processes:
        raise UserError(
            f"this is process {process} of {processes}: they are numbered from 0 to {processes - 1}"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"the coordinator is {coordinator!r}: expected HOST:PORT of process 0")
    return Launch(coordinator, processes, process) if processes > 1 else None


def _first_host(nodes: str) -> str:
    """The first of SLURM's list, such as node[001-004,7],other."""
    head, bracket, rest = nodes.split(",")[0].partition("[")
    return head + rest.split("]")[0].split("-")[0] if bracket else head
