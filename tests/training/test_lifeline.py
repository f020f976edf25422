"""Lifelines, between threads that stand for processes."""

import contextlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from queue import Queue

import pytest

from jaxcl.training.errors import UserError
from jaxcl.training.lifeline import Lifeline


def connect(count, *, missing=(), seconds=10):
    """Lifelines of `count` processes, and what each of them hears of the others."""
    barrier, texts = threading.Barrier(count - len(missing)), [""] * count
    heard = [Queue() for _ in range(count)]

    def one(index):
        def exchange(text):
            texts[index] = text
            barrier.wait(10)
            return texts

        def on_loss(who, words):
            heard[index].put((who, words))

        return Lifeline("127.0.0.1", index, count, exchange, on_loss, seconds=seconds)

    with ThreadPoolExecutor(count) as pool:
        lines = list(pool.map(one, [index for index in range(count) if index not in missing]))
    return lines, heard


def cut(line):
    """What the system does to the connections of a process that is killed; it says no more."""
    line._leaving.set()
    for each in line._lines.values():
        with contextlib.suppress(OSError):  # the other end has closed it
            each.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("lost", [0, 2])
def test_a_lost_process_is_named_by_all_others(lost):
    lines, heard = connect(4)
    cut(lines[lost])
    for index in {*range(4)} - {lost}:
        assert heard[index].get(timeout=10) == (lost, None)


@pytest.mark.parametrize("failed", [0, 2])
def test_an_error_of_one_reaches_all_in_its_words(failed):
    lines, heard = connect(4)
    lines[failed].leave("no space left " + "x" * 9999)
    for index in {*range(4)} - {failed}:
        who, words = heard[index].get(timeout=10)
        assert who == failed
        assert words.startswith("no space left x")


def test_who_leaves_in_order_is_not_lost():
    lines, heard = connect(3)
    for line in (lines[1], lines[0], lines[2]):
        line.leave()
    cut(lines[1])
    cut(lines[0])
    threading.Event().wait(0.3)
    assert all(queue.empty() for queue in heard)


def test_after_one_has_left_another_is_still_named():
    lines, heard = connect(3)
    lines[1].leave()
    cut(lines[2])
    assert heard[0].get(timeout=10) == (2, None)


@pytest.mark.slow
def test_a_process_that_does_not_connect_is_named():
    with pytest.raises(UserError, match="no connection with process 1 within 1 s"):
        connect(2, missing=(1,), seconds=1)


def test_strangers_are_turned_away(monkeypatch):
    create_server = socket.create_server

    def with_a_stranger(*arguments, **options):
        server = create_server(*arguments, **options)
        stranger = socket.create_connection(("127.0.0.1", server.getsockname()[1]))
        stranger.sendall(b"let-me-in 1\n")
        return server

    monkeypatch.setattr(socket, "create_server", with_a_stranger)
    lines, heard = connect(2)
    cut(lines[1])
    assert heard[0].get(timeout=10) == (1, None)
