"""Retrieval: whether what belongs together is found, across two sets or within one."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from jax.typing import ArrayLike

from jaxcl.evaluation.blocks import unit_tiles
from jaxcl.evaluation.knn import cosines, nearest_neighbours
from jaxcl.evaluation.validation import as_features, as_labels, check_count

Centre = Literal["none", "rows", "columns"]


def recall_at_k(
    queries: ArrayLike,
    gallery: ArrayLike,
    *,
    ks: Sequence[int] = (1, 5, 10),
    query_ids: ArrayLike | None = None,
    gallery_ids: ArrayLike | None = None,
    centre: Centre = "none",
    block_size: int = 2048,
) -> dict[int, float]:
    """Recall at k: share of queries with a match among their k nearest of the gallery, by cosine.

    Row i of the queries matches row i of the gallery; with ids, any gallery row of an equal id.
    Equal similarities are ordered by gallery row, so that collapsed features score 1 / N at k = 1,
    never more.

    Args:
      queries: [M, D].
      gallery: [N, D]; N = M without ids.
      ks: the k's, each from 1 to N.
      query_ids: [M] integers or strings, with `gallery_ids`.
      gallery_ids: [N].
      centre: "rows" subtracts each example's own mean (for raw pixels: the cosine becomes Pearson's
        correlation), "columns" each set's mean of every dimension (removes what sets two
        modalities or domains apart), "none" nothing.
      block_size: see `nearest_neighbours`.

    Returns:
      {k: share of queries, 0 to 1}.

    Raises:
      ValueError: if shapes do not fit, one kind of ids lacks, a query id is in no gallery row, or
        an option is out of range.

    Example:
      >>> recall_at_k([[1.0, 0.0], [1.0, 0.1]], [[1.0, 0.2], [0.9, 0.1]], ks=(1, 2))
      {1: 0.5, 2: 1.0}
    """
    kept = as_features("gallery", gallery)
    probes = as_features("queries", queries, width=kept.shape[1])
    probe_ids, kept_ids = _matching_ids(query_ids, gallery_ids, len(probes), len(kept))
    if not ks:
        raise ValueError("ks is empty, expected at least one k")
    for k in ks:
        check_count("k", k, most=len(kept), of="gallery rows")
    nearest, _ = nearest_neighbours(
        _centred(kept, centre), _centred(probes, centre), max(ks), block_size=block_size
    )
    matches = kept_ids[nearest] == probe_ids[:, None]  # [M, max(ks)]
    return {int(k): float(matches[:, :k].any(axis=1).mean()) for k in ks}


def mean_reciprocal_rank(
    queries: ArrayLike,
    gallery: ArrayLike,
    *,
    query_ids: ArrayLike | None = None,
    gallery_ids: ArrayLike | None = None,
    block_size: int = 2048,
) -> float:
    """Mean over queries of 1 / rank of the first match among the whole gallery, by cosine.

    Matches and the order of equal similarities are as in `recall_at_k`.

    Args:
      queries: [M, D].
      gallery: [N, D]; N = M without ids.
      query_ids: [M] integers or strings, with `gallery_ids`.
      gallery_ids: [N].
      block_size: queries, and rows of the gallery, at a time.

    Returns:
      0 to 1.

    Raises:
      ValueError: as `recall_at_k`.

    Example:
      >>> mean_reciprocal_rank([[1.0, 0.0], [1.0, 0.1]], [[1.0, 0.2], [0.9, 0.1]])
      0.75
    """
    kept = as_features("gallery", gallery)
    probes = as_features("queries", queries, width=kept.shape[1])
    probe_ids, kept_ids = _matching_ids(query_ids, gallery_ids, len(probes), len(kept))
    ranks = []
    for first, block in unit_tiles(probes, block_size):
        ids = probe_ids[first : first + len(block), None]
        best, place = np.full(len(ids), -np.inf, np.float32), np.zeros(len(ids), int)
        for start, similarities, found in _against_tiles(block, kept, kept_ids, block_size):
            similarities = similarities[: len(ids)]
            matching = np.where(found == ids, similarities, -np.inf)
            at = matching.argmax(1)
            value = np.take_along_axis(matching, at[:, None], 1)[:, 0]
            better = value > best  # of equals the earlier stays
            best, place = np.where(better, value, best), np.where(better, start + at, place)
        rank = np.ones(len(ids), int)
        for start, similarities, found in _against_tiles(block, kept, kept_ids, block_size):
            similarities = similarities[: len(ids)]
            earlier = start + np.arange(len(found)) < place[:, None]
            before = (similarities > best[:, None]) | (similarities == best[:, None]) & earlier
            rank += before.sum(1)
        ranks.append(rank)
    return float(np.mean(1 / np.concatenate(ranks)))


def _against_tiles(
    block: np.ndarray, gallery: np.ndarray, ids: np.ndarray, block_size: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Of each tile of the gallery its first row, cosines [B, C] with unit rows, and ids [C]."""
    for start, tile in unit_tiles(gallery, block_size):
        own = ids[start : start + len(tile)]
        # Whole tiles are multiplied, filled ones too: another shape would be rounded otherwise, and
        # equal rows no longer be equally alike. NumPy's product does that to them within a tile.
        yield start, np.asarray(cosines(block, tile))[:, : len(own)], own


