"""Exact nearest neighbours by cosine similarity, and the classifier that lets them vote.

The [M, N] matrix of similarities never exists: queries and features are cut into tiles, which are
read one at a time, and each query keeps a running list of its best k.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcl.evaluation.blocks import padded_tiles, unit_tiles
from jaxcl.evaluation.validation import as_features, as_labels, check_count

Weights = Literal["distance", "uniform"]


def nearest_neighbours(
    features: ArrayLike,
    queries: ArrayLike,
    k: int,
    *,
    exclude_self: bool = False,
    block_size: int = 2048,
) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of `features` most alike each query, by cosine similarity, exactly.

    A zero row has similarity 0 with everything. Equal similarities (after rounding to float32) are
    ordered by row: the lower first.

    Args:
      features: [N, D].
      queries: [M, D].
      k: how many neighbours, 1 <= k <= N (N - 1 with `exclude_self`).
      exclude_self: query i is row i of `features` and not its own neighbour.
      block_size: rows of queries and of features in a tile; changes memory and speed, not the
        result. A few [block_size, block_size + k] arrays of 4 bytes are alive at a time, and one
        copy of the queries. Float32 features are read once, a tile at a time: they may be a memory
        map, larger than memory.

    Returns:
      (indices, similarities): [M, k] int32 rows of `features`, best first, and [M, k] float32.

    Raises:
      ValueError: if shapes do not fit, k is out of range, or a feature is not finite.

    Example:
      >>> indices, similarities = nearest_neighbours([[1.0, 0.0], [0.0, 2.0]], [[3.0, 3.1]], 2)
      >>> indices
      array([[1, 0]], dtype=int32)
    """
    gallery = as_features("features", features)
    probes = as_features("queries", queries, width=gallery.shape[1])
    if exclude_self and len(probes) != len(gallery):
        raise ValueError(
            f"exclude_self needs queries to be the features, row by row: got {len(probes)} queries "
            f"and {len(gallery)} features"
        )
    check_count("k", k, most=len(gallery) - exclude_self, of="features to choose from")

    # Row -1 is nobody's: where queries are not the features, nothing is excluded.
    own_rows = np.arange(len(probes)) if exclude_self else np.full(len(probes), -1)
    blocks = padded_tiles(own_rows.astype(np.int32), block_size)
    queries_of = [jnp.asarray(block) for _, block in unit_tiles(probes, block_size)]
    found = [_nothing(len(block), k) for block in queries_of]
    for start, unit_rows in unit_tiles(gallery, block_size):
        tile = jnp.asarray(unit_rows)
        found = [
            _with_tile(best, block, rows, tile, start, len(gallery))
            for best, block, rows in zip(found, queries_of, blocks, strict=True)
        ]
    similarities, indices = (
        np.concatenate([np.asarray(part) for part in parts])[: len(probes)]
        for parts in zip(*found, strict=True)
    )
    return indices, similarities


def _nothing(queries: int, k: int) -> tuple[jax.Array, jax.Array]:
    """The best k of no rows at all."""
    return jnp.full((queries, k), -jnp.inf), jnp.full((queries, k), -1, jnp.int32)


@jax.jit
def cosines(queries: ArrayLike, tile: ArrayLike) -> jax.Array:
    """[B, C] of unit rows [B, D] and [C, D], in full float32 also on GPU and TPU, whose default
    would reorder close neighbours."""
    return jnp.matmul(queries, jnp.asarray(tile).T, precision=jax.lax.Precision.HIGHEST)


@jax.jit
def _with_tile(
    best: tuple[jax.Array, jax.Array],
    queries: ArrayLike,
    own_rows: ArrayLike,
    tile: ArrayLike,
    start: ArrayLike,
    count: ArrayLike,
) -> tuple[jax.Array, jax.Array]:
    """The best k, similarities and rows [B, k], of `best` and of a tile [C, D] that begins at row
    `start` of `count`."""
    (values, indices), tile = best, jnp.asarray(tile)
    k = values.shape[1]
    rows = start + jnp.arange(len(tile), dtype=jnp.int32)  # [C]
    similarities = cosines(queries, tile)  # [B, C]
    allowed = (rows < count) & (rows != jnp.asarray(own_rows)[:, None])
    similarities = jnp.where(allowed, similarities, -jnp.inf)
    # The best so far come first: they have the lower rows, and top_k takes the first of equals.
    values, positions = jax.lax.top_k(jnp.concatenate([values, similarities], axis=1), k)
    kept = jnp.take_along_axis(indices, jnp.minimum(positions, k - 1), axis=1)
    return values, jnp.where(positions < k, kept, start + positions - k)


