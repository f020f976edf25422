"""What features tell of moments: what was measured then, and what another camera saw."""

import dataclasses

import numpy as np

from jaxcl.data import Source, SourceConfig
from jaxcl.data.source import opened
from jaxcl.evaluation.regression import linear_regression
from jaxcl.evaluation.tasks.common import check_field, check_takes, own_records
from jaxcl.evaluation.times import alignment_error, kendalls_tau
from jaxcl.training.experiment import Experiment, FieldFeatures, Task


@dataclasses.dataclass(frozen=True)
class Regression(Task):
    """Whether a linear map of a field's features tells another field of numbers, such as the joints
    of an arm at that moment.

    Records are moments (`data.Episodes(window=None, every=1)`). Figures: R², the share of the
    variance that is told on the test records, 1 at most, 0 for their mean; the mean over numbers,
    and the least.
    """

    train: SourceConfig
    """Records that the map is fitted on."""
    test: SourceConfig
    """Those that it is scored on."""
    field: str
    """Name of the field of which there are features."""
    target: str
    """Name of the field that is told: floats [D] a record."""

    def check(self, experiment: Experiment) -> None:
        for source in self._open():
            check_takes(experiment, source, self.field)

    def _open(self) -> tuple[Source, Source]:
        parts = opened(self.train), opened(self.test)
        for source in parts:
            for name in (self.field, self.target):
                check_field(source, name)
            target = source[0][self.target]
            if target.ndim != 1 or target.dtype.kind != "f":
                raise ValueError(
                    f"{self.target!r} is {target.dtype} of shape {target.shape}, expected floats "
                    "[D] a record: of episodes set window to none, so that records are moments"
                )
        return parts

    def measure(self, features: FieldFeatures) -> dict[str, float]:
        parts: list[np.ndarray] = []
        train, test = self._open()
        for source in (train, test):
            targets = np.stack([source[record][self.target] for record in range(len(source))])
            own = own_records(source)
            parts += [features(source, self.field)[own], targets[own]]
        groups = getattr(train, "groups", None)
        groups = None if groups is None else np.asarray(groups)[own_records(train)]
        told = linear_regression(*parts, groups=groups)
        return {"R²": float(told.mean()), "R², least": float(told.min())}


@dataclasses.dataclass(frozen=True)
class Cameras(Task):
    """Whether a moment is found again in what another camera saw of the same episode.

    Records are moments of episodes (`data.Episodes(window=None, every=1)`). Figures, of each
    episode both ways, the mean: alignment error, how far away in time the nearest frame is, as a
    share of the episode (Sermanet et al., 2018), some 0.33 by chance; Kendall's tau of the order of
    nearest frames (Dwibedi et al., 2019), 1 if all are in order, 0 by chance.
    """

    source: SourceConfig
    """The records."""
    first: str
    """Name of a camera's field."""
    second: str
    """Name of another's."""

    def check(self, experiment: Experiment) -> None:
        source = self._open()
        for name in (self.first, self.second):
            check_takes(experiment, source, name)

    def _open(self) -> Source:
        source = opened(self.source)
        for name in (self.first, self.second):
            check_field(source, name)
        groups = getattr(source, "groups", None)
        if groups is None or not len(groups) / len(np.unique(groups)) > 1:
            raise ValueError(
                "records are no moments of episodes: take data.Episodes with window none and every "
                "1, or more"
            )
        return source

    def measure(self, features: FieldFeatures) -> dict[str, float]:
        source = self._open()
        first, second = (features(source, name) for name in (self.first, self.second))
        read = own_records(source)
        first, second = first[read], second[read]
        groups = np.asarray(getattr(source, "groups"))[read]  # noqa: B009 (not every source's)
        errors, taus = [], []
        for group in np.unique(groups):
            own = groups == group
            if own.sum() < 2:
                continue
            for one, other in ((first[own], second[own]), (second[own], first[own])):
                errors.append(alignment_error(one, other))
                taus.append(kendalls_tau(one, other))
        return {"alignment error": float(np.mean(errors)), "Kendall's tau": float(np.mean(taus))}
