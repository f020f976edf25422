"""How much of its accuracy a classifier keeps when its input gets worse."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxcl.augment import to_float
from jaxcl.evaluation.corruptions import SEVERITIES, corrupt_batch, corruptions_of
from jaxcl.evaluation.validation import as_labels

Representation = Callable[[np.ndarray], np.ndarray]
"""From images [N, H, W, C] float32 in [0, 1] to features [N, D]."""
Classify = Callable[[np.ndarray], np.ndarray]
"""From features [N, D] to classes [N]."""


@dataclasses.dataclass(frozen=True)
class Robustness:
    """Accuracies of one classifier, 0 to 1."""

    clean: float
    corrupted: dict[str, dict[int, float]]
    """By corruption and severity."""

    def of(self, corruption: str) -> float:
        """The mean over severities."""
        return float(np.mean(list(self.corrupted[corruption].values())))

    @property
    def mean(self) -> float:
        """The mean over corruptions."""
        return float(np.mean([self.of(corruption) for corruption in self.corrupted]))

    @property
    def relative(self) -> float:
        """The share of the clean accuracy that `mean` is; 0 where that is 0."""
        return self.mean / self.clean if self.clean else 0.0

    def as_dict(self) -> dict[str, object]:
        """Everything as dicts and numbers, as `json.dumps` takes them."""
        return {**dataclasses.asdict(self), "mean": self.mean, "relative": self.relative}


def check_severities(severities: Sequence[int]) -> None:
    """Raises ValueError unless there are some, all of them 1 to 5 and each once."""
    if not severities or len({*severities} & {*SEVERITIES}) < len(severities):
        raise ValueError(
            f"severities are {' '.join(map(str, severities)) or 'none'}: give some of 1 to 5, each "
            "once"
        )


def measure_robustness(
    representations: Mapping[str, Representation],
    classifiers: Mapping[str, Mapping[str, Classify]],
    images: np.ndarray,
    labels: ArrayLike,
    *,
    severities: Sequence[int] = SEVERITIES,
    batch_size: int = 256,
    seed: int = 0,
    progress: Callable[[list[tuple[str, int]]], Iterable[tuple[str, int]]] = iter,
) -> dict[str, dict[str, Robustness]]:
    """Scores classifiers, fitted on features of clean images, on those of corrupted ones.

    Every representation sees the same corrupted images.

    Args:
      representations: name to what makes features.
      classifiers: for each representation, name to what classifies its features.
      images: [N, H, W, C], uint8 or float in [0, 1], to be corrupted.
      labels: [N] int >= 0.
      severities: some of 1 to 5.
      batch_size: images corrupted at once.
      seed: of all corruptions.
      progress: wraps the list of (corruption, severity) that is gone through, to show how far.

    Returns:
      By representation and classifier.

    Raises:
      ValueError: for other severities, or labels that do not fit.
    """
    check_severities(severities)
    truth = as_labels("labels", labels, len(images))
    clean = np.asarray(to_float(images))

    def score(pictures: np.ndarray) -> dict[tuple[str, str], float]:
        accuracies = {}
        for name, represent in representations.items():
            features = represent(pictures)
            for kind, classify in classifiers[name].items():
                accuracies[name, kind] = float(np.mean(classify(features) == truth))
        return accuracies

    of_clean = score(clean)
    names = list(corruptions_of(clean.shape[-1]))
    cases = [(name, severity) for name in names for severity in severities]
    by_case = {
        (name, severity): score(_corrupt(clean, name, severity, batch_size, seed))
        for name, severity in progress(cases)
    }
    return {
        name: {
            kind: Robustness(
                of_clean[name, kind],
                {
                    corruption: {
                        severity: by_case[corruption, severity][name, kind]
                        for severity in severities
                    }
                    for corruption in names
                },
            )
            for kind in classifiers[name]
        }
        for name in representations
    }


def _corrupt(
    images: np.ndarray, name: str, severity: int, batch_size: int, seed: int
) -> np.ndarray:
    size = min(batch_size, len(images))
    parts = []
    for start in range(0, len(images), size):
        numbers = np.arange(start, start + size)
        part = images[np.minimum(numbers, len(images) - 1)]  # of one shape: compiled once
        corrupted = corrupt_batch(name, severity, jax.random.key(seed), part, numbers)
        parts.append(np.asarray(corrupted))
    return np.concatenate(parts)[: len(images)]
