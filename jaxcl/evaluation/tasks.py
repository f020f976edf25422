"""What a config asks to be measured of features, beside labels: similarity of texts, retrieval from
one field to another, classes by their names."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcl.data import Source, SourceConfig, Texts, Tokenizer, pad_tokens
from jaxcl.data.parts import OneField
from jaxcl.data.source import THERE, inputs_of
from jaxcl.evaluation.geometry import alignment, uniformity
from jaxcl.evaluation.knn import knn_accuracy, nearest_neighbours
from jaxcl.evaluation.linear import linear_probe
from jaxcl.evaluation.retrieval import mean_reciprocal_rank, recall_at_k
from jaxcl.methods import MultiModal
from jaxcl.training.experiment import Experiment, FieldFeatures, Task, networks_of_fields


@dataclasses.dataclass(frozen=True)
class Similarity(Task):
    """Whether the cosine of two texts follows what people say of their likeness.

    Figures: Spearman's and Pearson's correlation with the scores, -1 to 1.
    """

    texts: Texts
    """Pairs of texts, in two columns."""
    score: str
    """Name of the column of scores: numbers, larger for more alike."""

    def check(self, experiment: Experiment) -> None:
        source, _ = self._open()
        for column in self.texts.columns:
            _check_takes(experiment, source, column)

    def measure(self, features: FieldFeatures) -> dict[str, float]:
        from scipy import stats

        source, scores = self._open()
        first, second = (_unit(features(source, column)) for column in self.texts.columns)
        cosines = np.sum(first * second, axis=1)
        return {
            "spearman": float(stats.spearmanr(cosines, scores).statistic),
            "pearson": float(stats.pearsonr(cosines, scores).statistic),
        }

    def _open(self) -> tuple[Source, np.ndarray]:
        """The pairs and their scores, [N]."""
        if len(self.texts.columns) != 2:
            raise ValueError(f"expected two columns of texts, got {', '.join(self.texts.columns)}")
        path, column = self.texts.path, self.score
        given = self.texts.read((column,))[column]
        try:
            scores = np.array(given, float)
        except ValueError as error:
            raise ValueError(f"column {column!r} of {path} holds no numbers: {error}") from error
        return dataclasses.replace(self.texts, empty="refuse").open(), scores


@dataclasses.dataclass(frozen=True)
class Retrieval(Task):
    """Whether one field of a record finds another, among those of all records, both ways.

    Records that share a text are found for one another; of several texts a record (captions in
    several languages) each is a query, and any is found. Records without a field (`image_there`
    false, or a text without tokens) have no part in it. Figures: recall at 1, 5 and 10 and mean
    reciprocal rank, 0 to 1, in either direction (of sentences and their translations recall at 1 is
    called bitext accuracy); between two modalities also their gap, the distance between the means
    of their unit embeddings, and alignment and uniformity (Wang & Isola, 2020). Within one field,
    of several texts a record: recall at 1, 5 and 10 of a record's other texts, the same text of
    several records taken once.
    """

    source: SourceConfig
    """The records."""
    first: str
    """Name of a field."""
    second: str
    """Name of another, or of the same."""
    centre: bool = False
    """Recall at 1 and mean reciprocal rank, too, of embeddings less their field's mean: so that
    what sets the fields apart, such as two styles of writing, does not count."""

    def check(self, experiment: Experiment) -> None:
        if self.centre and self.first == self.second:
            raise ValueError("centre tells two fields apart, and there is one: leave it out")
        source = self._open()
        for name in (self.first, self.second):
            _check_takes(experiment, source, name)
        distinct = self.first == self.second
        ids = [_Rows.of(source, name, distinct=distinct).ids for name in (self.first, self.second)]
        if self.first != self.second and not np.isin(ids[0], ids[1]).any():
            raise ValueError(f"no record has {self.first!r} and {self.second!r} to be found by it")
        if self.first == self.second and len(np.unique(ids[0])) == len(ids[0]):
            raise ValueError(
                f"no record has two different texts in {self.first!r}, so there is nothing to find"
            )

    def _open(self) -> Source:
        source = self.source.open()
        fields = inputs_of(source[0])
        for name in (self.first, self.second):
            if name not in fields:
                raise ValueError(f"records have no field {name!r}: they have {', '.join(fields)}")
        return source

    def measure(self, features: FieldFeatures) -> dict[str, float]:
        source = self._open()
        if self.first == self.second:
            rows = _Rows.of(source, self.first, distinct=True)
            return _within(self.first, rows.taken(features(source, self.first)), rows.ids)
        names = (self.first, self.second)
        kept = {name: _Rows.of(source, name) for name in names}
        rows_of = {name: kept[name].taken(features(source, name)) for name in names}
        figures: dict[str, float] = {}
        for queries, found in (names, names[::-1]):
            sides = rows_of[queries], rows_of[found], kept[queries].ids, kept[found].ids
            figures |= _across(f"{queries} to {found}", *sides, centre=self.centre)
        first, second = (_unit(rows_of[name]) for name in names)
        figures["gap"] = float(np.linalg.norm(first.mean(0) - second.mean(0)))
        both = [
            np.isin(kept[name].records, kept[other].records) for name, other in (names, names[::-1])
        ]
        if all(one.single for one in kept.values()) and both[0].any():
            figures["alignment"] = alignment(first[both[0]], second[both[1]])
        for name, unit in ((self.first, first), (self.second, second)):
            figures[f"uniformity of {name}"] = uniformity(unit)
        return figures


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Which of a field's features count: those of what is there, by the data, whatever they are."""

    there: np.ndarray
    """[N] bool, or [N, C] of several texts a record."""
    records: np.ndarray
    """[M], the record of each that is there."""
    ids: np.ndarray
    """[M], equal for records that share a text."""

    @property
    def single(self) -> bool:
        """One a record."""
        return self.there.ndim == 1

    def taken(self, features: np.ndarray) -> np.ndarray:
        """[M, F] of [N, F] or [N, C, F]."""
        return features[self.there]

    @classmethod
    def of(cls, source: Source, field: str, *, distinct: bool = False) -> "_Rows":
        """Reads what is there, each text but once where `distinct`."""
        count, first = len(source), source[0]
        there = np.ones(count, bool)
        if f"{field}{THERE}" in first:
            there = np.array([source[row][f"{field}{THERE}"] for row in range(count)], bool)
        if first[field].dtype == np.int32 and first[field].ndim in (1, 2):
            tokens = np.stack([source[row][field] for row in range(count)])  # [N, T] or [N, C, T]
            stands = (tokens >= 0).any(-1)
            there = stands & (there if stands.ndim == 1 else there[:, None])
            if distinct:
                _, numbers = np.unique(tokens[there], axis=0, return_index=True)
                chosen = np.zeros(there.sum(), bool)
                chosen[numbers] = True
                there[there] = chosen
        records = np.nonzero(there)[0]
        groups = getattr(source, "groups", None)
        return cls(there, records, records if groups is None else np.asarray(groups)[records])


