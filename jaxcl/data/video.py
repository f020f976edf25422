"""Folders of video files: each a recording, or of several cameras those of one name."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcl.data.decoding import Undecodable
from jaxcl.data.files import list_files
from jaxcl.extras import import_extra

_ENDINGS = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".gif"})


class VideoFolder:
    """The videos of a folder, decoded when asked for, and kept in memory as long as there is room.

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
        self._left = int(keep * 2**30)
        self.labels = None
        self.label_names = None
        files = {
            camera: {
                os.path.splitext(name)[0]: os.path.join(root, camera, *name.split("/"))
                for name in _videos(os.path.join(root, camera))
            }
            for camera in (cameras or ("",))
        }
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
        self._shape: dict[str, tuple[int, ...]] = {}
        first = self.read(0, np.zeros(1, int))
        self._shape = {name: values.shape[1:] for name, values in first.items()}

    def read(self, episode: int, times: np.ndarray) -> dict[str, np.ndarray]:
        """As `Recordings.read`."""
        found = {}
        for camera, paths in self._files.items():
            frames = self._frames(paths[episode])
            if len(frames) < self.lengths[episode]:
                raise Undecodable(f"{paths[episode]} has changed: it has {len(frames)} frames")
            found[camera] = frames[times]
            wanted = self._shape.get(camera, frames.shape[1:])
            if frames.shape[1:] != wanted:
                raise ValueError(
                    f"{paths[episode]} is {frames.shape[2]}x{frames.shape[1]} pixels, expected "
                    f"{wanted[1]}x{wanted[0]} like the first: set size"
                )
        return found

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": {}}

    def _counts(self, paths: Sequence[str]) -> tuple[list[int], str | None]:
        """Frames of each, or why one cannot be read."""
        try:
            return [len(self._frames(path)) for path in paths], None
        except Undecodable as error:
            return [], str(error)

    def _frames(self, path: str) -> np.ndarray:
        """All frames [T, H, W, 3] of a file."""
        kept = self._kept.get(path)
        if kept is not None:
            return kept
        frames = decode_video(path, self._size)
        if frames.nbytes <= self._left:
            self._left -= frames.nbytes
            self._kept[path] = frames
        return frames


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
    from PIL import ImageOps

    av = import_extra("av", "video")
    frames = []
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise Undecodable(f"{path} has no pictures")
            for frame in container.decode(video=0):
                if size is None:
                    frames.append(frame.to_ndarray(format="rgb24"))
                else:
                    frames.append(np.asarray(ImageOps.fit(frame.to_image(), (size, size))))
    except (av.error.FFmpegError, OSError) as error:
        raise Undecodable(f"{path} does not decode as a video: {error}") from error
    if not frames:
        raise Undecodable(f"{path} has no frames")
    return np.stack(frames)


def _videos(folder: str) -> list[str]:
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{folder} is not a folder: name cameras by their subfolders")
    return list_files(folder, _ENDINGS)
