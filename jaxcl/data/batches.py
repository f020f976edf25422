"""Sources to batches: which records stand in the batch of a step, and batches made ahead in the
background."""

import collections
import dataclasses
import functools
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from jaxcl.data.source import THERE, Record, Source, inputs_of, read_record

if TYPE_CHECKING:
    import grain

Batch = dict[str, np.ndarray]
"""The records' fields, such as image [b, H, W, C]; label [b] int32 if the source has labels; index
[b] int32 (the number of the record asked for: the global example index); replaced [b] bool."""

_ENDLESS = 2**62  # steps

_AHEAD = 4  # batches, without worker processes

# Between the calls that decode, Python runs one thread at a time: more threads would add nothing.
_MOST_THREADS = 16


def steps_per_epoch(records: int, batch_size: int) -> int:
    """Full batches in one pass over the records; what remains is dropped, other records each epoch.

    Raises:
      ValueError: if batch_size is not positive, or larger than the number of records.

    Example:
      >>> steps_per_epoch(1500, 256)
      5
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} is not positive")
    if batch_size > records:
        raise ValueError(
            f"batch_size {batch_size} is larger than the data set of {records} records: "
            f"use at most {records}"
        )
    return records // batch_size


def records_at(
    records: int,
    step: int,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> np.ndarray:
    """The records in one process's part of the batch of a step.

    Every epoch is a permutation of all records drawn from (seed, epoch), its remainder dropped. The
    permutation is Grain's, which computes any of its entries by itself: the cost does not depend on
    the step, nor on `records`.

    Args:
      records: how many records there are.
      step: >= 0, counted from the start of training.
      batch_size: rows of the global batch.
      seed: >= 0; another seed, another order.
      process_index: which part: rows [index * b, (index + 1) * b) of the global batch, b =
        batch_size / process_count.
      process_count: how many processes share a batch.

    Returns:
      [batch_size / process_count] int32 record numbers.

    Raises:
      ValueError: if an argument is out of range, or the batch does not divide over the processes.

    Example:
      >>> both = records_at(10, 3, batch_size=4, seed=0)
      >>> second = records_at(10, 3, batch_size=4, seed=0, process_index=1, process_count=2)
      >>> np.array_equal(both[2:], second)
      True
    """
    from grain.experimental import index_shuffle

    per_epoch = steps_per_epoch(records, batch_size)
    rows = _rows_per_process(batch_size, process_index, process_count)
    if step < 0:
        raise ValueError(f"step {step} is negative")
    if seed < 0:
        raise ValueError(f"seed {seed} is negative: use 0 or more")
    epoch, step_in_epoch = divmod(step, per_epoch)
    # The epoch is added to the seed: hashed seeds keep the epochs of neighbouring seeds apart.
    hashed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    order = functools.partial(
        index_shuffle, max_index=records - 1, seed=(hashed + epoch) % 2**32, rounds=4
    )
    start = step_in_epoch * batch_size + process_index * rows
    return np.array([order(start + row) for row in range(rows)], np.int32)


def records_apart_at(
    groups: np.ndarray,
    step: int,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> np.ndarray:
    """As `records_at`, no two records of one group in a batch.

    Records come in the same order, but one whose group is in the batch already waits for the next.
    Where those that are left at the end of an epoch are of too few groups, some from its beginning
    come again. The order of an epoch is made at its first step, in a time that grows with it.

    Args:
      groups: [N] integers.
      step: as in `records_at`, and so are the others.
      batch_size: at most as many as there are groups.
      seed: of the order.
      process_index: which part of the batch.
      process_count: how many processes share a batch.

    Returns:
      [batch_size / process_count] int32 record numbers.

    Raises:
      ValueError: as `records_at`, or for a batch of more records than there are groups.
    """
    per_epoch = steps_per_epoch(len(groups), batch_size)
    rows = _rows_per_process(batch_size, process_index, process_count)
    epoch, step_in_epoch = divmod(step, per_epoch)
    order = _epoch_apart(_Same(groups), epoch, batch_size, seed)
    start = step_in_epoch * batch_size + process_index * rows
    return order[start : start + rows]


@dataclasses.dataclass(frozen=True)
class _Same:
    """An array that is equal to itself only, to remember results by."""

    array: np.ndarray

    def __hash__(self) -> int:
        return id(self.array)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.array is self.array


@functools.lru_cache(maxsize=2)  # that of this step and of one read ahead
def _epoch_apart(same: _Same, epoch: int, batch_size: int, seed: int) -> np.ndarray:
    """[steps * batch_size] the records of an epoch, in the order of its batches."""
    groups = same.array
    distinct = len(np.unique(groups))
    if batch_size > distinct:
        raise ValueError(
            f"batch_size {batch_size} cannot be of different groups: the data have {distinct} "
            f"(records that share a text are one). Use at most {distinct}"
        )
    per_epoch = steps_per_epoch(len(groups), batch_size)
    steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
    kept = [records_at(len(groups), at, batch_size=batch_size, seed=seed) for at in steps]
    order = np.concatenate(kept).tolist()
    group_of = groups.tolist()
    coming = collections.deque(order)
    waiting: dict[int, collections.deque[int]] = {}  # by group, who came first in front
    batches = []
    for _ in range(per_epoch):
        batch: dict[int, int] = {}  # by group
        for group in list(itertools.islice(waiting, batch_size)):
            batch[group] = waiting[group].popleft()
            if not waiting[group]:
                del waiting[group]
        while len(batch) < batch_size and coming:
            record = coming.popleft()
            if group_of[record] in batch:
                waiting.setdefault(group_of[record], collections.deque()).append(record)
            else:
                batch[group_of[record]] = record
        again = itertools.chain(order, range(len(groups)))
        while len(batch) < batch_size:
            record = next(again)
            batch.setdefault(group_of[record], record)
        batches.append([*batch.values()])
    return np.array(batches, np.int32).reshape(-1)


def batch_at(
    source: Source,
    step: int,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 1,
    apart: bool = False,
) -> Batch:
    """One process's part of the batch of a step: a function of its arguments and nothing else.

    Args:
      source: where records come from.
      step: as in `records_at`, and so are the others.
      batch_size: rows of the global batch.
      seed: of the order.
      process_index: which part of the batch.
      process_count: how many processes share a batch.
      threads: how many share the reading; the batch is the same.
      apart: keep records of one group out of one batch (`records_apart_at`).

    Returns:
      The batch, batch_size / process_count rows.

    Raises:
      ValueError: as `records_at`, or what reading the source raises.
    """
    groups = getattr(source, "groups", None) if apart else None
    order = (
        functools.partial(records_at, len(source))
        if groups is None
        else functools.partial(records_apart_at, groups)
    )
    order = functools.partial(order, step, batch_size=batch_size, seed=seed)
    own = order(process_index=process_index, process_count=process_count)
    together = order() if getattr(source, "lengths", None) else None
    return read_batch(source, own.tolist(), threads=threads, together=together, seed=(seed, step))


def read_batch(
    source: Source,
    records: Sequence[int],
    *,
    threads: int = 1,
    together: Sequence[int] | np.ndarray | None = None,
    seed: tuple[int, ...] | None = None,
) -> Batch:
    """Reads records of a source into one batch, in the order given, whatever `threads`.

    Args:
      source: where records come from.
      records: their numbers.
      threads: how many share the reading; the batch is the same.
      together: the records of all processes, of which these are a part: where records fill fields
        to several lengths, the longest of all sets that of the batch. None: these alone.
      seed: with each record's number, of what the source draws; None: it draws nothing.

    Example:
      >>> from jaxcl.data import ArraySource
      >>> batch = read_batch(ArraySource(np.zeros((3, 8, 8), np.uint8), [5, 6, 7]), [2, 0])
      >>> batch["image"].shape, batch["label"], batch["index"]
      ((2, 8, 8, 1), array([7, 5], dtype=int32), array([2, 0], dtype=int32))
    """
    read = _read_all(source, records, threads, seed)
    batch = {name: np.stack([record[name] for record in read]) for name in inputs_of(read[0])}
    for name in [name for name in read[0] if name.endswith(THERE)]:
        batch[name] = np.array([record[name] for record in read], bool)
    of_fields = getattr(source, "lengths", None) or {}
    rows = list(records) if together is None else together
    # One length for all fields: each of its own would be a program for every combination.
    longest = max((int(lengths[rows].max()) for lengths in of_fields.values()), default=0)
    for name in of_fields:
        batch[name] = batch[name][..., : bucket_length(longest, batch[name].shape[-1])]
    batch["index"] = np.asarray(records, np.int32)
    batch["replaced"] = np.array([record["replaced"] for record in read], bool)
    if "label" in read[0]:
        batch["label"] = np.array([record["label"] for record in read], np.int32)
    return batch


def bucket_length(longest: int, most: int) -> int:
    """The length of a batch whose longest record fills so much: one of a few, so that a program is
    compiled for each of these only.

    Args:
      longest: what the longest record fills.
      most: length of the field.

    Returns:
      The least of 8, 12, 16, 24, 32, 48, ... that holds it, at most `most`.

    Example:
      >>> [bucket_length(longest, 60) for longest in (0, 8, 9, 17, 33, 50, 60)]
      [8, 8, 12, 24, 48, 60, 60]
    """
    length = 8
    while length < longest:
        length += length // 2 if length & (length - 1) == 0 else length // 3
    return min(length, most)


def _read_all(
    source: Source, records: Sequence[int], threads: int, seed: tuple[int, ...] | None
) -> list[Record]:
    threads = min(threads, len(records))

    def read_part(part: int) -> list[Record]:
        return [
            read_record(source, record, None if seed is None else (*seed, record))
            for record in records[part::threads]
        ]

    if threads == 1:
        return read_part(0)
    with ThreadPoolExecutor(threads, "jaxcl-read") as pool:
        parts = list(pool.map(read_part, range(threads)))
    return [parts[row % threads][row // threads] for row in range(len(records))]


@dataclasses.dataclass(frozen=True)
class Batches(Iterable[Batch]):
    """The batches of steps `start`, `start` + 1, ..., made ahead by Grain in threads or worker
    processes.

    The batch of a step is `batch_at` of that step, whatever `start`, `workers` and the number of
    processes: to resume, start at the step to do next. Close the iterator (`iter(batches).close()`)
      when leaving it before its end.

    Args:
      source: where records come from.
      batch_size: rows of the global batch.
      seed: >= 0, of the order.
      process_index: which part of each batch this process gets, see `records_at`.
      process_count: how many processes share a batch.
      workers: worker processes; each gets a copy of the source and imports the main module anew
        (guard a script with `if __name__ == "__main__":`), decodes on one core, and holds some
        three batches. 0 reads in threads of this process, one a core: best for sources in memory,
        and for images on up to about ten cores (of a JPEG of 500x375, 0.14 of 2 ms are Python's
        own work, done by one thread at a time).
      start: first step.
      steps: how many steps; None: no end.
      apart: keep records of one group out of one batch (`records_apart_at`), where the source has
        groups.

    Raises:
      ValueError: if an argument is out of range, or the batch does not divide over the processes.

    Example:
      >>> from jaxcl.data import Digits
      >>> batches = Batches(Digits().open(), batch_size=64, seed=0, start=1000, steps=2)
      >>> [batch["image"].shape for batch in batches]
      [(64, 8, 8, 1), (64, 8, 8, 1)]
    """

    source: Source
    batch_size: int
    seed: int = 0
    process_index: int = 0
    process_count: int = 1
    workers: int = 0
    start: int = 0
    steps: int | None = None
    apart: bool = False

    def __post_init__(self) -> None:
        steps_per_epoch(len(self.source), self.batch_size)
        _rows_per_process(self.batch_size, self.process_index, self.process_count)
        for name in ("seed", "workers", "start", "steps"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} {value} is negative: use 0 or more")

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in one pass over the source."""
        return steps_per_epoch(len(self.source), self.batch_size)

    def __iter__(self) -> "grain.DatasetIterator[Batch]":
        make = functools.partial(
            batch_at,
            self.source,
            batch_size=self.batch_size,
            seed=self.seed,
            process_index=self.process_index,
            process_count=self.process_count,
            apart=self.apart,
        )
        steps = _ENDLESS if self.steps is None else self.steps
        return _make_ahead(make, self.start, self.start + steps, self.workers)