def knn_scores(
    features: ArrayLike,
    labels: ArrayLike,
    queries: ArrayLike,
    *,
    k: int = 20,
    temperature: float = 0.07,
    weights: Weights = "distance",
    num_classes: int | None = None,
    block_size: int = 2048,
) -> np.ndarray:
    """Share of the neighbours' vote that each class gets (Wu et al., 2018, section 3.4).

    With `weights="distance"` a neighbour of similarity s votes with exp(s / temperature), as
    instance discrimination and DINO (k = 20, temperature 0.07) do; with "uniform" every neighbour
    votes with 1.

    Args:
      features: [N, D] of the labelled examples.
      labels: [N] int, 0 <= label < num_classes.
      queries: [M, D].
      k: neighbours that vote, 1 <= k <= N.
      temperature: > 0; smaller gives the nearest more weight. Unused by "uniform".
      weights: "distance" or "uniform".
      num_classes: C; None takes the largest label plus 1.
      block_size: see `nearest_neighbours`.

    Returns:
      [M, C] float64, rows sum to 1.

    Raises:
      ValueError: if shapes do not fit, an option is out of range, or a feature is not finite.
    """
    if weights not in ("distance", "uniform"):
        raise ValueError(f'weights is {weights!r}, expected "distance" or "uniform"')
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, expected more than 0")
    gallery = as_features("features", features)
    classes = as_labels("labels", labels, len(gallery))
    if num_classes is None:
        num_classes = int(classes.max()) + 1
    elif classes.max() >= num_classes:
        raise ValueError(f"labels hold {classes.max()}, but num_classes is {num_classes}")
    indices, similarities = nearest_neighbours(gallery, queries, k, block_size=block_size)

    if weights == "uniform":
        votes = np.ones(similarities.shape)
    else:
        # Relative to the nearest, which no share depends on: exp(1 / 0.001) would overflow.
        gap = similarities.astype(np.float64) - similarities[:, :1]
        votes = np.exp(gap / temperature)
    scores = np.zeros((len(indices), num_classes))
    np.add.at(scores, (np.arange(len(indices))[:, None], classes[indices]), votes)
    return scores / scores.sum(axis=1, keepdims=True)


def knn_classify(
    features: ArrayLike,
    labels: ArrayLike,
    queries: ArrayLike,
    *,
    k: int = 20,
    temperature: float = 0.07,
    weights: Weights = "distance",
    block_size: int = 2048,
) -> np.ndarray:
    """Class that the k nearest labelled examples vote for; of equal votes the lower class.

    Args:
      features: [N, D] of the labelled examples.
      labels: [N] int >= 0.
      queries: [M, D].
      k: see `knn_scores`, as all options.
      temperature: see `knn_scores`.
      weights: "distance" or "uniform".
      block_size: see `nearest_neighbours`.

    Returns:
      [M] int64 classes.

    Raises:
      ValueError: as `knn_scores`.

    Example:
      >>> knn_classify([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]], [4, 7, 7], [[0.2, 1.0]], k=2)
      array([7])
    """
    scores = knn_scores(
        features,
        labels,
        queries,
        k=k,
        temperature=temperature,
        weights=weights,
        block_size=block_size,
    )
    return scores.argmax(axis=1)


def knn_accuracy(
    features: ArrayLike,
    labels: ArrayLike,
    queries: ArrayLike,
    query_labels: ArrayLike,
    *,
    k: int = 20,
    temperature: float = 0.07,
    weights: Weights = "distance",
    block_size: int = 2048,
) -> float:
    """Share of queries whose class `knn_classify` finds.

    Args:
      features: [N, D] of the labelled examples.
      labels: [N] int >= 0.
      queries: [M, D].
      query_labels: [M] int >= 0, the truth.
      k: see `knn_scores`, as all options.
      temperature: see `knn_scores`.
      weights: "distance" or "uniform".
      block_size: see `nearest_neighbours`.

    Returns:
      Accuracy, 0 to 1.

    Raises:
      ValueError: as `knn_scores`.
    """
    truth = as_labels("query_labels", query_labels, len(np.asarray(queries)))
    predictions = knn_classify(
        features,
        labels,
        queries,
        k=k,
        temperature=temperature,
        weights=weights,
        block_size=block_size,
    )
    return float(np.mean(predictions == truth))
