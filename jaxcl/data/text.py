"""Texts as tokens: from files of lines, tables and arrays."""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jaxcl.data.parts import joined_groups
from jaxcl.data.source import Record, SourceConfig
from jaxcl.data.tables import Column, read_columns
from jaxcl.data.tfds import is_prepared, read_prepared_texts
from jaxcl.data.tokenizer import NOTHING, Tokenizer, TooLong, shown

Empty = Literal["skip", "refuse", "keep"]
"""What becomes of a record with an empty text: passed over, and counted; refused; or kept, with a
text of no tokens."""


class TextSource:
    """Texts in memory, as tokens; `Texts.open` makes it.

    A field is [T] int32, or [C, T] of several texts each; -1 stands where no token does.

    Args:
      columns: the texts, by field; all fields have as many records.
      tokenizer: makes tokens of them.
      empty: what becomes of records with an empty text; of several texts, all of them.
      labels: [N] strings or integers, or None.
      what: what errors call the data.

    Raises:
      ValueError: for texts that are empty, too long, or all alike.
    """

    def __init__(
        self,
        columns: Mapping[str, Column],
        tokenizer: Tokenizer,
        *,
        empty: Empty = "skip",
        labels: Sequence[str] | np.ndarray | None = None,
        what: str = "the texts",
    ):
        self.columns, kept, skipped = _without_empty(columns, empty, what)
        self.vocabulary = dict.fromkeys(self.columns, tokenizer.vocabulary)
        """By field: one more than the largest token."""
        self.skipped = skipped
        """Records that were passed over."""
        self.labels: np.ndarray | None = None
        self.label_names: tuple[str, ...] | None = None
        if labels is not None:
            names, numbers = np.unique(np.asarray(labels)[kept].astype(str), return_inverse=True)
            self.labels, self.label_names = numbers.astype(np.int32), tuple(names.tolist())
        self._fields = {}
        cut = 0
        for name, column in self.columns.items():
            self._fields[name], lost = _tokenize(column, tokenizer, f"{what}, {name}")
            cut += lost
        self.lengths = {name: field.lengths for name, field in self._fields.items()}
        """By field, [N]: the tokens of each record, of its longest text."""
        self.notices = tuple(
            words
            for count, words in (
                (skipped, f"{skipped} records of {what} have an empty text and are passed over"),
                (
                    cut,
                    f"{cut} texts of {what} are longer than {tokenizer.max_length} tokens and cut",
                ),
            )
            if count
        )
        """What is allowed but probably not meant, in words."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, record: int) -> Record:
        found: Record = {name: field[record] for name, field in self._fields.items()}
        found["replaced"] = False
        if self.labels is not None:
            found["label"] = self.labels[record]
        return found

    @functools.cached_property
    def groups(self) -> np.ndarray | None:
        """[N], equal for records that share a text of a field, or are linked by others that do."""
        return joined_groups(
            [_same(column, place) for column in self.columns.values() for place in _places(column)]
        )

    @property
    def names(self) -> Sequence[str]:
        """The text of each record; of several the first that is there."""
        first = next(iter(self.columns.values()))
        return [text if isinstance(text, str) else next(filter(None, text), "") for text in first]


@dataclasses.dataclass(frozen=True)
class Texts(SourceConfig):
    """Texts from a file: a text a line (.txt), CSV or TSV with named columns, JSON lines, or string
    arrays of an .npz; all of these but .npz also with .gz. Or from a data set that
    tensorflow-datasets prepared.

    All texts are held in memory, as tokens.
    """

    path: str
    """The file; or a prepared directory, as of `TFDS`."""
    tokenizer: str
    """A tokenizer.json, or the folder of a model with one."""
    columns: tuple[str, ...] = ("text",)
    """Names of the columns; each becomes a field of the record. Of a .txt: the field's name. Of a
    prepared directory: names of features, such as "captions/text" for one within another."""
    label: str | None = None
    """Name of a column of labels; None: no labels."""
    max_length: int = 128
    """Most tokens of a text, its marks of beginning and end included."""
    too_long: TooLong = "cut"
    """What becomes of longer texts: cut off, and counted; or refused."""
    empty: Empty = "skip"
    """What becomes of records with an empty text: passed over, and counted; refused; or kept."""
    split: str = "train"
    """Of a prepared directory the split, or a part of one: "train[:10%]"."""

    def open(self) -> TextSource:
        """Reads the file, and makes tokens of it.

        Raises:
          FileNotFoundError: if file or tokenizer are missing.
          ValueError: if one is damaged, no UTF-8, or lacks a column; or for texts as said.
          ImportError: where `tokenizers` is not installed.
        """
        if not self.columns:
            raise ValueError(f"columns names no column of {self.path}: name one or more")
        tokenizer = Tokenizer.load(
            self.tokenizer, max_length=self.max_length, too_long=self.too_long
        )
        wanted = [*self.columns, *([] if self.label is None else [self.label])]
        read = self.read(wanted)
        labels = None if self.label is None else np.asarray(read.pop(self.label))
        if labels is not None and labels.ndim != 1:
            raise ValueError(f"{self.path}: {self.label} has several texts a record, and no label")
        return TextSource(read, tokenizer, empty=self.empty, labels=labels, what=self.path)

    def read(self, columns: Sequence[str]) -> dict[str, Column]:
        """Columns of the file as they are written, by name; numbers too. Raises as `open`."""
        if is_prepared(os.path.expanduser(self.path)):
            return read_prepared_texts(self.path, self.split, columns)
        if self.split != "train":
            raise ValueError(
                f"split is {self.split!r}, and {self.path} has none, as it is no directory that "
                "tensorflow-datasets prepared: data.Split takes a part of a file"
            )
        return read_columns(self.path, columns)


def texts_within(config: Any) -> list[Texts]:
    """The texts within a tree of source configs, such as those that a `Paired` holds."""
    if isinstance(config, Texts):
        return [config]
    if isinstance(config, tuple | list):
        parts: Sequence[Any] = config
    elif dataclasses.is_dataclass(config):
        parts = [getattr(config, field.name) for field in dataclasses.fields(config)]
    else:
        return []
    return [texts for part in parts for texts in texts_within(part)]


@dataclasses.dataclass(frozen=True)
class _Field:
    """Tokens of all records, one after another."""

    tokens: np.ndarray
    starts: np.ndarray
    """[N * C + 1] where each text begins."""
    several: int | None
    """Texts of each record; None: one, without an axis of its own."""
    length: int
    """Of the longest text."""

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts).reshape(-1, self.several or 1).max(1)

    def __getitem__(self, record: int) -> np.ndarray:
        texts = self.several or 1
        rows = np.full((texts, self.length), NOTHING, np.int32)
        for place, row in enumerate(rows, record * texts):
            start, stop = self.starts[place : place + 2]
            row[: stop - start] = self.tokens[start:stop]
        return rows if self.several else rows[0]


def _tokenize(column: Column, tokenizer: Tokenizer, what: str) -> tuple[_Field, int]:
    """The tokens of a column, and how many texts were cut."""
    several = None if isinstance(column[0], str) else len(column[0])
    texts = [text for row in column for text in ([row] if isinstance(row, str) else row)]
    there = [place for place, text in enumerate(texts) if text.strip()]
    if len({texts[place] for place in there}) < 2:
        only = shown(texts[0] if texts else "")
        raise ValueError(f"{what}: all texts are {only}, so none tells its record from another")
    try:
        found = tokenizer([texts[place] for place in there])
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    counts = np.zeros(len(texts), np.int64)
    counts[there] = [len(tokens) for tokens in found.texts]
    starts = np.concatenate([[0], np.cumsum(counts)])
    field = _Field(np.concatenate(found.texts), starts, several, int(counts.max()))
    return field, found.cut


def _places(column: Column) -> Sequence[int | None]:
    """Where a record's several texts stand; None for one."""
    return [None] if isinstance(column[0], str) else range(len(column[0]))


