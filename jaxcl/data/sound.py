"""Sound files: windows of one length, at one rate."""

import dataclasses
import functools
import os
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from jaxcl.choices import check_choices
from jaxcl.data.clips import LOUDEST, Clips, FileClips, PreparedClips, window_place
from jaxcl.data.decoding import Undecodable, read_or_next
from jaxcl.data.files import list_files, subfolder_labels
from jaxcl.data.parts import joined_groups
from jaxcl.data.source import THERE, Record, SourceConfig
from jaxcl.data.tables import ENDINGS as TABLES
from jaxcl.data.tables import read_columns
from jaxcl.data.tfds import is_prepared
from jaxcl.extras import import_extra

SoundLabels = Literal["none", "subfolders"]
Short = Literal["pad", "repeat", "refuse"]
"""What becomes of a clip shorter than the window: silence follows it, it begins anew, or the file
is refused."""

_ENDINGS = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au"})
_LOOKED_AT = 100  # files that are decoded when a source opens, at most


class SoundSource:
    """Sound files as a source, each read when asked for; `Sounds.open` makes it.

    Record i is the middle of file i; `draw` gives a window from anywhere in it. Samples are [T]
    int16, of which `augment` makes floats.

    Args:
      clips: the files.
      names: their names; "" where a record has none. Of several files a record, such as of several
        speakers, a tuple each.
      labels: [N] integers, or None.
      label_names: the name of each label, or None.
      config: the rest.

    Raises:
      ValueError: if none of the first files can be read.
    """

    def __init__(
        self,
        clips: "Clips",
        names: Sequence[str] | Sequence[tuple[str, ...]],
        labels: np.ndarray | None,
        label_names: tuple[str, ...] | None,
        config: "Sounds",
    ):
        several = [(name,) if isinstance(name, str) else name for name in names]
        self._files = [tuple(name for name in own if name) for own in several]
        self.names = [own[0] if own else "" for own in self._files]
        self.labels = labels
        self.label_names = label_names
        self._clips = clips
        self._config = config
        self._with_file = np.flatnonzero([bool(own) for own in self._files])
        self._kept: dict[str, np.ndarray] = {}
        self._left = int(config.keep * 2**30)  # bytes
        self.notices = self._look()
        """What is allowed but probably not meant, in words."""
        self[int(self._with_file[0])]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, record: int) -> Record:
        return self._record(record, None, 0.0)

    def draw(self, record: int, seed: Sequence[int]) -> Record:
        """A window from anywhere in the file, every place as likely; of several files any, which of
        them hangs on the field's name too."""
        share = np.random.default_rng(seed).random()
        own_seed = (*seed, zlib.crc32(self._config.field.encode()))
        return self._record(record, share, np.random.default_rng(own_seed).random())

    @functools.cached_property
    def groups(self) -> np.ndarray | None:
        """[N], equal for files of one name in several folders, where `same` says so; what has no
        file is of a group of its own."""
        if self._config.same != "name":
            return None
        stems = [os.path.splitext(os.path.basename(name))[0] for name in self.names]
        numbers = np.unique(stems, return_inverse=True)[1]
        return joined_groups([np.where(np.array(stems) == "", -1, numbers)])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": {}, "_left": int(self._config.keep * 2**30)}

    def _record(self, record: int, share: float | None, which: float) -> Record:
        if not self._files[record]:
            found = Record(replaced=False)
            found[self._config.field] = np.zeros(self._config.samples, np.int16)
            found |= self._beside(record)
            return found
        place = int(np.searchsorted(self._with_file, record))
        read = functools.partial(self._read, share=share, which=which)
        return read_or_next(place, len(self._with_file), read, what="sound")

    def _read(self, place: int, share: float | None, which: float) -> Record:
        """A record, by its place among those that have a file."""
        record = int(self._with_file[place])
        own = self._files[record]
        window = self._window(own[int(which * len(own))], share)
        return Record(replaced=False) | {self._config.field: window} | self._beside(record)

    def _beside(self, record: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if len(self._with_file) < len(self):
            found[f"{self._config.field}{THERE}"] = bool(self.names[record])
        if self.labels is not None:
            found["label"] = self.labels[record]
        return found

    def _window(self, name: str, share: float | None) -> np.ndarray:
        config = self._config
        clip = self._kept.get(name)
        if clip is None:
            if not config.keep and not self._clips.is_whole(name):
                clip = self._clips.part(name, config.samples, share)
            else:
                clip = self._decode(name)
        return fitted(clip, config, self._clips.told(name), share)

    def _decode(self, name: str) -> np.ndarray:
        """All of a file, which is kept where there is room."""
        clip = self._clips.whole(name)
        if clip.nbytes <= self._left:
            self._left -= clip.nbytes
            self._kept[name] = clip
        return clip

    def _look(self) -> tuple[str, ...]:
        """Reads some files, spread over all."""
        config, count = self._config, len(self._with_file)
        some = self._with_file[np.linspace(0, count - 1, min(_LOOKED_AT, count)).astype(int)]
        short, loud, bad = [], [], []
        for record in some.tolist():
            name = self.names[record]
            path = self._clips.told(name)
            try:
                if config.keep or self._clips.is_whole(name):
                    clip = self._decode(name)
                else:
                    clip = self._clips.part(name, config.samples, None)
            except Undecodable as error:
                bad.append(str(error))
                continue
            if len(clip) < config.samples:
                short.append(path)
            if np.mean(np.abs(clip.astype(np.int32)) >= LOUDEST) > 1e-3:
                loud.append(path)
        told = f"of {len(some)} files looked at"
        window = f"the window of {self._config.seconds:g} s"
        done = {"pad": "silence follows", "repeat": "they are repeated"}
        if short and self._config.short == "refuse":
            raise ValueError(
                f"{len(short)} {told} are shorter than {window}, the first is {short[0]}: set "
                "seconds to less, or short to 'pad' or 'repeat'"
            )
        found = []
        if short:
            found.append(
                f"{len(short)} {told} are shorter than {window}: {done[self._config.short]} "
                f"(the first is {short[0]})"
            )
        if loud:
            found.append(f"{len(loud)} {told} are clipped (the first is {loud[0]})")
        if bad:
            found.append(f"{len(bad)} {told} are replaced by the next ones: {bad[0]}")
        return tuple(found)


@dataclasses.dataclass(frozen=True)
class Sounds(SourceConfig):
    """Every sound file in a folder and the folders below it, ordered by path, those that a table
    names, or a feature of a data set that tensorflow-datasets prepared, read without TensorFlow.

    wav, flac, ogg, opus, mp3, aiff and au, of any rate, depth and number of channels: resampled,
    and the channels' mean. A file that does not decode, is cut short, holds what is no number, or
    nothing but silence, is replaced by the next one that does, and its record says so. (What is cut
    short is seen of flac and aiff; wav, ogg and mp3 do not tell, and are read as far as they go.)

    Reading takes soundfile and soxr: `pip install "jaxcl[sound]"`.
    """

    path: str
    """The folder; a .csv, .tsv or .jsonl with paths below its own folder; or the directory, that of
    a version, of a prepared data set."""
    rate: int = 16_000
    """Samples a second."""
    seconds: float = 1.0
    """Of a window."""
    short: Short = "pad"
    """What becomes of files that are shorter than it."""
    labels: SoundLabels = "none"
    """Of a folder: with "subfolders" the folder directly below `path` that a file is in."""
    column: str | tuple[str, ...] = "sound"
    """Of a table: name of the column of paths, of which some may be empty. Of several columns, such
    as one sentence by several speakers, a record is the first that is there; each time that it is
    trained on, any. Of a prepared data set: name of the feature."""
    label: str | None = None
    """Of a table: name of the column of labels; of a prepared data set: of an integer feature.
    None: none."""
    split: str = "train"
    """Of a prepared data set: a split, or a part of one ("train[:10%]")."""
    same: Literal["nothing", "name"] = "nothing"
    """What makes files one group, which `Split` and `train.apart` keep together and apart: with
    "name" that their names are the same but for folder and ending, such as one sentence by several
    speakers."""
    field: str = "sound"
    """What the record's field is called."""
    keep: float = 1.0
    """GiB of decoded sound that stay in memory, of each process that reads; files beyond them are
    decoded again each time. With 0 of those that allow it the window alone is read, which is best
    for long recordings; what is no number elsewhere in a file is then not seen."""

    @property
    def samples(self) -> int:
        """Of a window."""
        return round(self.rate * self.seconds)

    def open(self) -> SoundSource:
        """Lists the files, and decodes up to 100 of them, to see what they are.

        Raises:
          FileNotFoundError: if there is no such folder or table.
          ImportError: where soundfile or soxr are not installed.
          ValueError: if it names no sound file, none of the first is readable, or an option cannot
            be.
        """
        check_choices(self)
        for package in ("soundfile", "soxr"):
            import_extra(package, "sound")
        if self.rate < 1 or self.samples < 1 or self.keep < 0:
            raise ValueError(
                f"rate {self.rate}, seconds {self.seconds:g} and keep {self.keep:g} must be "
                "positive, and make one sample at least"
            )
        path = os.path.expanduser(self.path)
        if os.path.isfile(path):
            return self._of_table(path)
        if is_prepared(path):
            return self._prepared(path)
        if not os.path.isdir(path):
            raise FileNotFoundError(
                f"{path} is neither a folder of sound files nor a table of them ({_tables()})"
            )
        names = list_files(path, _ENDINGS)
        if not names:
            raise ValueError(
                f"{path} holds no sound files: expected files with names like clip.wav, there or "
                "in folders below"
            )
        labels, label_names = None, None
        if self.labels == "subfolders":
            labels, label_names = subfolder_labels(path, names)
        return SoundSource(FileClips(path, self.rate), names, labels, label_names, self)

    def _prepared(self, path: str) -> SoundSource:
        if not isinstance(self.column, str) or self.labels != "none" or self.same != "nothing":
            raise ValueError(
                f"{path} is a prepared data set: name one feature by column, labels by label, and "
                "leave same out"
            )
        clips = PreparedClips(path, self.split, self.column, self.label, self.rate)
        names = [str(number) for number in range(len(clips))]
        return SoundSource(clips, names, clips.labels, clips.label_names, self)

    def _of_table(self, path: str) -> SoundSource:
        if self.labels != "none":
            raise ValueError(f"{path} is a table: name its column of labels by label")
        columns = (self.column,) if isinstance(self.column, str) else self.column
        read = read_columns(path, [*columns, *([] if self.label is None else [self.label])])
        root, names = os.path.dirname(path), []
        for column in columns:
            own = [name.strip() if isinstance(name, str) else None for name in read[column]]
            if None in own or any(os.path.isabs(name or "") for name in own):
                raise ValueError(
                    f"{path}: column {column!r} is to hold one path a record, below the table's "
                    "own folder"
                )
            names.append([name or "" for name in own])
            if not any(names[-1]):
                raise ValueError(f"{path}: column {column!r} names no file")
            missing = [x for x in names[-1] if x and not os.path.exists(os.path.join(root, x))]
            if missing:
                raise ValueError(
                    f"{path}: {len(missing)} of the files that column {column!r} names are not "
                    f"there, the first is {missing[0]!r}"
                )
        labels: np.ndarray | None = None
        label_names: tuple[str, ...] | None = None
        if self.label is not None:
            different, numbers = np.unique(np.asarray(read[self.label]), return_inverse=True)
            labels, label_names = numbers.astype(np.int32), tuple(different.tolist())
        clips = FileClips(root, self.rate)
        return SoundSource(clips, [*zip(*names, strict=True)], labels, label_names, self)


def fitted(clip: np.ndarray, config: Sounds, path: str, share: float | None) -> np.ndarray:
    """The window of a clip, which is filled up where it is shorter."""
    samples = config.samples
    if len(clip) >= samples:
        start = window_place(len(clip), samples, share)
        return clip[start : start + samples]
    if config.short == "refuse":
        raise ValueError(
            f"{path} is shorter than the window of {config.seconds:g} s: set seconds to less, or "
            "short to 'pad' or 'repeat'"
        )
    if config.short == "repeat":
        return np.resize(clip, samples)
    return np.pad(clip, (0, samples - len(clip)))


def _tables() -> str:
    return ", ".join(ending for ending in TABLES if ending not in (".txt", ".npz"))
