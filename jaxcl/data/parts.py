"""Sources made of others: side by side, or a part."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from jaxcl.data.source import THERE, Record, Source, SourceConfig, inputs_of, opened, read_record


class PairedSource:
    """Record i of several sources as one record; `Paired.open` makes it.

    Names and labels are those of the first source that has them.

    Args:
      sources: with as many records, of other fields each.
      fields: as in `Paired`.

    Raises:
      ValueError: if numbers of records differ, two sources have a field of one name, or `fields`
        do not go with them.
    """

    def __init__(self, sources: Sequence[Source], fields: Sequence[str] = ()):
        if fields:
            if len(fields) != len(sources):
                raise ValueError(
                    f"{len(fields)} names of fields, {', '.join(fields)}, for {len(sources)} "
                    "paired sources: give one for each, or none"
                )
            sources = [_renamed(source, name) for source, name in zip(sources, fields, strict=True)]
        sizes = [len(source) for source in sources]
        if len({*sizes}) != 1:
            raise ValueError(
                f"sources of {', '.join(map(str, sizes))} records cannot be paired: record i of "
                "each has to be of the same thing"
            )
        found = [name for source in sources for name in inputs_of(source[0])]
        twice = sorted({name for name in found if found.count(name) > 1})
        if twice:
            raise ValueError(
                f"two of the paired sources have a field {twice[0]!r}: give each a name in fields"
            )
        self._sources = tuple(sources)
        labelled = [source for source in sources if source.labels is not None]
        self.labels = labelled[0].labels if labelled else None
        self.label_names = labelled[0].label_names if labelled else None
        self.lengths: dict[str, np.ndarray] = {}
        for source in sources:
            self.lengths |= getattr(source, "lengths", None) or {}
        self.vocabulary: dict[str, int] = {}
        for source in sources:
            self.vocabulary |= getattr(source, "vocabulary", None) or {}
            skipped = getattr(source, "skipped", 0)
            if skipped:
                raise ValueError(
                    f"a paired source passed {skipped} empty records over, so its others "
                    "stand at other numbers: give it empty='keep'"
                )
        self.notices = tuple(
            notice for source in sources for notice in getattr(source, "notices", ())
        )

    def __len__(self) -> int:
        return len(self._sources[0])

    def __getitem__(self, record: int) -> Record:
        return self._joined(record, None)

    def draw(self, record: int, seed: Sequence[int]) -> Record:
        """All parts draw by the same seed: what lies side by side in time stays so."""
        return self._joined(record, seed)

    def _joined(self, record: int, seed: Sequence[int] | None) -> Record:
        parts = [read_record(source, record, seed) for source in self._sources]
        found: Record = {"replaced": any(part["replaced"] for part in parts)}
        for part in parts:
            found |= {name: part[name] for name in part if name not in ("label", "replaced")}
        if self.labels is not None:
            found["label"] = self.labels[record]
        return found

    @property
    def names(self) -> Sequence[str]:
        """A name for each record: of a source whose names are more than numbers, where there is
        one."""
        for source in self._sources:
            if source.names[0] != "0":
                return source.names
        return self._sources[0].names

    @functools.cached_property
    def groups(self) -> np.ndarray | None:
        """[N], equal for records that some source holds to be of one thing."""
        known = [getattr(source, "groups", None) for source in self._sources]
        return joined_groups([groups for groups in known if groups is not None])


class _Renamed:
    """A source whose only field has another name."""

    def __init__(self, source: Source, before: str, name: str):
        self._source, self._before, self._name = source, before, name
        self.labels, self.label_names = source.labels, source.label_names
        lengths: Mapping[str, np.ndarray] = getattr(source, "lengths", None) or {}
        self.lengths = {self._new(field): of_all for field, of_all in lengths.items()}
        known: Mapping[str, int] = getattr(source, "vocabulary", None) or {}
        self.vocabulary = {self._new(field): count for field, count in known.items()}
        self.skipped = getattr(source, "skipped", 0)
        self.notices = getattr(source, "notices", ())

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, record: int) -> Record:
        return self._named(self._source[record])

    def draw(self, record: int, seed: Sequence[int]) -> Record:
        return self._named(read_record(self._source, record, seed))

    def _named(self, record: Record) -> Record:
        return {self._new(name): value for name, value in record.items()}

    @property
    def names(self) -> Sequence[str]:
        return self._source.names

    @property
    def groups(self) -> np.ndarray | None:
        groups: np.ndarray | None = getattr(self._source, "groups", None)
        return groups

    def _new(self, field: str) -> str:
        renamed = {self._before: self._name, f"{self._before}{THERE}": f"{self._name}{THERE}"}
        return renamed.get(field, field)


def _renamed(source: Source, name: str) -> Source:
    fields = [*inputs_of(source[0])]
    if len(fields) != 1:
        raise ValueError(
            f"a paired source has the fields {', '.join(fields)}, which cannot all be called "
            f"{name!r}"
        )
    return _Renamed(source, fields[0], name)


class OneField:
    """An array as a source: row i is the one field of record i.

    Args:
      field: its name.
      values: [N, ...].
      vocabulary: of tokens, one more than the largest; None: the values are none.
    """

    labels = None
    label_names = None

    def __init__(self, field: str, values: np.ndarray, *, vocabulary: int | None = None):
        self._field, self._values = field, values
        self.vocabulary = {} if vocabulary is None else {field: vocabulary}

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, record: int) -> Record:
        return {self._field: self._values[record], "replaced": False}

    @property
    def names(self) -> Sequence[str]:
        """The number of each record."""
        return [str(number) for number in range(len(self))]


class Subset:
    """Some records of a source, as a source.

    Args:
      source: the whole.
      records: [n], their numbers.
    """

    def __init__(self, source: Source, records: np.ndarray) -> None:
        self._source, self._records = source, np.asarray(records)
        self.label_names = source.label_names
        self.labels = None if source.labels is None else np.asarray(source.labels)[records]
        lengths: Mapping[str, np.ndarray] = getattr(source, "lengths", None) or {}
        self.lengths = {name: of_all[records] for name, of_all in lengths.items()}
        self.vocabulary = getattr(source, "vocabulary", None) or {}
        self.notices = getattr(source, "notices", ())

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, record: int) -> Record:
        return self._source[int(self._records[record])]

    def draw(self, record: int, seed: Sequence[int]) -> Record:
        """As the whole draws it."""
        return read_record(self._source, int(self._records[record]), seed)

    @property
    def names(self) -> Sequence[str]:
        """A name for each record."""
        names = self._source.names
        return [names[record] for record in self._records.tolist()]

    @functools.cached_property
    def groups(self) -> np.ndarray | None:
        """[n], as the whole's."""
        groups = getattr(self._source, "groups", None)
        return None if groups is None else groups[self._records]


