"""Data sets prepared by tensorflow-datasets, read without TensorFlow."""

import contextlib
import dataclasses
import functools
import importlib.util
import os
import types
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxcl.data.decoding import check_one_shape, check_size_and_channels, decode, read_or_next
from jaxcl.data.source import Record, SourceConfig
from jaxcl.data.tables import Column, as_column

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder


_INFO = "dataset_info.json"


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
        self._records = encoded_records(builder, split)
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
        return read_prepared(self._records, record, self._name(record))

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
        builder = open_prepared(self.path)
        return TFDSSource(builder, self.split, self.image, self.label, self.size)


def read_prepared_texts(path: str, split: str, columns: Sequence[str]) -> dict[str, Column]:
    """Text features of a prepared data set, in memory.

    Args:
      path: as in `TFDS`.
      split: as in `TFDS`.
      columns: names of features that are texts, lists of texts, numbers or class labels; of what
        lies within another, such as "captions/text", the names from outside in.

    Returns:
      The columns by name, all as long; numbers as they are written, class labels by their names.

    Raises:
      FileNotFoundError: if the directory is no prepared data set.
      ImportError: if tensorflow-datasets is not installed.
      ValueError: if the split or a feature is missing or of another kind.
    """
    builder = open_prepared(path)
    features = {name: _feature(builder, name) for name in columns}
    records, where = encoded_records(builder, split), f"{builder.data_dir} [{split}]"
    found: dict[str, list] = {name: [] for name in columns}
    for number in range(len(records)):
        record = read_prepared(records, number, f"record {number} of {where}")
        for name, feature in features.items():
            value: Any = record
            for part in name.split("/"):
                value = value[part]
            try:
                found[name].append(_as_text(value, getattr(feature, "names", None)))
            except UnicodeDecodeError as error:
                raise ValueError(f"record {number} of {where}, {name}: {error}") from error
    return {name: as_column(f"{where}, {name}", values) for name, values in found.items()}


def open_prepared(path: str) -> "DatasetBuilder":
    """The builder of a directory that tensorflow-datasets prepared; raises as `TFDS.open`."""
    path = os.path.expanduser(path)
    if not is_prepared(path):
        raise FileNotFoundError(
            f"{path} is no prepared data set: give the folder of a version, in which {_INFO} lies"
        )
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"reading {path} needs tensorflow-datasets ({error}): "
            "pip install tensorflow-datasets importlib_resources"
        ) from error
    with _audio_without_tensorflow():
        builder = tfds.builder_from_directory(path)
    file_format = builder.info.file_format
    if file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise ValueError(
            f"{path} is prepared as {file_format.value} files, which have no random access: "
            'prepare it with file_format="array_record"'
        )
    return builder


@contextlib.contextmanager
def _audio_without_tensorflow() -> Iterator[None]:
    """Within it, a data set's features may be sounds where TensorFlow is not installed: of it their
    class asks nothing but a type by its name, which is never used where NumPy reads."""
    if importlib.util.find_spec("tensorflow") is not None:
        yield
        return
    from tensorflow_datasets.core.features import audio_feature

    before = audio_feature.tf
    audio_feature.tf = types.SimpleNamespace(
        dtypes=types.SimpleNamespace(as_dtype=np.dtype), string=np.object_
    )
    try:
        yield
    finally:
        audio_feature.tf = before


def is_prepared(path: str) -> bool:
    """Whether a directory is one that tensorflow-datasets prepared."""
    return os.path.isfile(os.path.join(path, _INFO))


class PreparedRecords(Sequence[dict]):
    """The records of a split; in another process they are opened anew."""

    def __init__(self, path: str, split: str, records: Sequence[dict]):
        self._path, self._split, self._records = path, split, records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, number: Any) -> Any:
        return self._records[number]

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_anew, (self._path, self._split)


def _opened_anew(path: str, split: str) -> Sequence[dict]:
    return encoded_records(open_prepared(path), split)


def encoded_records(builder: "DatasetBuilder", split: str) -> Sequence[dict]:
    """The records of a split, with pictures as they lie in the file: so that `decode` treats them,
    damage included, as it does files in folders."""

    encoded = _skip_images(builder.info.features)
    try:
        records = builder.as_data_source(split=split, decoders=encoded)
        if not len(records):
            raise ValueError("it holds no records")
    except ValueError as error:
        raise ValueError(
            f"cannot read {builder.data_dir} [{split}]: {error}; its splits are "
            f"{[*builder.info.splits]}"
        ) from error
    return PreparedRecords(str(builder.data_dir), split, records)


def _skip_images(feature: Any) -> Any:
    """Decoders that leave pictures as they are, at any depth."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.Image):
        return tfds.decode.SkipDecoding()
    if isinstance(feature, tfds.features.Dataset):
        feature = feature.feature
    if not isinstance(feature, tfds.features.FeaturesDict):
        return None
    inner = {name: _skip_images(one) for name, one in feature.items()}
    return {name: skip for name, skip in inner.items() if skip} or None


def read_prepared(records: Sequence[dict], number: int, name: str) -> dict:
    try:
        return records[number]
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{name} cannot be read ({error}): copy or prepare the data set again"
        ) from error


def _feature(builder: "DatasetBuilder", name: str) -> Any:
    """A feature by its path; of a sequence, that of its elements."""
    import tensorflow_datasets as tfds

    found: Any = builder.info.features
    for part in name.split("/"):
        found = found.feature if isinstance(found, tfds.features.Sequence) else found
        if not isinstance(found, tfds.features.FeaturesDict) or part not in found:
            raise ValueError(
                f"{builder.data_dir} has no feature {name!r}: it has "
                f"{', '.join(builder.info.features)}"
            )
        found = found[part]
    found = found.feature if isinstance(found, tfds.features.Sequence) else found
    if not isinstance(found, tfds.features.Text | tfds.features.ClassLabel) and found.shape != ():
        raise ValueError(f"feature {name!r} of {builder.data_dir} is {found}, expected texts")
    return found


def _as_text(value: Any, names: Sequence[str] | None) -> str | list[str]:
    """A value of a feature: a text, a list of texts for several, a label's name."""
    if isinstance(value, list | tuple) or np.ndim(value):
        return [str(_as_text(one, names)) for one in value]
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return str(value) if names is None or value < 0 else names[int(value)]
