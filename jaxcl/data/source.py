"""What every source of examples is: numbered records, read in any order."""

import abc
import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

Record: TypeAlias = dict[str, Any]
"""One example: its fields by name, such as image [H, W, C] uint8 (or float32 from float arrays), or
text [T] int32; label, np.int32, when the source has labels; replaced, a bool: whether another
record stands in for one that does not decode; and `image_there`, a bool, where some records lack
the field."""

THERE = "_there"
"""Ends the name of what says whether a record has a field."""
_BESIDE = frozenset({"index", "label", "replaced"})


class Source(Protocol):
    """Records with random access: what `Batches` reads from.

    Reading record i gives the same values in every thread, process and run, and every record's
    fields have the same shapes. A source can be pickled, because worker processes get a copy. Any
    class with these members will do.

    A source may also have `lengths`: by field, [N] integers, how much of the last axis each record
    fills. Batches are then cut to one of a few lengths (`batches.bucket_length`). And it may have
    `draw(record, seed)`, for what is drawn anew each time that a record is trained on, such as a
    window of a long sound: the same for the same seed, integers.
    """

    def __len__(self) -> int:
        """The number of records."""
        ...

    def __getitem__(self, record: int) -> Record:
        """The record of that number, 0 <= record < len(self)."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """A name for each record: a file's path below its folder, or the record's number."""
        ...

    @property
    def labels(self) -> np.ndarray | None:
        """[N] int32, the label of each record; None for a source without labels."""
        ...

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The name of label 0, 1, ...; None where labels have no names."""
        ...


@dataclasses.dataclass(frozen=True)
class SourceConfig(abc.ABC):
    """Where examples come from, as plain values; `open` gives the examples."""

    @abc.abstractmethod
    def open(self) -> Source:
        """Opens the source.

        Raises:
          FileNotFoundError: if what the config points to does not exist.
          ValueError: if it cannot be read as the config says.
        """


_shared: contextvars.ContextVar[dict[SourceConfig, Source] | None] = contextvars.ContextVar(
    "sources that are opened once", default=None
)


@contextlib.contextmanager
def opened_once() -> Iterator[None]:
    """Within it, `opened` opens what is configured alike but once: data that several tasks read."""
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


def opened(config: SourceConfig) -> Source:
    """A source, opened now, or before within `opened_once`; raises as `SourceConfig.open`."""
    known = _shared.get()
    # A class that is no dataclass itself inherits an equality that sees none of its fields.
    if known is None or "__dataclass_fields__" not in type(config).__dict__:
        return config.open()
    try:
        if config not in known:
            known[config] = config.open()
        return known[config]
    except TypeError:  # holds what has no hash
        return config.open()


def as_numbers(array: np.ndarray, name: str) -> np.ndarray:
    """Numbers as devices take them: uint8, int32 or float32.

    Raises:
      ValueError: for what holds no numbers, or integers of more than 32 bits.
    """
    if array.dtype.kind == "f":
        return array.astype(np.float32, copy=False)
    if array.dtype.kind not in "iub":
        raise ValueError(f"{name} is of type {array.dtype}, which holds no numbers")
    if array.dtype == np.uint8:
        return array
    if array.dtype.itemsize > 2 and array.size:
        low, high = int(array.min()), int(array.max())
        if low < -(2**31) or high >= 2**31:
            raise ValueError(
                f"{name} has integers from {low} to {high}, which 32 bits do not hold: leave it "
                "out by naming the others, or store it as floats"
            )
    return array.astype(np.int32)


def read_record(source: Source, record: int, seed: Sequence[int] | None = None) -> Record:
    """A record; with a seed as training reads it, where the source has something to draw."""
    draw = None if seed is None else getattr(source, "draw", None)
    found: Record = source[record] if draw is None else draw(record, seed)
    return found


def inputs_of(record: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The fields of a record that views are made of."""
    return {
        name: value
        for name, value in record.items()
        if name not in _BESIDE and not name.endswith(THERE)
    }


def image_shape(source: Source) -> tuple[int, int, int]:
    """(H, W, C) of a source's images.

    Raises:
      ValueError: if its records hold none.
    """
    inputs = inputs_of(source[0])
    if "image" not in inputs:
        raise ValueError(f"records hold {', '.join(inputs)} and no image, which this needs")
    height, width, channels = inputs["image"].shape
    return height, width, channels
