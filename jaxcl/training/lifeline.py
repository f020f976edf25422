"""Lifelines between the processes of a run: one that ends without a word is named by the others."""

import contextlib
import json
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable

from jaxcl.training.errors import UserError

_WORDS = 8192  # bytes of a farewell, at most


class Lifeline:
    """A connection of each process to the first, open as long as both live.

    The first sees the end of each, and tells the rest; the rest see the end of the first. Who
    leaves with a word is not lost.
    """

    def __init__(
        self,
        host: str | None,
        index: int,
        count: int,
        exchange: Callable[[str], list[str]],
        on_loss: Callable[[int, str | None], None],
        *,
        seconds: float = 60,
    ) -> None:
        """Connects; all processes have to.

        Args:
          host: address of the first process; None: it tells its own name.
          index: which process this is.
          count: how many there are.
          exchange: a text of this process -> those of all, in their order.
          on_loss: called, in a thread, with the number of the process that was lost and None, or
            with its own words where it left because of an error.
          seconds: how long to wait for the others.

        Raises:
          UserError: where one does not connect.
        """
        self._on_loss = on_loss
        self._leaving = threading.Event()
        server = socket.create_server(("", 0), backlog=4096) if index == 0 else None
        own = ""
        if server is not None:
            own = json.dumps([socket.gethostname(), server.getsockname()[1], secrets.token_hex(16)])
        name, port, token = json.loads(exchange(own)[0])
        self._lines: dict[int, socket.socket] = {}
        try:
            if server is None:
                line = socket.create_connection((host or name, port), timeout=seconds)
                line.sendall(f"{token} {index}\n".encode())
                self._lines[0] = line
            else:
                self._accept(server, count, token, time.monotonic() + seconds)
        except OSError as error:
            self.leave("could not reach all")
            missing = sorted({*range(1, count)} - {*self._lines}) if index == 0 else [0]
            raise UserError(
                f"no connection with process {missing[0]} within {seconds:.0f} s ({error}). Do the "
                "hosts let each other through on every port?"
            ) from error
        finally:
            if server is not None:
                server.close()
        for line in self._lines.values():
            line.settimeout(None)
            _keep_alive(line)
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def leave(self, words: str = "") -> None:
        """Says that this process ends: as it should, or because of an error, in words."""
        self._leaving.set()
        farewell = json.dumps([None, words[:1000]]).encode() + b"\n"
        for line in self._lines.values():
            with contextlib.suppress(OSError):  # that one has gone before
                line.sendall(farewell)
                line.shutdown(socket.SHUT_WR)

    def _accept(self, server: socket.socket, count: int, token: str, end: float) -> None:
        while len(self._lines) < count - 1:
            server.settimeout(max(0.1, end - time.monotonic()))
            line, _ = server.accept()
            line.settimeout(5)
            try:
                with line.makefile("rb", buffering=0) as words:  # takes no byte of what follows
                    said, _, index = words.readline(_WORDS).strip().partition(b" ")
            except OSError:
                said = b""
            if secrets.compare_digest(said, token.encode()):
                self._lines[int(index)] = line
            else:
                line.close()  # no process of this run

    def _watch(self) -> None:
        """Waits for the first process that ends other than it should, and tells of it."""
        heard = dict.fromkeys(self._lines, b"")
        with selectors.DefaultSelector() as selector:
            for index, line in self._lines.items():
                selector.register(line, selectors.EVENT_READ, index)
            while selector.get_map():
                for key, _ in selector.select():
                    index = key.data
                    try:
                        words = self._lines[index].recv(_WORDS)
                    except OSError:  # such as no answer for long
                        words = b""
                    heard[index] += words
                    if words and not heard[index].endswith(b"\n"):
                        continue
                    selector.unregister(key.fileobj)
                    who, why = _read(heard[index], index)
                    if why != "" and not self._leaving.is_set():
                        self._tell(who, why)
                        self._on_loss(who, why)
                        return

    def _tell(self, who: int, why: str | None) -> None:
        """From the first process to the others, but to the one that is gone."""
        for index, line in self._lines.items():
            if index not in (0, who):
                with contextlib.suppress(OSError):  # that one has gone too
                    line.sendall(json.dumps([who, why]).encode() + b"\n")


def _read(heard: bytes, index: int) -> tuple[int, str | None]:
    """Who ended, and what it said: nothing where it was lost, "" where all is well."""
    try:
        who, why = json.loads(heard.partition(b"\n")[0])  # the first word counts
    except ValueError:
        return index, None
    return (index if who is None else who), why


def _keep_alive(line: socket.socket) -> None:
    """Has the system ask a silent host for a sign, so that one without power is noticed too."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):  # Linux
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
