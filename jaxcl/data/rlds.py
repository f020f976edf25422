"""Episodes that tensorflow-datasets prepared in the RLDS layout: records with nested steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcl.data.decoding import decode
from jaxcl.data.source import as_numbers
from jaxcl.data.tfds import encoded_records, open_prepared, read_prepared

STEPS = "steps"


class PreparedEpisodes:
    """Episodes of a prepared data set, each frame decoded when asked for.

    Args:
      path: as in `Episodes`, and so are the others.
      split: which part.
      fields: features of the steps, from outside in; none: all images and numbers.
      label: a feature beside the steps.
      size: side that images get.

    Raises:
      ValueError: if a feature is missing, or of a kind that frames cannot be made of.
    """

    def __init__(
        self, path: str, split: str, fields: Sequence[str], label: str | None, size: int | None
    ):
        import tensorflow_datasets as tfds

        builder = open_prepared(path)
        features = builder.info.features
        if STEPS not in features or not isinstance(features[STEPS], tfds.features.Dataset):
            raise ValueError(
                f"{path} is not in the RLDS layout: expected nested {STEPS!r} among its features, "
                f"which are {', '.join(features)}"
            )
        known = dict(_leaves(features[STEPS].feature, ""))
        usable = {name: feature for name, feature in known.items() if _is_numbers(feature)}
        for name in fields:
            if name not in usable:
                raise ValueError(
                    f"steps of {path} have no feature {name!r} of images or numbers: they have "
                    f"{', '.join(usable)}"
                )
        chosen = list(fields) or [*usable]
        self._fields = {name.split("/")[-1]: name for name in chosen}
        if len(self._fields) < len(chosen):
            raise ValueError(
                f"two of the fields {', '.join(chosen)} end alike, and a field is called by its "
                "last part: name others"
            )
        self._images = {
            field: 1 if known[name].shape[-1] == 1 else 3
            for field, name in self._fields.items()
            if isinstance(known[name], tfds.features.Image)
        }
        self._size, self._where = size, f"{path} [{split}]"
        self._records = encoded_records(builder, split)
        self._last: tuple[int, dict[str, Any]] | None = None
        lengths, given = [], []
        for number in range(len(self._records)):  # one at a time: each holds all its pictures
            episode = self._episode(number)
            lengths.append(len(episode[STEPS]))
            if label is not None:
                given.append(_label_of(episode, label, features, path))
        self.lengths = np.array(lengths)
        self.names = [self._name(number) for number in range(len(lengths))]
        self.labels: np.ndarray | None = None
        self.label_names: tuple[str, ...] | None = None
        self.notices: tuple[str, ...] = ()
        if label is not None:
            self.labels, self.label_names = _labels(given, label, features, path)

    def read(self, episode: int, times: np.ndarray) -> dict[str, np.ndarray]:
        """As `Recordings.read`."""
        steps = self._episode(episode)[STEPS]
        frames = {time: steps[time] for time in dict.fromkeys(times.tolist())}
        found = {}
        for field, name in self._fields.items():
            values = {time: _within(frame, name) for time, frame in frames.items()}
            if field in self._images:
                values = {
                    time: decode(
                        encoded,
                        f"{field} of frame {time} of {self._name(episode)}",
                        size=self._size,
                        channels=self._images[field],
                    )
                    for time, encoded in values.items()
                }
            found[field] = _stacked([values[time] for time in times.tolist()], field)
        return found

    def _episode(self, number: int) -> dict[str, Any]:
        """A record, which is parsed as a whole; the last one stays, for its moments follow one
        another."""
        last = self._last
        if last is None or last[0] != number:
            last = (number, read_prepared(self._records, number, self._name(number)))
            self._last = last
        return last[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_last": None}

    def _name(self, number: int) -> str:
        return f"record {number} of {self._where}"


def _leaves(feature: Any, prefix: str) -> list[tuple[str, Any]]:
    """Features by their paths."""
    import tensorflow_datasets as tfds

    if not isinstance(feature, tfds.features.FeaturesDict):
        return [(prefix, feature)]
    found = []
    for name, inner in feature.items():
        found += _leaves(inner, f"{prefix}/{name}" if prefix else name)
    return found


def _is_numbers(feature: Any) -> bool:
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.Image):
        return True
    if isinstance(feature, tfds.features.Sequence | tfds.features.Dataset | tfds.features.Text):
        return False
    return None not in feature.shape and np.dtype(feature.np_dtype).kind in "iubf"


def _within(step: Any, name: str) -> Any:
    for part in name.split("/"):
        step = step[part]
    return step


def _stacked(values: Sequence[Any], field: str) -> np.ndarray:
    arrays = [np.asarray(value) for value in values]
    if len({array.shape for array in arrays}) > 1:
        raise ValueError(
            f"{field} has frames of several shapes, {arrays[0].shape} the first: set size"
        )
    return as_numbers(np.stack(arrays), field)


def _label_of(episode: dict[str, Any], label: str, features: Any, path: str) -> Any:
    """What an episode's feature beside its steps holds."""
    beside = dict(_leaves(features, ""))
    if label not in beside or label.split("/")[0] == STEPS:
        others = ", ".join(name for name in beside if name != STEPS) or "none"
        raise ValueError(f"{path} has no feature {label!r} beside its steps: it has {others}")
    return _within(episode, label)


def _labels(
    values: Sequence[Any], label: str, features: Any, path: str
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Numbers of what each episode is of, and their names."""
    feature = dict(_leaves(features, ""))[label]
    if isinstance(values[0], bytes | str):
        texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values]
        different, numbers = np.unique(texts, return_inverse=True)
        return numbers.astype(np.int32), tuple(different.tolist())
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iub":
        raise ValueError(f"feature {label!r} of {path} is {feature}, expected one label each")
    return as_numbers(array, label), tuple(getattr(feature, "names", None) or ()) or None
