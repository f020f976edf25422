"""Episodes: recordings over time, of one camera or several, with what was measured beside; windows
of their frames, or frame by frame."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np

from jaxcl.choices import check_choices
from jaxcl.data.arrays import read_npz
from jaxcl.data.decoding import Undecodable, check_size_and_channels, read_or_next, resize_centre
from jaxcl.data.rlds import PreparedEpisodes
from jaxcl.data.source import THERE, Record, SourceConfig, as_numbers, inputs_of
from jaxcl.data.tfds import is_prepared
from jaxcl.data.video import VideoFolder

Short = Literal["skip", "hold", "refuse"]
"""What becomes of an episode shorter than the window: it is left out, its last frame is held, or
the data are refused."""


class Recordings(Protocol):
    """Episodes with access to any of their frames."""

    @property
    def lengths(self) -> np.ndarray:
        """[E] integers, frames of each."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """Of each."""
        ...

    @property
    def labels(self) -> np.ndarray | None:
        """[E] int32, or None."""
        ...

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Of label 0, 1, ..., or None."""
        ...

    @property
    def notices(self) -> tuple[str, ...]:
        """What is allowed but probably not meant, in words."""
        ...

    def read(self, episode: int, times: np.ndarray) -> dict[str, np.ndarray]:
        """Fields [len(times), ...] of an episode at these times.

        Raises:
          Undecodable: where a frame cannot be read.
        """
        ...