def _same(column: Column, place: int | None) -> np.ndarray:
    """[N] integers, equal for the same text, -1 where there is none."""
    texts = [row if place is None else row[place] for row in column]
    numbers: dict[str, int] = {}
    return np.array(
        [numbers.setdefault(str(text), len(numbers)) if text else -1 for text in texts], np.int64
    )


def _without_empty(
    columns: Mapping[str, Column], empty: Empty, what: str
) -> tuple[dict[str, Column], np.ndarray, int]:
    """The columns, which records of them are kept, and how many are not."""
    if empty not in ("skip", "refuse", "keep"):
        raise ValueError(f"empty is {empty!r}, expected 'skip', 'refuse' or 'keep'")
    sizes = {len(column) for column in columns.values()}
    if len(sizes) != 1:
        raise ValueError(f"{what}: columns of {sorted(sizes)} texts, expected as many in each")
    count = sizes.pop()
    there = np.ones(count, bool)
    for column in columns.values():
        there &= np.array([bool("".join(text).strip()) for text in column], bool)
    missing = np.flatnonzero(~there)
    if len(missing) and empty == "refuse":
        raise ValueError(
            f"{what}: {len(missing)} records have an empty text, the first is number {missing[0]}: "
            "fill them, or have them passed over (empty='skip') or kept (empty='keep')"
        )
    kept = np.flatnonzero(there) if empty == "skip" else np.arange(count)
    texts = (text for column in columns.values() for row in column for text in row)
    if not len(kept) or not any(texts):
        raise ValueError(f"{what} holds no texts")
    if len(kept) == count:
        return dict(columns), kept, 0
    chosen = {name: [column[row] for row in kept] for name, column in columns.items()}
    return chosen, kept, count - len(kept)  # type: ignore[return-value]