_KS = (1, 5, 10)


def _across(
    name: str,
    queries: np.ndarray,
    gallery: np.ndarray,
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    *,
    centre: bool,
) -> dict[str, float]:
    """Recall and mean reciprocal rank of queries that have a match in a gallery."""
    probes = np.isin(query_ids, gallery_ids)
    ids: dict[str, Any] = {"query_ids": query_ids[probes], "gallery_ids": gallery_ids}
    ks = [k for k in _KS if k <= len(gallery)]
    recalls = recall_at_k(queries[probes], gallery, ks=ks, **ids)
    figures = {f"{name}, R@{k}": value for k, value in recalls.items()}
    figures[f"{name}, MRR"] = mean_reciprocal_rank(queries[probes], gallery, **ids)
    if centre:
        two = queries[probes] - queries.mean(0), gallery - gallery.mean(0)
        figures[f"{name}, centred R@1"] = recall_at_k(*two, ks=(1,), **ids)[1]
        figures[f"{name}, centred MRR"] = mean_reciprocal_rank(*two, **ids)
    return figures


def _within(name: str, rows: np.ndarray, ids: np.ndarray) -> dict[str, float]:
    """Recall of what has a row's id among all others, of rows that are not alone with theirs."""
    _, numbers, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    ks = [k for k in _KS if k < len(rows)]
    nearest, _ = nearest_neighbours(rows, rows, max(ks), exclude_self=True)
    matches = (ids[nearest] == ids[:, None])[sizes[numbers] > 1]
    return {f"{name}, R@{k}": float(matches[:, :k].any(1).mean()) for k in ks}


