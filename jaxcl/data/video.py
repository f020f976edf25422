"""Folders of video files: each a recording, or of several cameras those of one name."""

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxcl.data.decoding import Undecodable, fit
from jaxcl.data.files import list_files
from jaxcl.extras import import_extra

_ENDINGS = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".gif"})
# By replacing what these befall, what is read would depend on chance.
_MACHINE = {errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE}


class VideoFolder:
    """The videos of a folder, decoded when asked for, whole files, and kept in memory as long as
    there is room. When it opens, frames are counted in each file, none is decoded.

    Args:
      root: the folder.
      cameras: its subfolders that are cameras, in which files of one name, whatever their ending,
        run together; none: every file anywhere below is a recording.
      size: side that frames get; None: as they are.
      keep: GiB of decoded frames that stay.

    Raises:
      ImportError: where PyAV is not installed.
      ValueError: if there are no videos, or none that all cameras have.
    """

    def __init__(self, root: str, cameras: Sequence[str], size: int | None, keep: float):
        import_extra("av", "video")
        self._size = size
        self._kept: dict[str, np.ndarray] = {}
        self._room = int(keep * 2**30)
        self._left = self._room
        self._last: tuple[str, np.ndarray] | None = None
        self.labels = None
        self.label_names = None
        self._sides: tuple[str, tuple[int, int]] | None = None
        files = {camera: _by_name(os.path.join(root, camera)) for camera in (cameras or ("",))}
        for camera, found in files.items():
            if not found:
                raise ValueError(
                    f"{os.path.join(root, camera)} holds no videos: expected files with names like "
                    f"one.mp4 ({', '.join(sorted(_ENDINGS))})"
                )
        everywhere = sorted(set.intersection(*(set(found) for found in files.values())))
        lacking = sorted(set.union(*(set(found) for found in files.values())) - set(everywhere))
        if not everywhere:
            raise ValueError(f"no video of {root} is of one name in all of {', '.join(cameras)}")
        notices = []
        if lacking:
            notices.append(
                f"{len(lacking)} videos are left out, which not every camera has (the first is "
                f"{lacking[0]})"
            )
        kept, bad, apart = [], [], []
        lengths = []
        for name in everywhere:
            counts, error = self._counts([found[name] for found in files.values()])
            if error is not None:
                bad.append(error)
            elif len({*counts}) > 1:
                apart.append(f"{name}: {', '.join(map(str, counts))} frames")
            else:
                kept.append(name)
                lengths.append(counts[0])
        if bad:
            notices.append(f"{len(bad)} videos are left out that do not decode: {bad[0]}")
        if apart:
            notices.append(
                f"{len(apart)} videos are left out whose cameras run out of step ({apart[0]})"
            )
        if not kept:
            raise ValueError(f"no video of {root} can be used: {'; '.join(notices)}")
        self.names = kept
        self.lengths = np.array(lengths)
        self.notices = tuple(notices)
        self._files = {
            camera or "video": [found[name] for name in kept] for camera, found in files.items()
        }

    def read(self, episode: int, times: np.ndarray) -> dict[str, np.ndarray]:
        """As `Recordings.read`."""
        found = {}
        for camera, paths in self._files.items():
            frames = self._frames(paths[episode])
            if len(frames) <= times.max():
                raise Undecodable(
                    f"{paths[episode]} is cut short: {len(frames)} of {self.lengths[episode]} "
                    "frames decode"
                )
            found[camera] = frames[times]
        return found

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": {}, "_left": self._room, "_last": None}

    def _counts(self, paths: Sequence[str]) -> tuple[list[int], str | None]:
        """Frames of each, or why one cannot be read."""
        counts = []
        try:
            for path in paths:
                count, sides = count_frames(path)
                counts.append(count)
                first, wanted = self._sides or (path, sides)
                if self._size is None and sides != wanted:
                    raise ValueError(
                        f"{path} is {sides[1]}x{sides[0]} pixels, {first} is "
                        f"{wanted[1]}x{wanted[0]}: set size, for all to have one"
                    )
                self._sides = self._sides or (path, sides)
        except Undecodable as error:
            return [], str(error)
        return counts, None

    def _frames(self, path: str) -> np.ndarray:
        """All frames [T, H, W, 3] of a file."""
        kept, last = self._kept.get(path), self._last
        if kept is not None:
            return kept
        if last is not None and last[0] == path:  # its moments follow one another
            return last[1]
        frames = decode_video(path, self._size)
        if frames.nbytes <= self._left:
            self._left -= frames.nbytes
            self._kept[path] = frames
        self._last = (path, frames)
        return frames


def count_frames(path: str) -> tuple[int, tuple[int, int]]:
    """Frames of a video file, and their height and width, nothing decoded; raises as
    `decode_video`."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        sides = (stream.codec_context.height, stream.codec_context.width)
        count = sum(1 for packet in container.demux(stream) if packet.size)
    if not count:
        raise Undecodable(f"{path} has no frames")
    return count, sides


def decode_video(path: str, size: int | None = None) -> np.ndarray:
    """All frames of a video file, as RGB.

    Args:
      path: the file.
      size: side that frames get, the shorter side resized to it and the centre kept; None: as they
        are.

    Returns:
      [T, H, W, 3] uint8.

    Raises:
      ImportError: where PyAV is not installed.
      Undecodable: if the file is no video, or is damaged.
    """
    frames = []
    with _opened(path) as container:
        for frame in container.decode(video=0):
            if size is None:
                frames.append(frame.to_ndarray(format="rgb24"))
            else:
                frames.append(np.asarray(fit(frame.to_image(), size)))
    if len({frame.shape for frame in frames}) != 1:
        told = "has frames of several sizes" if frames else "has no frames"
        raise Undecodable(f"{path} {told}")
    return np.stack(frames)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Any]:
    """A video file, whose failures within are its own; but those of the machine are not."""
    av = import_extra("av", "video")
    try:
        with open(path, "rb"):
            pass
        with av.open(path) as container:
            if not container.streams.video:
                raise Undecodable(f"{path} has no pictures")
            yield container
    except (av.error.FFmpegError, OSError) as error:
        if error.errno in _MACHINE:
            raise
        raise Undecodable(f"{path} does not decode as a video: {error}") from error


def _by_name(folder: str) -> dict[str, str]:
    """Paths of the videos below a folder, by their names without ending."""
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{folder} is not a folder: name cameras by their subfolders")
    found: dict[str, str] = {}
    for name in list_files(folder, _ENDINGS):
        stem, path = os.path.splitext(name)[0], os.path.join(folder, *name.split("/"))
        if stem in found:
            raise ValueError(f"{path} and {found[stem]} have one name: rename one of them")
        found[stem] = path
    return found
