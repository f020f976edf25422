"""Processes that check in, as threads: all hear the same, within seconds."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from jaxcl.training import check_in as check_in_module
from jaxcl.training.check_in import check_in
from jaxcl.training.errors import UserError


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    """These processes all come at once: nobody is late."""
    monkeypatch.setattr(check_in_module, "_LINGER", 0.5)


def outcomes(port, processes, seconds=20):
    """What each of (index, count) hears."""

    def one(process):
        try:
            check_in(f"127.0.0.1:{port}", *process, seconds=seconds)
        except UserError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(processes)) as pool:
        return list(pool.map(one, processes))


@pytest.mark.parametrize("count", [2, 5])
def test_all_who_are_here_go_on(port, count):
    for _ in range(2):  # and the port is free again
        assert outcomes(port, [(index, count) for index in range(count)]) == [""] * count


@pytest.mark.parametrize(
    ("processes", "message"),
    [
        ([(0, 2), (1, 3)], "process 1 was told of 3 processes, process 0 of 2"),
        ([(0, 3), (1, 2)], "process 1 was told of 2 processes, process 0 of 3"),
        ([(0, 3), (1, 3), (1, 3)], "two processes say that they are number 1"),
        ([(0, 2), (1, 3), (2, 3)], "was told of 3 processes, process 0 of 2"),
    ],
)
def test_what_does_not_agree_is_said_to_all_at_once(port, processes, message):
    began = time.monotonic()
    said = outcomes(port, processes)
    assert all(message in each for each in said), said
    assert time.monotonic() - began < 10


@pytest.mark.slow
def test_who_does_not_come_is_named_to_all(port):
    said = outcomes(port, [(0, 4), (2, 4)], seconds=1)
    assert all("of 4 processes 2 did not come within 1 s: number 1, 3" in each for each in said)


def test_a_port_that_is_taken(port):
    with (
        socket.create_server(("", port)),
        pytest.raises(UserError, match=f"cannot listen on port {port}"),
    ):
        check_in(f"127.0.0.1:{port}", 0, 2, seconds=1)


def test_another_server_there_is_told_from_a_run():
    def answer(server):
        line, _ = server.accept()
        with line:
            line.recv(100)
            line.sendall(b"\x00\x00\x12\x04 hello")

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        pool.submit(answer, server)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match=f"answers at {address} is no process 0"):
            check_in(address, 1, 2, seconds=2)


@pytest.mark.slow
def test_strangers_do_not_count(port):
    def knock():
        for _ in range(100):
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1) as line:
                    line.sendall(b"GET / HTTP/1.1\r\n\r\n")
                    return
            except OSError:
                time.sleep(0.02)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(knock)
        time.sleep(0.05)
        assert outcomes(port, [(0, 2), (1, 2)]) == ["", ""]
