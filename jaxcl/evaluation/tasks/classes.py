"""Whether features tell labels: by classifiers, by the classes' names, pair by pair."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxcl.data import Source, SourceConfig, Tokenizer, pad_tokens
from jaxcl.data.parts import OneField
from jaxcl.data.source import opened
from jaxcl.evaluation.knn import knn_accuracy
from jaxcl.evaluation.linear import linear_probe
from jaxcl.evaluation.tasks.common import Rows, check_field, check_takes, unit
from jaxcl.evaluation.verification import equal_error_rate, min_dcf
from jaxcl.training.experiment import Experiment, FieldFeatures, Task


@dataclasses.dataclass(frozen=True)
class Classes(Task):
    """Whether the features of a field tell labels, by neighbours and by a linear classifier.

    Records without the field, or that cannot be read, have no part in it. Figures: accuracy of
    each, fitted on the training records and scored on the others, 0 to 1.
    """

    train: SourceConfig
    """Labelled records that classifiers are fitted on."""
    test: SourceConfig
    """Those that they are scored on."""
    field: str
    """Name of the field."""
    neighbours: int = 20
    """That vote, as in `Evaluate`."""
    temperature: float = 0.07
    """A neighbour votes with exp(similarity / temperature)."""
    frames: bool = False
    """Tell the label from each frame that the encoder makes of a record, instead of from all
    together."""
    most_frames: int = 20_000
    """Frames of either part that are taken at most, drawn with a fixed seed."""

    def check(self, experiment: Experiment) -> None:
        for source in self._open():
            check_takes(experiment, source, self.field)

    def _open(self) -> tuple[Source, Source]:
        parts = opened(self.train), opened(self.test)
        for name, source in zip(("train", "test"), parts, strict=True):
            if source.labels is None:
                raise ValueError(f"the {name} records have no labels: name them")
            check_field(source, self.field)
        if parts[0].label_names != parts[1].label_names:
            raise ValueError(
                f"the train records have the labels {parts[0].label_names}, the test records "
                f"{parts[1].label_names}: a label has to mean the same in both"
            )
        return parts

    def measure(self, features: FieldFeatures) -> dict[str, float]:
        parts: list[np.ndarray] = []
        for source in self._open():
            kept = Rows.of(source, self.field, labelled=True)
            labels = np.asarray(source.labels)[kept.records]
            if self.frames:
                rows = kept.taken(features(source, self.field, frames=True))  # [N, F, D]
                labels = np.repeat(labels, rows.shape[1])
                rows = rows.reshape(-1, rows.shape[-1])
                if len(rows) > self.most_frames:
                    some = np.random.default_rng(0).permutation(len(rows))[: self.most_frames]
                    rows, labels = rows[some], labels[some]
            else:
                rows = kept.taken(features(source, self.field))
            parts += [rows, labels]
        k = min(self.neighbours, len(parts[0]))
        return {
            "kNN": knn_accuracy(*parts, k=k, temperature=self.temperature, weights="distance"),
            "linear": linear_probe(*parts).accuracy,
        }


@dataclasses.dataclass(frozen=True)
class Verification(Task):
    """Whether the cosine of two records says that they have the same label, such as one speaker.

    Every pair of records is a trial. Figures: the equal error rate, 0 to 1, and minDCF, the least
    cost of a threshold (`jaxcl.evaluation.min_dcf`), where one of a hundred trials is of the same.
    """

    source: SourceConfig
    """Labelled records."""
    field: str
    """Name of the field."""
    target_prior: float = 0.01
    """Share of trials that are of the same, for minDCF."""

    def check(self, experiment: Experiment) -> None:
        check_takes(experiment, self._open(), self.field)

    def _open(self) -> Source:
        source = opened(self.source)
        check_field(source, self.field)
        counts = np.unique([] if source.labels is None else source.labels, return_counts=True)[1]
        if len(counts) < 2 or counts.max() < 2:
            raise ValueError(
                "trials are of two records of one label, or of two labels, and the records have "
                "none of either: name labels that come again"
            )
        return source

    def measure(self, features: FieldFeatures) -> dict[str, float]:
        source = self._open()
        kept = Rows.of(source, self.field, labelled=True)
        rows = unit(kept.taken(features(source, self.field)))
        labels = np.asarray(source.labels)[kept.records]
        first, second = np.triu_indices(len(rows), 1)
        scores, same = (rows @ rows.T)[first, second], labels[first] == labels[second]
        return {
            "equal error rate": equal_error_rate(scores, same),
            "minDCF": min_dcf(scores, same, target_prior=self.target_prior),
        }


@dataclasses.dataclass(frozen=True)
class ZeroShot(Task):
    """Classes told by their names: an example is of the class whose prompts are most like it
    (Radford et al., 2021, section 3.1).

    A class's embedding is the mean of those of its prompts, each of unit length. Figures: accuracy,
    the best class right or one of the five best, 0 to 1.
    """

    source: SourceConfig
    """Labelled records, whose labels have names."""
    field: str
    """Name of the field that is classified."""
    tokenizer: str
    """A tokenizer.json, or the folder of a model with one."""
    text: str
    """Name of the field whose tower takes the prompts."""
    templates: tuple[str, ...] = ("{}",)
    """Prompts, in which {} stands for the class's name."""
    names: tuple[str, ...] = ()
    """Names of the classes, in the order of the labels; none: those of the source."""

    def check(self, experiment: Experiment) -> None:
        source, names = self._open()
        check_takes(experiment, source, self.field)
        check_takes(experiment, self._prompts(names), self.text)

    def _open(self) -> tuple[Source, Sequence[str]]:
        """The records, and the names of their classes."""
        source = opened(self.source)
        names = self.names or source.label_names
        if source.labels is None or not names:
            raise ValueError("the source has no labels with names: name them, or give names")
        if int(source.labels.max()) >= len(names):
            raise ValueError(f"labels go to {source.labels.max()}, and {len(names)} have names")
        if not self.templates or any(template.count("{}") != 1 for template in self.templates):
            raise ValueError("each of the templates needs {} where the class's name stands")
        check_field(source, self.field)
        return source, names

    def _prompts(self, names: Sequence[str]) -> Source:
        """The prompts of all classes, as a source."""
        tokenizer = Tokenizer.load(self.tokenizer)
        prompts = [template.replace("{}", name) for name in names for template in self.templates]
        tokens = pad_tokens(tokenizer(prompts).texts)
        return OneField(self.text, tokens, vocabulary=tokenizer.vocabulary)

    def measure(self, features: FieldFeatures) -> dict[str, float]:
        source, names = self._open()
        embedded = features(self._prompts(names), self.text)
        classes = unit(embedded).reshape(len(names), len(self.templates), -1).mean(1)
        scores = unit(features(source, self.field)) @ unit(classes).T
        order = np.argsort(-scores, axis=1, kind="stable")
        right = order == np.asarray(source.labels)[:, None]
        figures = {"accuracy": float(right[:, 0].mean())}
        if len(names) > 5:
            figures["top 5"] = float(right[:, :5].any(1).mean())
        return figures
