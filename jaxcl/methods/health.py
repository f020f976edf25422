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
    negatives = is_negative.sum(axis=1).mean()
    hardest = jnp.max(similarities, axis=1, where=is_negative, initial=-jnp.inf)
    total = jnp.sum(similarities, where=is_negative)
    return {
        "accuracy": jnp.mean(positive > hardest),
        "positive_similarity": positive.mean(),
        "negative_similarity": total / jnp.maximum(is_negative.sum(), 1),
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
    predictions: jax.Array, targets: jax.Array, axis_name: str | None = None
) -> dict[str, jax.Array]:
    """How well predictions find their own targets among all devices', and how they lie.

    Args:
      predictions: [N, D] embeddings, of any length.
      targets: [N, D]; row i is of the same example.
      axis_name: mapped axis of the devices.

    Returns:
      What `contrast_health` and `spread_health` return; chance is that of a contrastive loss.
    """
    candidates = gather_rows(jax.lax.stop_gradient(targets), axis_name)
    own = row_numbers(len(predictions), axis_name)
    is_negative = own[:, None] != jnp.arange(len(candidates))
    metrics = contrast_health(predictions, targets, candidates, is_negative)
    return metrics | spread_health(predictions, axis_name)
