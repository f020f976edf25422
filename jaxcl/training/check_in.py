"""Processes of a run check in with the first, before jax joins them: it aborts if they differ."""

import contextlib
import json
import socket
import time

from jaxcl.training.errors import UserError

_LINE = 4096  # bytes of a line, at most
_LINGER = 3.0  # seconds in which late ones still hear what is wrong


def check_in(coordinator: str, index: int, count: int, *, seconds: float = 60) -> None:
    """Returns once all processes are here and agree how many they are.

    Args:
      coordinator: HOST:PORT of the first process, where jax will listen later.
      index: which process this is.
      count: how many there are, as far as this one knows.
      seconds: how long to wait.

    Raises:
      UserError: in every process, where one does not come, two have one number, or counts differ.
    """
    host, _, port = coordinator.rpartition(":")
    if index == 0:
        _receive(int(port), count, seconds)
    else:
        _report(coordinator, (host, int(port)), index, count, seconds)


def _receive(port: int, count: int, seconds: float) -> None:
    try:
        server = socket.create_server(("", port), backlog=4096)
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen on port {port} ({error.strerror or error}): is another run "
            "there? Choose another port, the same for all"
        ) from error
    numbers: set[int] = set()
    wrong, end = "", time.monotonic() + seconds
    with server, contextlib.ExitStack() as lines:
        heard: list[socket.socket] = []
        while (wrong or len(numbers) < count - 1) and time.monotonic() < end:
            server.settimeout(max(0.05, end - time.monotonic()))
            try:
                line, _ = server.accept()
            except OSError:
                break
            lines.enter_context(line)
            said = _hear(line, 5)
            if not (isinstance(said, list) and len(said) == 2):
                continue  # no process of a run
            heard.append(line)
            if not wrong:
                wrong = _what_is_wrong(*said, count=count, numbers=numbers)
                if wrong:
                    end = min(end, time.monotonic() + _LINGER)
            numbers.add(said[0])
        if not wrong:
            wrong = _who_is_missing({*range(1, count)} - numbers, count, seconds)
        for line in heard:
            with contextlib.suppress(OSError):
                line.sendall(json.dumps(wrong).encode() + b"\n")
        for line in heard:  # who closes first holds on to the port, which jax wants
            with contextlib.suppress(OSError):
                line.settimeout(2)
                line.recv(1)
    if wrong:
        raise UserError(wrong)


def _what_is_wrong(index: int, their_count: int, *, count: int, numbers: set[int]) -> str:
    if their_count != count:
        return (
            f"process {index} was told of {their_count} processes, process 0 of {count}: give all "
            "the same number"
        )
    if index in numbers:
        return f"two processes say that they are number {index}: give each its own"
    return ""


def _who_is_missing(missing: set[int], count: int, seconds: float) -> str:
    if not missing:
        return ""
    named = ", ".join(map(str, sorted(missing)[:8])) + (", ..." if len(missing) > 8 else "")
    return (
        f"of {count} processes {len(missing)} did not come within {seconds:.0f} s: number {named}. "
        "Start all of them, with the same address and count"
    )


def _report(
    coordinator: str, address: tuple[str, int], index: int, count: int, seconds: float
) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            line = socket.create_connection(address, timeout=5)
            break
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"the coordinator {coordinator} does not answer within {seconds:.0f} s "
                    f"({error.strerror or error}). Is process 0 started, and is that its address?"
                ) from error
            time.sleep(0.2)
    with line:
        with contextlib.suppress(OSError):
            line.sendall(json.dumps([index, count]).encode() + b"\n")
        wrong = _hear(line, seconds + 2 * _LINGER)
    if wrong is None:
        raise UserError(f"process 0 at {coordinator} ended before all processes had come")
    if not isinstance(wrong, str):
        raise UserError(f"what answers at {coordinator} is no process 0 of a run")
    if wrong:
        raise UserError(wrong)


def _hear(line: socket.socket, seconds: float) -> object:
    """A line of JSON; None where the other end closes, False where it is something else."""
    line.settimeout(seconds)
    try:
        with line.makefile("rb") as words:
            said = words.readline(_LINE)
        return json.loads(said) if said else None
    except OSError:
        return None
    except ValueError:
        return False
