"""Batches on their way to the device while the one before is computed on."""

import collections
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")
Placed = TypeVar("Placed")


class Prefetched(Iterator[Placed], Generic[Placed]):
    """What `prefetch` gives: an iterator and context manager.

    Attributes:
      waited_seconds: how long the consumer has waited for items so far.
    """

    waited_seconds: float

    def __init__(self, items: Iterable[Item], put: Callable[[Item], Placed], depth: int):
        if depth < 1:
            raise ValueError(f"depth {depth} is not positive: use 1 or more")
        self.waited_seconds = 0.0
        self._iterator = iter(items)
        self._make = lambda: put(next(self._iterator))
        self._executor = ThreadPoolExecutor(1, "jaxcl-prefetch")  # one thread keeps the order
        self._pending: collections.deque[Future[Placed]] = collections.deque(
            self._executor.submit(self._make) for _ in range(depth)
        )

    def __next__(self) -> Placed:
        if not self._pending:
            raise StopIteration
        started = time.perf_counter()
        try:
            item = self._pending.popleft().result()  # or what the thread raised, StopIteration too
        except BaseException:
            self.close()
            raise
        finally:
            self.waited_seconds += time.perf_counter() - started
        self._pending.append(self._executor.submit(self._make))
        return item

    @property
    def ready(self) -> bool:
        """Whether the next item is there, so that taking it waits for nothing."""
        return bool(self._pending) and self._pending[0].done()

    def close(self) -> None:
        """Ends the thread, after the item it is at, and closes the iterator it reads."""
        self._pending.clear()
        self._executor.shutdown(cancel_futures=True)
        close = getattr(self._iterator, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def prefetch(
    items: Iterable[Item], put: Callable[[Item], Placed], depth: int = 2
) -> Prefetched[Placed]:
    """Iterates over `put(item)`, made in a thread that keeps `depth` of them ahead of the consumer.

    What the thread raises, the consumer gets, after the items before it.

    Args:
      items: read by the thread only. Its iterator is closed at the end, if it has a `close`.
      put: called in the thread; places an item on the device.
      depth: how many items are made ahead; >= 1.

    Returns:
      The iterator. Its `waited_seconds` is the time spent waiting for items; `close` it (or use
      `with`) when leaving it before its end.

    Raises:
      ValueError: if depth is not positive.

    Example:
      >>> with prefetch(range(3), lambda item: 10 * item) as items:
      ...     list(items)
      [0, 10, 20]
    """
    return Prefetched(items, put, depth)
