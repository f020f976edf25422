"""Signals of whether a run learns: what stands beside the loss in the log."""

import jax
import jax.numpy as jnp

from jaxcl.similarity import gather_rows, l2_normalize, row_numbers

_QUERIES = 256


def contrast_health(
    queries: jax.Array,
    positives: jax.Array,
    candidates: jax.Array,
    is_negative: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """How well queries tell their positives from negatives, by the first 256 queries of a device.

    So many tell enough, and the matrix of their similarities stays small beside the step's.

    Args:
      queries: [N, D] embeddings, of any length.
      positives: [N, D]; row i matches query i.
      candidates: [M, D].
      is_negative: [N, M] bool, which candidates are negatives of which query; None: all.

    Returns:
      accuracy: share of queries nearer to their positive than to any negative, 0 to 1.
      positive_similarity, negative_similarity: mean cosine.
      negatives: how many a query has, on average.
      chance_loss: log(1 + negatives), the loss of an encoder that knows nothing, in nats.
    """
    queries, positives = queries[:_QUERIES], positives[:_QUERIES]
    queries, positives, candidates = (
        jax.lax.stop_gradient(l2_normalize(rows)) for rows in (queries, positives, candidates)
    )
    positive = jnp.sum(queries * positives, axis=-1)  # [N]
    similarities = queries @ candidates.T  # [N, M]
    if is_negative is None:
        is_negative = jnp.ones(similarities.shape, bool)
    is_negative = is_negative[:_QUERIES]
    hardest = jnp.max(similarities, axis=1, where=is_negative, initial=-jnp.inf)
    total = jnp.sum(similarities, axis=1, where=is_negative)
    return _contrast(positive, hardest, total, is_negative.sum(axis=1))


def contrast_health_over_parts(
    queries: jax.Array,
    positives: jax.Array,
    ids: jax.Array,
    candidates: jax.Array,
    candidate_ids: jax.Array,
    candidate_where: jax.Array,
    axis_name: str,
) -> dict[str, jax.Array]:
    """`contrast_health` against candidates of which each device has a part.

    Args:
      queries: [N, D] embeddings, of any length.
      positives: [N, D]; row i matches query i.
      ids: [N] integers of the queries; a candidate with the same is no negative.
      candidates: [M, D], this device's part.
      candidate_ids: [M].
      candidate_where: [M] bool, those that count.
      axis_name: mapped axis of the devices.

    Returns:
      As `contrast_health`.
    """
    queries, positives, candidates = (
        jax.lax.stop_gradient(l2_normalize(rows))
        for rows in (queries[:_QUERIES], positives[:_QUERIES], candidates)
    )
    everyones = gather_rows(queries, axis_name)
    similarities = everyones @ candidates.T  # [devices * N, M]
    others = gather_rows(ids[:_QUERIES], axis_name)[:, None] != candidate_ids
    is_negative = others & candidate_where
    hardest = jnp.max(similarities, axis=1, where=is_negative, initial=-jnp.inf)
    total = jnp.sum(similarities, axis=1, where=is_negative)
    own = row_numbers(len(queries), axis_name)
    return _contrast(
        jnp.sum(queries * positives, axis=-1),
        jax.lax.pmax(hardest, axis_name)[own],
        jax.lax.psum(total, axis_name)[own],
        jax.lax.psum(is_negative.sum(axis=1), axis_name)[own],
    )


def _contrast(
    positive: jax.Array, hardest: jax.Array, total: jax.Array, count: jax.Array
) -> dict[str, jax.Array]:
    """The signals [] of queries' positive similarity, largest, sum and number of negatives, [N]."""
    negatives = count.mean()
    return {
        "accuracy": jnp.mean(positive > hardest),
        "positive_similarity": positive.mean(),
        "negative_similarity": total.sum() / jnp.maximum(count.sum(), 1),
        "negatives": negatives,
        "chance_loss": jnp.log1p(negatives),
    }


def spread_health(embeddings: jax.Array, axis_name: str | None = None) -> dict[str, jax.Array]:
    """How much of the space the embeddings use; both signals fall when they collapse.

    Args:
      embeddings: [N, D] this device's rows, of any length.
      axis_name: mapped axis of the devices.

    Returns:
      embedding_std: mean standard deviation per dimension of the unit embeddings, times sqrt(D): 1
        when they spread over the sphere, 0 when all are one point.
      effective_rank: (tr C)^2 / tr C^2 of their covariance C, 1 to D: the number of equally strong
        directions that would vary as much (the participation ratio, which needs no eigenvalues).
    """
    rows = jax.lax.stop_gradient(l2_normalize(embeddings))

    def over_devices(mean: jax.Array) -> jax.Array:
        return mean if axis_name is None else jax.lax.pmean(mean, axis_name)

    rows = rows - over_devices(rows.mean(0))
    covariance = over_devices(rows.T @ rows / rows.shape[0])
    variances = jnp.diagonal(covariance)
    square_sum = jnp.sum(jnp.square(covariance))
    return {
        "embedding_std": jnp.sqrt(variances).mean() * jnp.sqrt(variances.size),
        "effective_rank": jnp.square(variances.sum()) / jnp.maximum(square_sum, 1e-12),
    }


def in_batch_health(
    predictions: jax.Array,
    targets: jax.Array,
    axis_name: str | None = None,
    left_out: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """How well predictions find their own targets among all devices', and how they lie.

    Args:
      predictions: [N, D] embeddings, of any length.
      targets: [N, D]; row i is of the same example.
      axis_name: mapped axis of the devices.
      left_out: [N, M] bool, which of all devices' targets are no negatives of which prediction;
        None: its own alone.

    Returns:
      What `contrast_health` and `spread_health` return; chance is that of a contrastive loss.
    """
    candidates = gather_rows(jax.lax.stop_gradient(targets), axis_name)
    own = row_numbers(len(predictions), axis_name)
    is_negative = own[:, None] != jnp.arange(len(candidates))
    if left_out is not None:
        is_negative &= ~left_out
    metrics = contrast_health(predictions, targets, candidates, is_negative)
    return metrics | spread_health(predictions, axis_name)
