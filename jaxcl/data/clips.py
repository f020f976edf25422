"""Clips of sound by name: of files, or of a prepared data set."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from jaxcl.data.decoding import Undecodable
from jaxcl.data.files import BAD_FILE
from jaxcl.data.tfds import encoded_records, open_prepared, read_prepared
from jaxcl.extras import import_extra

LOUDEST = 32767
_SEEKABLE = {"WAV", "WAVEX", "RF64", "W64", "FLAC", "AIFF", "AU"}  # to the very sample


class Clips(Protocol):
    """Sounds by name, at one rate."""

    def told(self, name: str) -> str:
        """What errors call one."""
        ...

    def is_whole(self, name: str) -> bool:
        """Whether one can only be read from its beginning to its end."""
        ...

    def whole(self, name: str) -> np.ndarray:
        """All of one, [T] int16; raises Undecodable."""
        ...

    def part(self, name: str, samples: int, share: float | None) -> np.ndarray:
        """A window of one that need not be read whole; raises Undecodable."""
        ...


@dataclasses.dataclass(frozen=True)
class FileClips:
    """Files below a folder."""

    root: str
    rate: int

    def told(self, name: str) -> str:
        """The path of a file."""
        return os.path.join(self.root, *name.split("/"))

    def is_whole(self, name: str) -> bool:
        """Whether it is to be resampled, or of a format that does not tell where a sample lies."""
        info = _info(self.told(name))
        return info.samplerate != self.rate or info.format not in _SEEKABLE

    def whole(self, name: str) -> np.ndarray:
        """All of a file."""
        return to_int16(read_clip(self.told(name), self.rate))

    def part(self, name: str, samples: int, share: float | None) -> np.ndarray:
        """A window of a file."""
        return read_part(self.told(name), self.rate, samples, share)


class PreparedClips:
    """A feature of sounds of a prepared data set: whole numbers as in files of 16 bits, or floats
    from -1 to 1.

    Args:
      path: as in `Sounds`, and so are the others.
      split: which part.
      column: name of the feature.
      label: of the labels.
      rate: samples a second.

    Raises:
      ValueError: if a feature is missing, of another kind, or does not say its rate.
    """

    def __init__(self, path: str, split: str, column: str, label: str | None, rate: int):
        import tensorflow_datasets as tfds

        builder = open_prepared(path)
        features = builder.info.features
        if not isinstance(dict(features.items()).get(column), tfds.features.Audio):
            raise ValueError(
                f"{path} has no feature {column!r} of sound: name it by column; it has "
                f"{', '.join(features)}"
            )
        self._column, self._rate = column, rate
        self._own_rate = int(features[column].sample_rate or 0)
        self._records, self._where = encoded_records(builder, split), f"{path} [{split}]"
        self.labels: np.ndarray | None = None
        self.label_names: tuple[str, ...] | None = None
        if label is not None:
            if label not in features or np.dtype(features[label].np_dtype).kind not in "iub":
                raise ValueError(f"{path} has no feature {label!r} of integers")
            self.label_names = tuple(getattr(features[label], "names", None) or ()) or None
            found = [self._record(number)[label] for number in range(len(self))]
            self.labels = np.array(found, np.int32)

    def __len__(self) -> int:
        return len(self._records)

    def told(self, name: str) -> str:
        """What errors call a record."""
        return f"record {name} of {self._where}"

    def is_whole(self, name: str) -> bool:
        """A record is read as a whole."""
        del name
        return True

    def whole(self, name: str) -> np.ndarray:
        """All of a record."""
        samples = self._record(int(name))[self._column]
        if isinstance(samples, bytes):
            raise ValueError(
                f"feature {self._column!r} of {self._where} holds files as they were, which are "
                "not read: prepare the data set without lazy_decode"
            )
        if not self._own_rate:
            raise ValueError(
                f"feature {self._column!r} of {self._where} does not say its sample_rate: give it "
                "one where the data set is prepared"
            )
        samples = np.asarray(samples)
        if not samples.size:
            raise Undecodable(f"{self.told(name)} holds no samples")
        scale = 1.0 if samples.dtype.kind == "f" else 1 / 32768
        columns = samples.reshape(len(samples), -1).astype(np.float32) * np.float32(scale)
        return to_int16(one_channel(columns, self._own_rate, self._rate, self.told(name)))

    def part(self, name: str, samples: int, share: float | None) -> np.ndarray:
        """Never asked for."""
        raise NotImplementedError

    def _record(self, number: int) -> dict[str, Any]:
        return read_prepared(self._records, number, self.told(str(number)))


def read_clip(path: str, rate: int) -> np.ndarray:
    """A whole file: [T] float32, -1 to 1, the mean of its channels, at that rate.

    Raises:
      Undecodable: if it cannot be read, is cut short, is silent, or holds what is no number.
    """
    info = _info(path)
    with _decoding(path) as soundfile:
        samples, own_rate = soundfile.read(path, dtype="float32", always_2d=True)
    if not len(samples) or (info.format in _SEEKABLE and len(samples) < info.frames):
        raise Undecodable(f"{path} is cut short: {len(samples)} of {info.frames} samples")
    return one_channel(samples, own_rate, rate, path)


def one_channel(samples: np.ndarray, own_rate: int, rate: int, name: str) -> np.ndarray:
    """The mean [T] of channels [T, C], floats, at another rate.

    Raises:
      Undecodable: if it is silent, or holds what is no number.
    """
    clip = samples.mean(1)
    _check_numbers(clip, name)
    if _is_silent(clip):
        raise Undecodable(f"{name} holds nothing but silence")
    if own_rate != rate:
        clip = import_extra("soxr", "sound").resample(clip, own_rate, rate)
    return clip


def read_part(path: str, rate: int, samples: int, share: float | None) -> np.ndarray:
    """Of a file that is read by its samples: the window alone, as int16.

    Raises:
      Undecodable: as `read_clip`.
    """
    frames = _info(path).frames
    start = window_place(frames, samples, share)
    with _decoding(path) as soundfile:
        part, _ = soundfile.read(
            path, dtype="float32", always_2d=True, start=start, stop=min(start + samples, frames)
        )
        last, _ = soundfile.read(path, start=frames - 1)  # of what is cut short there is none
    if len(part) < min(samples, frames) or not len(last):
        raise Undecodable(f"{path} is cut short")
    clip = part.mean(1)
    if _is_silent(clip):
        read_clip(path, rate)  # which tells a pause from a file that holds nothing
    _check_numbers(clip, path)
    return to_int16(clip)


def to_int16(clip: np.ndarray) -> np.ndarray:
    """Of floats -1 to 1, cut off there."""
    return np.clip(np.round(clip * 32768.0), -32768, LOUDEST).astype(np.int16)


def window_place(length: int, samples: int, share: float | None) -> int:
    """Where a window begins: at a share, 0 to 1, of all places, or in the middle."""
    places = max(length - samples, 0) + 1
    return (places - 1) // 2 if share is None else int(share * places)


def _check_numbers(clip: np.ndarray, path: str) -> None:
    if not np.isfinite(clip).all():
        raise Undecodable(f"{path} holds samples that are no numbers")


def _is_silent(clip: np.ndarray) -> bool:
    """Whether nothing of it would be left as 16 bits."""
    return bool(np.abs(clip).max(initial=0.0) * 32768 < 0.5)


def _info(path: str) -> Any:
    with _decoding(path) as soundfile:
        return soundfile.info(path)


@contextlib.contextmanager
def _decoding(path: str) -> Iterator[Any]:
    """soundfile, whose failures within are the file's; but those of the machine are not."""
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        if error.errno not in BAD_FILE:
            raise
        raise Undecodable(f"{path} cannot be read: {error.strerror}") from error
    try:
        yield import_extra("soundfile", "sound")
    except (RuntimeError, ValueError) as error:  # libsndfile's, and sizes that cannot be
        raise Undecodable(f"{path} does not decode as sound: {error}") from error