@dataclasses.dataclass(frozen=True)
class Paired(SourceConfig):
    """Several sources side by side: record i of each is of the same thing, such as a picture and
    its captions. A text source in it takes `empty="keep"`: its records keep their numbers so."""

    parts: tuple[SourceConfig, ...]
    """The sources."""
    fields: tuple[str, ...] = ()
    """Names for the field of each source, where two have the same: such as two pictures of one
    thing, which views are then of (`Views.fields`). None: as they are."""

    def open(self) -> PairedSource:
        """Opens them all.

        Raises:
          FileNotFoundError: where data are missing.
          ValueError: where they cannot be read, or do not go together.
        """
        if len(self.parts) < 2:
            raise ValueError("Paired takes two sources or more")
        return PairedSource([opened(part) for part in self.parts], self.fields)


@dataclasses.dataclass(frozen=True)
class Split(SourceConfig):
    """The training or the test part of a source, drawn by a seed.

    Records that share a text lie in the same part, so that no caption of the one is in the other.
    """

    of: SourceConfig
    """The whole."""
    part: Literal["train", "test"] = "train"
    """Which part."""
    share: float = 0.2
    """Of the records in the test part; above 0, below 1."""
    seed: int = 0
    """Decides which."""

    def open(self) -> Subset:
        """Opens the source, and draws.

        Raises:
          FileNotFoundError: where data are missing.
          ValueError: where they cannot be read, or a part would be empty.
        """
        if not 0 < self.share < 1:
            raise ValueError(f"share is {self.share}, expected more than 0 and less than 1")
        if self.part not in ("train", "test"):
            raise ValueError(f"part is {self.part!r}, expected 'train' or 'test'")
        source = opened(self.of)
        groups = getattr(source, "groups", None)
        groups = np.arange(len(source)) if groups is None else groups
        _, group = np.unique(groups, return_inverse=True)
        sizes = np.bincount(group)
        order = np.random.default_rng(self.seed).permutation(len(sizes))
        # Whole groups, in random order, as long as they fit into the share.
        in_test = np.zeros(len(sizes), bool)
        left = round(self.share * len(source))
        for number in order.tolist():
            if sizes[number] <= left:
                in_test[number] = True
                left -= sizes[number]
        chosen = in_test[group] if self.part == "test" else ~in_test[group]
        if not chosen.any() or chosen.all():
            raise ValueError(
                f"share {self.share} of {len(source)} records leaves the {self.part} part or the "
                "other empty: choose another"
            )
        return Subset(source, np.flatnonzero(chosen))


def joined_groups(groups: Sequence[np.ndarray]) -> np.ndarray | None:
    """One number a record, equal where records are of one group in any of several groupings, or are
    linked by others that are.

    Args:
      groups: [N] integers each; below 0: of no group.

    Returns:
      [N] int32, or None where there is no grouping.

    Example:
      >>> joined_groups([np.array([0, 0, 1, 2]), np.array([5, 6, 6, -1])]).tolist()
      [0, 0, 0, 1]
    """
    if not groups:
        return None
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(groups[0])
    offset, rows, columns = count, [], []
    for grouping in groups:
        member = np.flatnonzero(grouping >= 0)
        _, number = np.unique(grouping[member], return_inverse=True)
        rows.append(member)
        columns.append(offset + number)
        offset += int(number.max(initial=-1)) + 1
    row, column = np.concatenate(rows), np.concatenate(columns)
    links = coo_array((np.ones(len(row), bool), (row, column)), shape=(offset, offset))
    return connected_components(links, directed=False)[1][:count].astype(np.int32)
