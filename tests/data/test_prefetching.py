"""Items placed ahead by a thread."""

import threading
import time

import jax
import numpy as np
import pytest

from jaxcl.data import ArraySource, Batches, prefetch


class Closable:
    def __init__(self, items):
        self.items = iter(items)
        self.closed = False

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.items)

    def close(self):
        self.closed = True


def prefetch_threads():
    return [thread for thread in threading.enumerate() if "jaxcl-prefetch" in thread.name]


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_keeps_order_and_ends(depth):
    assert list(prefetch(range(20), lambda item: -item, depth)) == [-item for item in range(20)]
    assert list(prefetch([], lambda item: item, depth)) == []
    assert not prefetch_threads()


@pytest.mark.parametrize("depth", [1, 3])
def test_stays_depth_ahead_and_no_further(depth):
    placed = []
    reached = threading.Semaphore(0)

    def put(item):
        placed.append(item)
        reached.release()
        return item

    with prefetch(range(100), put, depth) as items:
        for taken in range(1, 4):
            assert next(items) == taken - 1
            while len(placed) < taken + depth:
                assert reached.acquire(timeout=10)
        # The thread had its chance to run on while the last item was awaited.
        assert len(placed) == 3 + depth


def test_errors_come_after_the_items_before_them():
    def items():
        yield 1
        yield 2
        raise OSError("disk")

    with prefetch(items(), lambda item: item, depth=4) as ahead:
        assert [next(ahead), next(ahead)] == [1, 2]
        with pytest.raises(OSError, match="disk"):
            next(ahead)
        with pytest.raises(StopIteration):
            next(ahead)


def test_errors_of_put_reach_the_consumer():
    source = Closable([1, 2, 0, 3])
    ahead = prefetch(source, lambda item: 6 // item)
    assert [next(ahead), next(ahead)] == [6, 3]
    with pytest.raises(ZeroDivisionError):
        next(ahead)
    assert source.closed
    assert not prefetch_threads()


def test_closing_early_ends_thread_and_source():
    source = Closable(range(1000))
    with prefetch(source, lambda item: item) as ahead:
        next(ahead)
    assert source.closed
    assert not prefetch_threads()
    ahead.close()  # again, no harm
    with pytest.raises(StopIteration):
        next(ahead)


def test_counts_the_time_waited():
    release = threading.Event()

    def slow():
        yield 1
        release.wait(10)
        yield 2

    with prefetch(slow(), lambda item: item) as ahead:
        next(ahead)
        before = ahead.waited_seconds
        started = time.perf_counter()
        timer = threading.Timer(0.1, release.set)
        timer.start()
        next(ahead)
        elapsed = time.perf_counter() - started
        assert 0.09 < ahead.waited_seconds - before <= elapsed


def test_reading_goes_on_while_the_consumer_works():
    """Two at work at the same time: each goes on only when the other one is busy."""
    consuming, reading = threading.Barrier(2), threading.Barrier(2)

    def items():
        for number in range(3):
            if number:
                consuming.wait(10)  # breaks unless the consumer works on the item before
                reading.wait(10)
            yield number

    taken = []
    with prefetch(items(), lambda item: item, depth=1) as ahead:
        for item in ahead:
            if item < 2:
                consuming.wait(10)
                reading.wait(10)
            taken.append(item)
    assert taken == [0, 1, 2]


def test_placing_goes_on_while_the_next_is_read():
    read, placed = threading.Semaphore(0), threading.Event()

    class Counted(ArraySource):
        def __getitem__(self, record):
            read.release()
            return super().__getitem__(record)

    def put(batch):
        assert placed.wait(10)
        return batch

    source = Counted(np.zeros((8, 2, 2), np.uint8))
    with prefetch(Batches(source, 4, steps=3), put, depth=1) as ahead:
        for _ in range(12):  # the records of all three batches, while the first is being placed
            assert read.acquire(timeout=10)
        placed.set()
        assert len(list(ahead)) == 3


def test_is_ready_when_taking_waits_for_nothing():
    release = threading.Event()

    def slow():
        yield 1
        assert release.wait(10)
        yield 2

    with prefetch(slow(), lambda item: item) as ahead:
        next(ahead)
        assert not ahead.ready
        release.set()
        while not ahead.ready:
            pass
        assert next(ahead) == 2
    assert not ahead.ready


def test_batches_to_devices():
    source = ArraySource(np.random.default_rng(0).integers(0, 256, (32, 4, 4), np.uint8))
    batches = Batches(source, 8, seed=0, steps=6)
    with prefetch(batches, jax.device_put) as ahead:
        placed = list(ahead)
    for batch, expected in zip(placed, batches, strict=True):
        assert isinstance(batch["image"], jax.Array)
        np.testing.assert_array_equal(batch["image"], expected["image"])


def test_refuses_depth():
    with pytest.raises(ValueError, match="depth 0"):
        prefetch([1], lambda item: item, depth=0)
