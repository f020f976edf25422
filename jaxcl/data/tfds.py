"""Data sets prepared by tensorflow-datasets, read without TensorFlow."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxcl.data.decoding import check_one_shape, check_size_and_channels, decode, read_or_next
from jaxcl.data.source import Record, SourceConfig

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder


class TFDSSource:
    """One split of a prepared data set, each record read when asked for; `TFDS.open` makes it.

    Args:
      builder: a tensorflow-datasets builder whose data set is prepared as array_record files.
      split: as in `TFDS`.
      image: as in `TFDS`.
      label: as in `TFDS`.
      size: as in `TFDS`.

    Raises:
      ValueError: if the split or a feature is missing, is of another kind, or cannot be read.
    """

    def __init__(
        self, builder: "DatasetBuilder", split: str, image: str, label: str | None, size: int | None
    ):
        import tensorflow_datasets as tfds

        features = builder.info.features
        where = builder.data_dir
        for name, advice in ((image, "set image"), (label, "set label, or to none for no labels")):
            if name is not None and name not in features:
                raise ValueError(f"{where} has no feature {name!r}: {advice}; it has {[*features]}")
        if not isinstance(features[image], tfds.features.Image):
            raise ValueError(
                f"feature {image!r} of {where} is {features[image]}, expected an Image"
            )
        self.label_names: tuple[str, ...] | None = None
        if label is not None:
            if features[label].shape != () or np.dtype(features[label].np_dtype).kind not in "iub":
                raise ValueError(
                    f"feature {label!r} of {where} is {features[label]}, expected integers"
                )
            self.label_names = tuple(getattr(features[label], "names", None) or ()) or None
        self._image = image
        self._label = label
        self._size = size
        self._channels = 1 if features[image].shape[-1] == 1 else 3
        self._where = f"{where} [{split}]"
        # Pictures stay encoded here, so that `decode` treats them, damage included, as it does
        # files in folders.
        encoded = {
            name: tfds.decode.SkipDecoding()
            for name, feature in features.items()
            if isinstance(feature, tfds.features.Image)
        }
        try:
            self._records = builder.as_data_source(split=split, decoders=encoded)
            if not len(self._records):
                raise ValueError("it holds no records")
        except ValueError as error:
            raise ValueError(
                f"cannot read {self._where}: {error}; its splits are {[*builder.info.splits]}"
            ) from error
        first = read_or_next(0, len(self), self._read)
        self.image_shape: tuple[int, int, int] = first["image"].shape

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, record: int) -> Record:
        return read_or_next(record, len(self), self._read_of_one_shape)

    def _read_of_one_shape(self, record: int) -> Record:
        found = self._read(record)
        check_one_shape(found["image"], self.image_shape, self._name(record))
        return found

    def _read(self, record: int) -> Record:
        features = self._features(record)
        image = decode(
            features[self._image], self._name(record), size=self._size, channels=self._channels
        )
        found = Record(image=image, replaced=False)
        if self._label is not None:
            found["label"] = np.int32(features[self._label])
        return found

    def _features(self, record: int) -> dict:
        try:
            return self._records[record]
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"{self._name(record)} cannot be read ({error}): copy or prepare the data set again"
            ) from error

    def _name(self, record: int) -> str:
        return f"record {record} of {self._where}"

    @property
    def names(self) -> Sequence[str]:
        """The number of each record."""
        return [str(record) for record in range(len(self))]

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """[N] int32, read from all records at first use, decoding no image; None without labels."""
        if self._label is None:
            return None
        return np.array(
            [self._features(record)[self._label] for record in range(len(self))], np.int32
        )


@dataclasses.dataclass(frozen=True)
class TFDS(SourceConfig):
    """A data set that tensorflow-datasets prepared as array_record files; reading it needs no
    TensorFlow.

    To prepare one: `tfds.builder(name, data_dir=...,
    file_format="array_record").download_and_prepare()`, which needs `pip install
    "jaxcl[tfds-prepare]"` for the stock data sets.
    """

    path: str
    """The prepared directory, that of a version, which holds dataset_info.json:
    ~/tensorflow_datasets/mnist/3.0.1."""

    split: str = "train"
    """A split, or a part of one as TFDS writes it: "train[:10%]"."""

    image: str = "image"
    """Name of the image feature."""

    label: str | None = "label"
    """Name of the integer feature that is the label. None: no labels."""

    size: int | None = None
    """Side in pixels of the images: the shorter side is resized to it (antialiased bilinear) and
    the centre kept. None takes images as they are, which then must have one size."""

    def open(self) -> TFDSSource:
        """Opens the split and reads its first record.

        Raises:
          FileNotFoundError: if the directory is no prepared data set.
          ImportError: if tensorflow-datasets is not installed.
          ValueError: if the split or a feature is missing or of another kind, or the files are of
            another format.
        """
        check_size_and_channels(self.size, channels=3)
        path = os.path.expanduser(self.path)
        if not os.path.isfile(os.path.join(path, "dataset_info.json")):
            raise FileNotFoundError(
                f"{path} is no prepared data set: give the folder of a version, in which "
                "dataset_info.json lies"
            )
        try:
            import tensorflow_datasets as tfds
        except ImportError as error:
            raise ImportError(
                f"reading {path} needs tensorflow-datasets ({error}): "
                "pip install tensorflow-datasets importlib_resources"
            ) from error
        builder = tfds.builder_from_directory(path)
        file_format = builder.info.file_format
        if file_format is not tfds.core.FileFormat.ARRAY_RECORD:
            raise ValueError(
                f"{path} is prepared as {file_format.value} files, which have no random access: "
                'prepare it with file_format="array_record"'
            )
        return TFDSSource(builder, self.split, self.image, self.label, self.size)