class EpisodeSource:
    """Windows of episodes as a source; `Episodes.open` makes it.

    Args:
      recordings: the episodes.
      window: frames of a record; None: a record is one frame, without an axis of time.
      stride: from one frame of a window to the next, in frames.
      every: a record begins at every so manieth frame of an episode; None: an episode is one
        record, its window in the middle, and from anywhere in training.
      short: what becomes of shorter episodes.

    Raises:
      ValueError: if no episode is long enough, or one is not and `short` is "refuse".
    """

    def __init__(
        self,
        recordings: Recordings,
        *,
        window: int | None = None,
        stride: int = 1,
        every: int | None = None,
        short: Short = "skip",
    ):
        for name, value in {"window": window, "stride": stride, "every": every}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1, or none")
        self._recordings, self._window, self._stride = recordings, window, stride
        self._every = every
        reach = ((window or 1) - 1) * stride + 1
        lengths = recordings.lengths
        too_short = np.flatnonzero(lengths < reach)
        self.notices = recordings.notices + _told(recordings, too_short, reach, short)
        places = np.maximum(lengths - reach, 0) + 1  # where a window may begin
        places[lengths == 0] = 0
        if short == "skip":
            places[too_short] = 0
        if not places.any():
            raise ValueError(
                f"none of {len(lengths)} episodes has the {reach} frames that a window takes (the "
                f"longest has {lengths.max(initial=0)}): make window or stride smaller"
            )
        begins = [
            (episode, start)
            for episode, count in enumerate(places.tolist())
            for start in (range(0, count, every) if every else [(count - 1) // 2][:count])
        ]
        self._episode, self._start = np.array(begins, np.int64).T
        self._places = places
        labels = recordings.labels
        self.labels = None if labels is None else labels[self._episode].astype(np.int32)
        self.label_names = recordings.label_names
        self.groups = self._episode.astype(np.int32)
        """[N], the episode of each record."""
        self.times = self._start
        """[N], the first frame of each record in its episode."""
        self._shapes: dict[str, tuple[int, ...]] = {}
        first = self[0]
        self._shapes = {name: value.shape for name, value in inputs_of(first).items()}

    def __len__(self) -> int:
        return len(self._episode)

    def __getitem__(self, record: int) -> Record:
        return read_or_next(record, len(self), self._read, what="episode")

    def draw(self, record: int, seed: Sequence[int]) -> Record:
        """A window from anywhere in the episode, every place as likely; of records at every so
        manieth frame, as it is."""
        if self._every is not None:
            return self[record]
        share = float(np.random.default_rng(seed).random())
        read = functools.partial(self._read, share=share)
        return read_or_next(record, len(self), read, what="episode")

    @property
    def names(self) -> Sequence[str]:
        """Episode and first frame of each record."""
        names = self._recordings.names
        return [
            f"{names[episode]}, frame {start}"
            for episode, start in zip(self._episode, self._start, strict=True)
        ]

    def _read(self, record: int, share: float | None = None) -> Record:
        episode, start = int(self._episode[record]), int(self._start[record])
        if share is not None:
            start = int(share * self._places[episode])
        times = start + self._stride * np.arange(self._window or 1)
        times = np.minimum(times, self._recordings.lengths[episode] - 1)
        fields = self._recordings.read(episode, times)
        for name, values in fields.items():
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise Undecodable(
                    f"{name} of {self._recordings.names[episode]} holds what is no number, at the "
                    f"frames {times[0]} to {times[-1]}"
                )
        if self._window is None:
            fields = {name: values[0] for name, values in fields.items()}
        for name, wanted in self._shapes.items():
            if fields[name].shape != wanted:
                raise ValueError(
                    f"{name} of {self._recordings.names[episode]} has shape {fields[name].shape}, "
                    f"that of the first record {wanted}: set size, for frames to have one"
                )
        found = Record(replaced=False) | fields
        if self.labels is not None:
            found["label"] = self.labels[record]
        return found


@dataclasses.dataclass(frozen=True)
class Episodes(SourceConfig):
    """Episodes of an .npz, of a data set that tensorflow-datasets prepared in the RLDS layout (read
    without TensorFlow), or of a folder of videos (`pip install "jaxcl[video]"`).

    A record is a window of frames: each of its fields is [window, ...]. In training a window is
    drawn from anywhere in its episode. Records of one episode are one group: `Split` keeps them
    together. A window with a frame that does not decode, or with what is no number, is replaced by
    the next record.
    """

    path: str
    """The .npz, with arrays [episodes, frames, ...]; the prepared directory, that of a version; or
    the folder of videos."""
    fields: tuple[str, ...] = ()
    """What records hold. Of an .npz names of arrays; of a prepared data set features of its steps,
    from outside in ("observation/image"), each called by its last part; of a folder its subfolders,
    one a camera, in which files of one name run together. None: all arrays of as many episodes and
    frames as most; all features that are images or numbers; the videos anywhere in the folder,
    called "video"."""
    window: int | None = 16
    """Frames of a record; None: a record is one frame, its fields without an axis of time."""
    stride: int = 1
    """From one frame of a window to the next, in frames."""
    every: int | None = None
    """A record begins at every so manieth frame of an episode, and is never drawn anew; None: an
    episode is one record."""
    short: Short = "skip"
    """What becomes of an episode that is shorter than the window."""
    cameras: tuple[str, ...] = ()
    """Of an .npz: arrays [episodes, frames, cameras, ...] that become a field for each camera,
    "video_0" and "video_1"."""
    lengths: str | None = None
    """Of an .npz: name of an array [episodes], the frames that count of each; None: all."""
    label: str | None = None
    """What an episode is of: of an .npz an array [episodes] of integers or strings; of a prepared
    data set a feature beside its steps."""
    split: str = "train"
    """Of a prepared data set: a split, or a part of one ("train[:10%]")."""
    size: int | None = None
    """Side in pixels that frames get: the shorter side is resized to it and the centre kept; None:
    as they are."""
    keep: float = 1.0
    """Of videos: GiB of decoded frames that stay in memory, of each process that reads."""

    def open(self) -> EpisodeSource:
        """Opens the episodes.

        Raises:
          FileNotFoundError: if there is no such file or folder.
          ImportError: where a package that reads them is not installed.
          ValueError: if they cannot be read as the config says, or run out of step.
        """
        check_choices(self)
        check_size_and_channels(self.size, channels=3)
        if self.keep < 0:
            raise ValueError(f"keep is {self.keep:g}, expected 0 GiB or more")
        path = os.path.expanduser(self.path)
        self._check_options(path)
        recordings: Recordings
        if is_prepared(path):
            recordings = PreparedEpisodes(path, self.split, self.fields, self.label, self.size)
        elif os.path.isdir(path):
            recordings = VideoFolder(path, self.fields, self.size, self.keep)
        elif path.endswith(".npz"):
            recordings = self._of_arrays(path)
        else:
            raise FileNotFoundError(
                f"{path} is no .npz of episodes, no folder that tensorflow-datasets prepared, and "
                "no folder of videos"
            )
        return EpisodeSource(
            recordings,
            window=self.window,
            stride=self.stride,
            every=self.every,
            short=self.short,
        )

    def _check_options(self, path: str) -> None:
        """Raises for options that say nothing of such a path."""
        is_set = {
            "cameras": self.cameras != (),
            "lengths": self.lengths is not None,
            "label": self.label is not None,
            "split": self.split != "train",
        }
        takes = {"label", "split"} if is_prepared(path) else {"cameras", "lengths", "label"}
        if os.path.isdir(path) and not is_prepared(path):
            takes = set()
        for name in sorted(name for name, given in is_set.items() if given and name not in takes):
            advice = ": name cameras by fields" if name == "cameras" and not takes else ""
            raise ValueError(f"{path} takes no {name}{advice}; leave it out")

    def _of_arrays(self, path: str) -> "ArrayEpisodes":
        notices: tuple[str, ...] = ()
        named = [*dict.fromkeys([*self.fields, *self.cameras])]
        beside = read_npz(path, [name for name in (self.lengths, self.label) if name is not None])
        arrays = dict(read_npz(path, named))
        if not self.fields:
            others = read_npz(path, None).items()
            arrays |= {name: array for name, array in others if name not in beside}
            arrays, notices = _of_one_time(arrays, self.cameras)
        split: dict[str, np.ndarray] = {}
        for name, array in arrays.items():
            if name not in self.cameras:
                split[name] = array
                continue
            if array.ndim < 4:
                raise ValueError(
                    f"{name} of {path} has shape {array.shape}, expected [episodes, frames, "
                    "cameras, ...]"
                )
            of_cameras = {
                f"{name}_{number}": array[:, :, number] for number in range(array.shape[2])
            }
            twice = sorted(set(of_cameras) & (set(arrays) | set(split)))
            if twice:
                raise ValueError(
                    f"{path} has an array {twice[0]!r}, as a camera of {name} is called"
                )
            split |= of_cameras
        return ArrayEpisodes(
            split,
            lengths=None if self.lengths is None else beside[self.lengths],
            labels=None if self.label is None else beside[self.label],
            size=self.size,
            what=path,
            notices=notices,
        )


class ArrayEpisodes:
    """Episodes in memory.

    Args:
      arrays: [E, T, ...] by name, all of as many episodes and frames; pictures [E, T, H, W, C] are
        uint8, or floats from 0 to 1.
      lengths: [E] integers, frames of each that count; None: all.
      labels: [E] integers or strings, or None.
      size: side that pictures get; None: as they are.
      what: what errors call them.
      notices: what is to be said of them.

    Raises:
      ValueError: if arrays, lengths or labels do not go together.
    """

    def __init__(
        self,
        arrays: dict[str, np.ndarray],
        *,
        lengths: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        size: int | None = None,
        what: str = "episodes",
        notices: tuple[str, ...] = (),
    ):
        for name in arrays:
            if name in ("index", "label", "replaced") or name.endswith(THERE):
                raise ValueError(
                    f"{what} has an array {name!r}, which records have of their own: name it by "
                    "label, rename it, or leave it out by fields"
                )
        shapes = {array.shape[:2] for array in arrays.values()}
        if len(shapes) != 1 or any(array.ndim < 2 or 0 in array.shape for array in arrays.values()):
            told = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise ValueError(
                f"arrays of {what} run out of step: expected [episodes, frames, ...], as many of "
                f"both in each, got {told or 'none'}"
            )
        [(count, frames)] = shapes
        self.lengths = np.full(count, frames) if lengths is None else np.asarray(lengths)
        if self.lengths.shape != (count,) or self.lengths.dtype.kind not in "iu":
            raise ValueError(f"lengths of {what} must be [{count}] integers, one for each episode")
        if self.lengths.min() < 0 or self.lengths.max() > frames:
            raise ValueError(
                f"lengths of {what} go from {self.lengths.min()} to {self.lengths.max()}, expected "
                f"0 to {frames}, the frames that there are"
            )
        self.names = [f"episode {number}" for number in range(count)]
        self.labels, self.label_names = numbered(labels, count, what)
        self.notices = notices
        self._size = size
        self._arrays = {name: _plain(array, f"{name} of {what}") for name, array in arrays.items()}

    def read(self, episode: int, times: np.ndarray) -> dict[str, np.ndarray]:
        """As `Recordings.read`."""
        found = {name: array[episode, times] for name, array in self._arrays.items()}
        if self._size is None:
            return found
        return {
            name: np.stack([resize_centre(frame, self._size) for frame in values])
            if values.ndim == 4
            else values
            for name, values in found.items()
        }


def numbered(
    labels: Any, count: int, what: str
) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Labels [count] as numbers, with the names of those that are strings."""
    if labels is None:
        return None, None
    labels = np.asarray(labels)
    if labels.shape != (count,) or labels.dtype.kind not in "iubUS":
        raise ValueError(
            f"labels of {what} have shape {labels.shape} and type {labels.dtype}: expected "
            f"({count},), integers or strings, one for each episode"
        )
    if labels.dtype.kind in "US":
        different, numbers = np.unique(labels.astype(str), return_inverse=True)
        return numbers.astype(np.int32), tuple(different.tolist())
    return as_numbers(labels, f"the label of {what}"), None


def _of_one_time(
    arrays: dict[str, np.ndarray], named: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Those of [episodes, frames, ...] as what is named has, or most; and what is said of others
    that have an axis of frames, too."""
    able = {name: array for name, array in arrays.items() if array.ndim > 1}
    wanted = [array.shape[:2] for name, array in able.items() if name in named]
    shapes = wanted or [array.shape[:2] for array in able.values()]
    if not shapes:
        return {}, ()
    counts = {shape: shapes.count(shape) for shape in shapes}
    most = [shape for shape, count in counts.items() if count == max(counts.values())]
    if len(most) > 1:
        told = ", ".join(f"{name} {array.shape[:2]}" for name, array in able.items())
        raise ValueError(
            f"arrays run out of step, and none of these is usual: {told}. Name by fields those "
            "that go together"
        )
    kept = {name: array for name, array in able.items() if array.shape[:2] == most[0]}
    others = [f"{name} {array.shape[:2]}" for name, array in able.items() if name not in kept]
    if not others:
        return kept, ()
    return kept, (
        f"left out, for they have not {most[0][0]} episodes of {most[0][1]} frames: "
        f"{', '.join(others)}",
    )


def _plain(array: np.ndarray, name: str) -> np.ndarray:
    """Numbers as devices take them: of pictures [E, T, H, W, C] uint8 or floats."""
    is_picture = array.ndim == 5 and array.dtype.kind in "iu"
    if is_picture and array.dtype != np.uint8 and array.min() >= 0 and array.max() <= 255:
        return array.astype(np.uint8)
    return as_numbers(array, name)


def _told(
    recordings: Recordings, too_short: np.ndarray, reach: int, short: Short
) -> tuple[str, ...]:
    """What is said of episodes that are too short; raises where they are refused."""
    if not len(too_short):
        return ()
    first = f"the first is {recordings.names[too_short[0]]}"
    told = f"{len(too_short)} of {len(recordings.lengths)} episodes"
    if short == "refuse":
        raise ValueError(
            f"{told} have fewer frames than the {reach} that a window takes ({first}): set short "
            "to 'skip' or 'hold', or make window or stride smaller"
        )
    done = {"skip": "are left out", "hold": "hold their last frame"}[short]
    return (f"{told} have fewer frames than a window takes and {done} ({first})",)
