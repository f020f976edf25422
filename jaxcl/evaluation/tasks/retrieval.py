"""Whether embeddings are as alike as what they are of, and find one another."""

import dataclasses
from typing import Any

import numpy as np

from jaxcl.data import Source, SourceConfig, Texts
from jaxcl.data.source import opened
from jaxcl.evaluation.geometry import alignment, uniformity
from jaxcl.evaluation.knn import nearest_neighbours
from jaxcl.evaluation.retrieval import mean_reciprocal_rank, recall_at_k
from jaxcl.evaluation.tasks.common import Rows, check_field, check_takes, unit
from jaxcl.training.experiment import Experiment, FieldFeatures, Task


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
            check_takes(experiment, source, column)

    def measure(self, features: FieldFeatures) -> dict[str, float]:
        from scipy import stats

        source, scores = self._open()
        first, second = (unit(features(source, column)) for column in self.texts.columns)
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
            check_takes(experiment, source, name)
        distinct = self.first == self.second
        ids = [Rows.of(source, name, distinct=distinct).ids for name in (self.first, self.second)]
        if self.first != self.second and not np.isin(ids[0], ids[1]).any():
            raise ValueError(f"no record has {self.first!r} and {self.second!r} to be found by it")
        if self.first == self.second and len(np.unique(ids[0])) == len(ids[0]):
            raise ValueError(
                f"no record has two different texts in {self.first!r}, so there is nothing to find"
            )

    def _open(self) -> Source:
        source = opened(self.source)
        for name in (self.first, self.second):
            check_field(source, name)
        return source

    def measure(self, features: FieldFeatures) -> dict[str, float]:
        source = self._open()
        if self.first == self.second:
            rows = Rows.of(source, self.first, distinct=True)
            return _within(self.first, rows.taken(features(source, self.first)), rows.ids)
        names = (self.first, self.second)
        kept = {name: Rows.of(source, name) for name in names}
        rows_of = {name: kept[name].taken(features(source, name)) for name in names}
        figures: dict[str, float] = {}
        for queries, found in (names, names[::-1]):
            sides = rows_of[queries], rows_of[found], kept[queries].ids, kept[found].ids
            figures |= _across(f"{queries} to {found}", *sides, centre=self.centre)
        first, second = (unit(rows_of[name]) for name in names)
        figures["gap"] = float(np.linalg.norm(first.mean(0) - second.mean(0)))
        both = [
            np.isin(kept[name].records, kept[other].records) for name, other in (names, names[::-1])
        ]
        if all(one.single for one in kept.values()) and both[0].any():
            figures["alignment"] = alignment(first[both[0]], second[both[1]])
        for name, embeddings in ((self.first, first), (self.second, second)):
            figures[f"uniformity of {name}"] = uniformity(embeddings)
        return figures


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
