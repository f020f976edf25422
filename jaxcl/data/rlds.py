"""Episodes that tensorflow-datasets prepared in the RLDS layout: records with nested steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcl.data.decoding import decode
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
        episodes = [self._episode(number) for number in range(len(self._records))]
        self.lengths = np.array([len(episode[STEPS]) for episode in episodes])
        self.names = [self._name(number) for number in range(len(episodes))]
        self.labels: np.ndarray | None = None
        self.label_names: tuple[str, ...] | None = None
        self.notices: tuple[str, ...] = ()
        if label is not None:
            self.labels, self.label_names = _labels(episodes, label, features, path)

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
            found[field] = _stacked([values[time] for time in times.tolist()])
        return found

    def _episode(self, number: int) -> dict[str, Any]:
        return read_prepared(self._records, number, self._name(number))

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


def _stacked(values: Sequence[Any]) -> np.ndarray:
    array = np.stack([np.asarray(value) for value in values])
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    return array if array.dtype == np.uint8 else array.astype(np.int32)


def _labels(
    episodes: Sequence[dict[str, Any]], label: str, features: Any, path: str
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Of each episode, from a feature beside its steps."""
    beside = dict(_leaves(features, ""))
    if label not in beside or label.split("/")[0] == STEPS:
        others = ", ".join(name for name in beside if name != STEPS) or "none"
        raise ValueError(f"{path} has no feature {label!r} beside its steps: it has {others}")
    values = [_within(episode, label) for episode in episodes]
    if isinstance(values[0], bytes | str):
        texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values]
        different, numbers = np.unique(texts, return_inverse=True)
        return numbers.astype(np.int32), tuple(different.tolist())
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iub":
        raise ValueError(f"feature {label!r} of {path} is {beside[label]}, expected one label each")
    return array.astype(np.int32), tuple(getattr(beside[label], "names", None) or ()) or None
