"""A folder of image files."""

import dataclasses
import os
from typing import Literal, get_args

import numpy as np

from jaxcl.data.decoding import (
    Undecodable,
    check_one_shape,
    check_size_and_channels,
    decode,
    image_extensions,
    read_or_next,
    upright_size,
)
from jaxcl.data.files import BAD_FILE, list_files, subfolder_labels
from jaxcl.data.source import Record, SourceConfig

FolderLabels = Literal["none", "subfolders"]

_HEADERS_READ = 1000


class FolderSource:
    """Image files as a source, each read when asked for; `Folder.open` makes it.

    Args:
      root: the folder.
      names: paths of the files below it, with slashes.
      labels: [N] integers, or None.
      label_names: the name of each label, or None.
      size: as in `Folder`.
      channels: as in `Folder`.

    Raises:
      ValueError: if none of the first files can be read, or files have several sizes and `size` is
        None: seen here for up to 1,000 of them, spread over all, and for the others when read.
    """

    def __init__(
        self,
        root: str,
        names: list[str],
        labels: np.ndarray | None,
        label_names: tuple[str, ...] | None,
        *,
        size: int | None,
        channels: int,
    ):
        self.names = names
        self.labels = labels
        self.label_names = label_names
        self._root = root
        self._size = size
        self._channels = channels
        # The first readable file sets the shape that every other must have.
        image = read_or_next(0, len(names), self._read)["image"]
        self.image_shape: tuple[int, int, int] = image.shape
        if size is None:
            self._check_sizes()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, record: int) -> Record:
        return read_or_next(record, len(self), self._read_of_one_shape)

    def _read_of_one_shape(self, record: int) -> Record:
        found = self._read(record)
        check_one_shape(found["image"], self.image_shape, self._path(record))
        return found

    def _read(self, record: int) -> Record:
        path = self._path(record)
        try:
            with open(path, "rb") as file:
                encoded = file.read()
        except OSError as error:
            if error.errno not in BAD_FILE:
                raise
            raise Undecodable(f"{path} cannot be read: {error.strerror}") from error
        image = decode(encoded, path, size=self._size, channels=self._channels)
        found = Record(image=image, replaced=False)
        if self.labels is not None:
            found["label"] = self.labels[record]
        return found

    def _check_sizes(self) -> None:
        """Reads headers, of so many files that it takes a moment; the others are seen when read."""
        count = min(len(self), _HEADERS_READ)
        for record in np.linspace(0, len(self) - 1, count).astype(int).tolist():
            size = upright_size(self._path(record))
            if size is not None and size != self.image_shape[:2]:
                check_one_shape(np.empty((*size, 0)), self.image_shape, self._path(record))

    def _path(self, record: int) -> str:
        return os.path.join(self._root, *self.names[record].split("/"))


@dataclasses.dataclass(frozen=True)
class Folder(SourceConfig):
    """Every image file in a folder and the folders below it, ordered by path.

    Files count as images by the ending of their name (any format that Pillow decodes); hidden
    files, hidden folders and all else are passed over. Links are followed, each folder is read
    once. A file that does not decode is replaced by the next one that does, and its record says so.
    """

    path: str
    """The folder."""

    size: int | None = None
    """Side in pixels of the images: the shorter side is resized to it (antialiased bilinear) and
    the centre kept. None takes images as they are, which then must have one size."""

    labels: FolderLabels = "none"
    """What gives an image its label: with "subfolders" the folder directly below `path` that it is
    in, numbered in sorted order."""

    channels: Literal[1, 3] = 3
    """1 converts to grey, 3 to RGB."""

    def open(self) -> FolderSource:
        """Lists the files and reads the first.

        Raises:
          FileNotFoundError: if there is no such folder.
          ValueError: if it holds no image, none of the first is readable, images that belong to no
            subfolder, or images of several sizes where `size` is None.
        """
        check_size_and_channels(self.size, self.channels)
        if self.labels not in get_args(FolderLabels):
            raise ValueError(
                f"labels {self.labels!r} is none of {', '.join(get_args(FolderLabels))}"
            )
        root = os.path.expanduser(self.path)
        if not os.path.isdir(root):
            raise FileNotFoundError(
                f"{root} is not a folder: give the path of a folder of images (data.path)"
            )
        names = list_files(root, image_extensions())
        if not names:
            raise ValueError(
                f"{root} holds no image files: expected files with names like photo.jpg, "
                "there or in folders below"
            )
        labels, label_names = None, None
        if self.labels == "subfolders":
            labels, label_names = subfolder_labels(root, names)
        return FolderSource(
            root, names, labels, label_names, size=self.size, channels=self.channels
        )