def sequential_batches(
    source: Source, batch_size: int, *, start: int = 0, workers: int = 0
) -> "grain.DatasetIterator[Batch]":
    """All records once, in order, made ahead like `Batches`; the last batch may be short.

    Args:
      source: where records come from.
      batch_size: rows of each batch but the last.
      start: the record to begin with.
      workers: as in `Batches`.

    Raises:
      ValueError: if batch_size is not positive.

    Example:
      >>> from jaxcl.data import Digits
      >>> [len(batch["index"]) for batch in sequential_batches(Digits(split="test").open(), 128)]
      [128, 128, 41]
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} is not positive")
    make = functools.partial(_sequential_batch_at, source, first=start, batch_size=batch_size)
    return _make_ahead(make, 0, -(-(len(source) - start) // batch_size), workers)


def _sequential_batch_at(
    source: Source, step: int, *, first: int, batch_size: int, threads: int = 1
) -> Batch:
    start = first + step * batch_size
    records = range(start, min(start + batch_size, len(source)))
    return read_batch(source, records, threads=threads)


def _make_ahead(
    make: Callable[..., Batch], start: int, stop: int, workers: int
) -> "grain.DatasetIterator[Batch]":
    import grain
    from absl import flags

    # Worker processes take steps in turns, one thread each. Without, as many threads as there are
    # cores share a batch, and the next one is begun meanwhile: cores stay full at a batch's end.
    if workers:
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    else:
        make = functools.partial(make, threads=min(available_cores(), _MOST_THREADS))
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=_AHEAD)
    ahead = grain.MapDataset.range(start, stop).map(make).to_iter_dataset(options)
    if workers:
        # Grain reads absl flags here, which fails in programs that parse none.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        processes = grain.multiprocessing.MultiprocessingOptions(num_workers=workers)
        ahead = ahead.mp_prefetch(processes, worker_init_fn=_start_worker)
    return iter(ahead)


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start_worker(worker: int, workers: int) -> None:
    """Leaves Ctrl-C and SIGTERM to the main process, which closes its workers when it has saved: a
    terminal and a cluster's scheduler send them to all. Ends when the main process is killed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _rows_per_process(batch_size: int, process_index: int, process_count: int) -> int:
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index {process_index} is not one of process_count {process_count} processes"
        )
    rows, rest = divmod(batch_size, process_count)
    if rest:
        below, above = rows * process_count, (rows + 1) * process_count
        fits = f"{below} or {above}" if below else f"{above}"
        raise ValueError(
            f"batch_size {batch_size} does not divide over {process_count} processes: use {fits}"
        )
    return rows
