"""What every source of examples is: numbered records, read in any order."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import NotRequired, Protocol, TypedDict

import numpy as np


class Record(TypedDict):
    """One example."""

    image: np.ndarray  # [H, W, C], uint8, or float32 from float arrays
    label: NotRequired[np.int32]  # there when the source has labels
    replaced: bool  # whether another record stands in for one that does not decode


class Source(Protocol):
    """Records with random access: what `Batches` reads from.

    Reading record i gives the same values in every thread, process and run. A source can be
    pickled, because worker processes get a copy. Any class with these members will do.
    """

    def __len__(self) -> int:
        """The number of records."""
        ...

    def __getitem__(self, record: int) -> Record:
        """The record of that number, 0 <= record < len(self)."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image."""
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
