"""Images held in memory, and .npz files of them."""

import dataclasses
import os
import pickle
import zipfile
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from jaxcl.data.decoding import check_size_and_channels, resize_centre
from jaxcl.data.source import Record, SourceConfig


class ArraySource:
    """Images in memory, as a source.

    Args:
      images: [N, H, W, C], or [N, H, W] for one channel. Integers from 0 to 255 become uint8;
        floats (in [0, 1], as augmentations expect them) become float32.
      labels: [N] integers, kept as they are, or strings, numbered in sorted order; None: no labels.
      names: a name for each record; None: its number.
      label_names: the name of label 0, 1, ...; None: the strings in `labels`, or no names.
      size: None keeps the images' size; else each becomes [size, size] by `resize_centre`.
      what: what errors call the images.

    Raises:
      ValueError: if shapes, dtypes or lengths are none of the above.

    Example:
      >>> source = ArraySource(np.zeros((3, 8, 8), np.uint8), ["cat", "dog", "cat"])
      >>> source.image_shape, source.labels, source.label_names
      ((8, 8, 1), array([0, 1, 0], dtype=int32), ('cat', 'dog'))
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray | Sequence[int] | Sequence[str] | None = None,
        *,
        names: Sequence[str] | None = None,
        label_names: tuple[str, ...] | None = None,
        size: int | None = None,
        what: str = "images",
    ):
        check_size_and_channels(size, channels=3)
        images = _as_images(images, what)
        if size is not None:
            images = np.stack([resize_centre(image, size) for image in images])
        self.images = images
        self.image_shape: tuple[int, int, int] = images.shape[1:]
        self.labels: np.ndarray | None = None
        self.label_names = label_names
        if labels is not None:
            self.labels, found_names = _as_labels(np.asarray(labels), len(images), what)
            self.label_names = label_names or found_names
        if names is not None and len(names) != len(images):
            raise ValueError(f"{len(names)} names for {len(images)} {what}: one each is expected")
        self._names = names

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, record: int) -> Record:
        found = Record(image=self.images[record], replaced=False)
        if self.labels is not None:
            found["label"] = self.labels[record]
        return found

    @property
    def names(self) -> Sequence[str]:
        """A name for each record."""
        if self._names is None:
            return [str(record) for record in range(len(self))]
        return self._names


@dataclasses.dataclass(frozen=True)
class Arrays(SourceConfig):
    """Images from the arrays of an .npz file, held in memory.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     np.savez(f"{folder}/grey.npz", image=np.zeros((5, 8, 8), np.uint8))
      ...     len(Arrays(f"{folder}/grey.npz").open())
      5
    """

    path: str
    """The .npz file. Pickled objects in it are refused."""

    image: str | tuple[str, ...] = "image"
    """Name of the array of images, [N, H, W, C] or [N, H, W], 0 to 255 or floats in [0, 1]; or
    several names, whose images follow one another."""

    label: str | None = None
    """Name of the array of labels, [N] integers or strings: one for each image, or one for each row
    of every named array. None: no labels."""

    size: int | None = None
    """Side in pixels that images get, once, when opened: the shorter side is resized to it
    (antialiased bilinear) and the centre kept. None keeps their size."""

    def open(self) -> ArraySource:
        """Reads the file's arrays.

        Raises:
          FileNotFoundError: if there is no such file.
          ValueError: if it is no .npz, is cut short, holds pickled objects, or lacks a named array.
        """
        names = (self.image,) if isinstance(self.image, str) else tuple(self.image)
        if not names:
            raise ValueError(f"image names no array of {self.path}: name one or more")
        wanted = names if self.label is None else (*names, self.label)
        arrays = read_npz(self.path, wanted)
        parts = [_as_images(arrays[name], f"images {name!r} of {self.path}") for name in names]
        if len({(part.shape[1:], part.dtype) for part in parts}) > 1:
            seen = ", ".join(
                f"{n} {p.dtype}{list(p.shape)}" for n, p in zip(names, parts, strict=True)
            )
            raise ValueError(
                f"images of {self.path} that follow one another need one size and type: {seen}"
            )
        count = sum(len(part) for part in parts)
        labels = None if self.label is None else arrays[self.label]
        if labels is not None and len(parts) > 1 and labels.shape != (count,):
            # one label a row of every array: what several pictures of the same things come with
            for name, part in zip(names, parts, strict=True):
                _check_labels_shape(labels, len(part), f"images {name!r} of {self.path}")
            labels = np.concatenate([labels] * len(parts))
        record_names = None
        if len(parts) > 1:
            record_names = [
                f"{n}/{row}" for n, p in zip(names, parts, strict=True) for row in range(len(p))
            ]
        images = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return ArraySource(
            images, labels, names=record_names, size=self.size, what=f"images of {self.path}"
        )


def read_npz(path: str, wanted: Sequence[str] | None) -> Mapping[str, np.ndarray]:
    """Arrays of an .npz by name, all of them for None; raises as `Arrays.open`."""
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path} is not a file: give the path of an .npz file")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no .npz file, or is cut short: write it with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as file:
            wanted = file.files if wanted is None else wanted
            missing = [name for name in wanted if name not in file.files]
            if missing:
                raise ValueError(
                    f"{path} holds no array {missing[0]!r}: it has {', '.join(file.files)}"
                )
            return {name: _read_array(file, name, path) for name in wanted}
    except (zipfile.BadZipFile, zlib.error, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path} is damaged or cut short ({error}): write or copy it again"
        ) from error


def _read_array(file: Mapping[str, np.ndarray], name: str, path: str) -> np.ndarray:
    try:
        return file[name]
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise ValueError(
                f"array {name!r} of {path} holds pickled Python objects, which are not "
                "read because they can run code: save it as numbers or strings"
            ) from error
        raise ValueError(
            f"array {name!r} of {path} is damaged ({error}): write or copy it again"
        ) from error


def _as_images(images: np.ndarray, what: str) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            f"{what} have shape {images.shape}: expected [N, H, W, C] or [N, H, W], none of them 0"
        )
    if images.shape[1] in (1, 3) and min(images.shape[2:]) > 4:
        raise ValueError(
            f"{what} have shape {images.shape}, channels first: transpose them to [N, H, W, C]"
        )
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind == "f":
        images = images.astype(np.float32, copy=False)
        if not (images.min() >= 0.0 and images.max() <= 1.0):  # so written that NaN is refused
            raise ValueError(
                f"{what} are floats from {images.min():g} to {images.max():g}: expected 0 to 1, as "
                "augmentations do (divide by 255, or give uint8)"
            )
        return images
    if images.dtype.kind not in "iu":
        raise ValueError(
            f"{what} have dtype {images.dtype}: expected integers from 0 to 255, or floats"
        )
    low, high = int(images.min()), int(images.max())
    if low < 0 or high > 255:
        raise ValueError(
            f"{what} are integers from {low} to {high}: expected 0 to 255, or floats in [0, 1]"
        )
    return images.astype(np.uint8)


def _check_labels_shape(labels: np.ndarray, count: int, what: str) -> None:
    if labels.shape != (count,):
        raise ValueError(
            f"labels have shape {labels.shape}, expected ({count},): one for each of the {what}"
        )


def _as_labels(
    labels: np.ndarray, count: int, what: str
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    _check_labels_shape(labels, count, what)
    if labels.dtype.kind in "US":
        names, numbers = np.unique(labels.astype(str), return_inverse=True)
        return numbers.astype(np.int32), tuple(str(name) for name in names)
    if labels.dtype.kind not in "iub":
        raise ValueError(f"labels have dtype {labels.dtype}: expected integers or strings")
    return labels.astype(np.int32), None