@dataclasses.dataclass(frozen=True)
class Classes(Task):
    """Whether the features of a field tell labels, by neighbours and by a linear classifier.

    Records without the field have no part in it. Figures: accuracy of each, fitted on the training
    records and scored on the others, 0 to 1.
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

    def check(self, experiment: Experiment) -> None:
        for source in self._open():
            _check_takes(experiment, source, self.field)

    def _open(self) -> tuple[Source, Source]:
        parts = self.train.open(), self.test.open()
        for name, source in zip(("train", "test"), parts, strict=True):
            if source.labels is None:
                raise ValueError(f"the {name} records have no labels: name them")
            fields = inputs_of(source[0])
            if self.field not in fields:
                raise ValueError(
                    f"records have no field {self.field!r}: they have {', '.join(fields)}"
                )
        if parts[0].label_names != parts[1].label_names:
            raise ValueError(
                f"the train records have the labels {parts[0].label_names}, the test records "
                f"{parts[1].label_names}: a label has to mean the same in both"
            )
        return parts

    def measure(self, features: FieldFeatures) -> dict[str, float]:
        train, test = self._open()
        parts: list[np.ndarray] = []
        for source in (train, test):
            rows = _Rows.of(source, self.field)
            parts += [
                rows.taken(features(source, self.field)),
                np.asarray(source.labels)[rows.records],
            ]
        k = min(self.neighbours, len(parts[0]))
        return {
            "kNN": knn_accuracy(*parts, k=k, temperature=self.temperature, weights="distance"),
            "linear": linear_probe(*parts).accuracy,
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
        _check_takes(experiment, source, self.field)
        _check_takes(experiment, self._prompts(names), self.text)

    def _open(self) -> tuple[Source, Sequence[str]]:
        """The records, and the names of their classes."""
        source = self.source.open()
        names = self.names or source.label_names
        if source.labels is None or not names:
            raise ValueError("the source has no labels with names: name them, or give names")
        if int(source.labels.max()) >= len(names):
            raise ValueError(f"labels go to {source.labels.max()}, and {len(names)} have names")
        if not self.templates or any(template.count("{}") != 1 for template in self.templates):
            raise ValueError("each of the templates needs {} where the class's name stands")
        if self.field not in inputs_of(source[0]):
            raise ValueError(f"records have no field {self.field!r}")
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
        classes = _unit(embedded).reshape(len(names), len(self.templates), -1).mean(1)
        scores = _unit(features(source, self.field)) @ _unit(classes).T
        order = np.argsort(-scores, axis=1, kind="stable")
        right = order == np.asarray(source.labels)[:, None]
        figures = {"accuracy": float(right[:, 0].mean())}
        if len(names) > 5:
            figures["top 5"] = float(right[:, :5].any(1).mean())
        return figures


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def _check_takes(experiment: Experiment, source: Source, field: str) -> None:
    """Raises where the experiment's encoders do not take a field of a source."""
    networks = {of: network for of, _, network in networks_of_fields(experiment)}
    shape = inputs_of(source[0])[field].shape
    if isinstance(experiment.method, MultiModal) and field not in networks:
        raise ValueError(
            f"there is no tower for the field {field!r}: views are of {', '.join(networks)}"
        )
    network = networks.get(field, next(iter(networks.values()), None))
    longest = getattr(network, "max_length", None)
    tokens = (getattr(source, "vocabulary", None) or {}).get(field)
    if tokens is None:
        return
    if longest is not None and shape[-1] > longest:
        raise ValueError(
            f"texts of {field!r} have up to {shape[-1]} tokens, and the encoder takes {longest}: "
            f"set their max_length to {longest}"
        )
    known = getattr(network, "vocabulary", None)
    if known is not None and tokens > known:
        raise ValueError(
            f"the tokenizer of {field!r} has {tokens} tokens and the encoder knows {known}: give "
            "the tokenizer of the training data"
        )