def mean_average_precision_at_r(
    features: ArrayLike, labels: ArrayLike, *, block_size: int = 2048
) -> float:
    """mAP@R: precision over the R nearest of each row, R the others of its class, by cosine.

    The mean over rows of 1/R sum_{i <= R} P(i), where P(i) is the share of the i nearest that are
    of the row's class if the i-th is, else 0 (Musgrave et al., 2020). Rows that are
    alone in their class do not count. Equal similarities are ordered by row.

    Args:
      features: [N, D].
      labels: [N] integers.
      block_size: see `nearest_neighbours`.

    Returns:
      0 to 1.

    Raises:
      ValueError: if shapes do not fit or no class has two rows.

    Example:
      >>> mean_average_precision_at_r([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], [4, 4, 7])
      1.0
    """
    rows = as_features("features", features)
    classes = as_labels("labels", labels, len(rows))
    _, numbers, sizes = np.unique(classes, return_inverse=True, return_counts=True)
    others = sizes[numbers] - 1  # R of each row
    if not others.any():
        raise ValueError("no class has two rows, so there is nothing to find")
    nearest, _ = nearest_neighbours(
        rows, rows, int(others.max()), exclude_self=True, block_size=block_size
    )
    places = np.arange(1, others.max() + 1)
    matches = (classes[nearest] == classes[:, None]) & (places <= others[:, None])
    precision = matches.cumsum(axis=1) / places
    kept = others > 0
    return float(((precision * matches).sum(axis=1)[kept] / others[kept]).mean())


def _matching_ids(
    query_ids: ArrayLike | None, gallery_ids: ArrayLike | None, queries: int, gallery: int
) -> tuple[np.ndarray, np.ndarray]:
    """The ids given, or row numbers where none are."""
    if query_ids is None and gallery_ids is None:
        if queries != gallery:
            raise ValueError(
                f"{queries} queries and {gallery} gallery rows do not pair up row by row: "
                "give query_ids and gallery_ids"
            )
        return np.arange(queries), np.arange(gallery)
    if query_ids is None or gallery_ids is None:
        raise ValueError("query_ids and gallery_ids belong together: give both or neither")
    sides = (
        ("query_ids", np.asarray(query_ids), queries),
        (
            "gallery_ids",
            np.asarray(gallery_ids),
            gallery,
        ),
    )
    for name, ids, count in sides:
        if ids.shape != (count,):
            raise ValueError(f"{name} has shape {ids.shape}, expected ({count},)")
    lost = ~np.isin(sides[0][1], sides[1][1])
    if lost.any():
        raise ValueError(
            f"{lost.sum()} of {queries} query_ids are in no gallery row, the first is "
            f"{sides[0][1][lost][0]!r}: no recall can count them, leave these queries out"
        )
    return sides[0][1], sides[1][1]


def _centred(features: np.ndarray, centre: Centre) -> np.ndarray:
    if centre == "none":
        return features
    if centre not in ("rows", "columns"):
        raise ValueError(f'centre is {centre!r}, expected "none", "rows" or "columns"')
    return features - features.mean(axis=1 if centre == "rows" else 0, keepdims=True)
