"""Softmax normalizers over similarities, holding the whole matrix.

What does not count is described by vectors beside the rows (`ids`, `where`), never by an `[N, M]`
mask or by positions, so that the same description serves a tile of the matrix, and keys that arrive
in any order.
"""

import jax
import jax.numpy as jnp

from jaxcl.similarity.checks import Scalar


def masked_logsumexp(logits: jax.Array, counts: jax.Array) -> jax.Array:
    """Log-sum-exp of each row's entries that count.

    Args:
      logits: [..., M].
      counts: [..., M] bool.

    Returns:
      [...]; -inf, with gradient zero, where none counts.
    """
    # Entries that do not count are taken out before exp: after it, an infinity times zero is NaN in
    # the gradient.
    logits = jnp.where(counts, logits, -jnp.inf)
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True, initial=-jnp.inf))
    largest = jnp.where(jnp.isneginf(largest), 0, largest)
    total = jnp.sum(jnp.exp(logits - largest), axis=-1)
    any_counts = jnp.any(counts, axis=-1)
    log_total = jnp.log(jnp.where(any_counts, total, 1)) + jnp.squeeze(largest, -1)
    return jnp.where(any_counts, log_total, -jnp.inf)


def similarity_logsumexp(
    queries: jax.Array,
    keys: jax.Array,
    *,
    temperature: Scalar,
    query_ids: jax.Array | None = None,
    key_ids: jax.Array | None = None,
    key_where: jax.Array | None = None,
) -> jax.Array:
    """Row-wise log-sum-exp of `queries @ keys.T / temperature` over the keys that count.

    A key counts unless its id equals the query's, or `key_where` rules it out. Row numbers are ids
    too: given them, no query meets its own key.

    Args:
      queries: [N, D] float32, prepared (`jaxcl.similarity.prepare`).
      keys: [M, D] float32, shared by all queries, or [N, M, D], one set for each.
      temperature: divides similarities.
      query_ids: [N] integers, or None: every id differs.
      key_ids: [M] or [N, M] integers, or None.
      key_where: [M] bool, keys that count, or None: all.

    Returns:
      [N] in float32; -inf, with gradient zero, for a query for which no key counts.
    """
    equation = "nd,md->nm" if keys.ndim == 2 else "nd,nmd->nm"
    # At default precision accelerators multiply float32 as bfloat16 or TF32; divided by a
    # temperature of 0.07 or less, that error is seen. These products are a small part of any step.
    logits = jnp.einsum(
        equation, queries / temperature, keys, precision=jax.lax.Precision.HIGHEST
    )  # [N, M]
    counts = jnp.ones(logits.shape, bool)
    if query_ids is not None and key_ids is not None:
        counts &= query_ids[:, None] != key_ids
    if key_where is not None:
        counts &= key_where
    return masked_logsumexp(logits, counts)
