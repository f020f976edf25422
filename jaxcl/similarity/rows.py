"""What a loss needs of the similarity matrix: one number a row, and the weights behind it.

The matrix has an entry for every query and key: their dot product, less the query's `shift`. Every
reduction here has the weights as its gradient with respect to the entries, and so minus their sum
with respect to the shift. That is all that blocks of rows, a ring of devices and a kernel share.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

Reduction = Literal["logsumexp", "log1p_sumexp", "sum_softplus"]
"""logsumexp: log sum exp(x); weights are the softmax. log1p_sumexp: log(1 + sum exp(x)), the cross
entropy against a positive whose logit is the shift. sum_softplus: sum log(1 + exp(x)), each entry a
yes or no of its own."""


class Pairs(NamedTuple):
    """Which pairs of a query and a key count, told by vectors beside the rows, never by a matrix.

    Such a description serves a block of rows, and keys that arrive in any order. Fields may be
    None: they rule nothing out.

    Attributes:
      query_ids: [N] integers; a key whose id is the query's does not count.
      key_ids: [M], or [N, M] where they differ by query.
      query_where: [N] bool, queries that count.
      key_where: [M] bool, keys that count.
      limit: scalar; a key whose entry, before the shift, is above it does not count.
    """

    query_ids: jax.Array | None = None
    key_ids: jax.Array | None = None
    query_where: jax.Array | None = None
    key_where: jax.Array | None = None
    limit: jax.Array | None = None

    def between(self, queries: slice, keys: slice) -> "Pairs":
        """The description of some of the queries and some of the keys; key ids are [M]."""

        def cut(array: jax.Array | None, rows: slice) -> jax.Array | None:
            return None if array is None else array[rows]

        return self._replace(
            query_ids=cut(self.query_ids, queries),
            key_ids=cut(self.key_ids, keys),
            query_where=cut(self.query_where, queries),
            key_where=cut(self.key_where, keys),
        )

    def exclude(self, logits: jax.Array) -> jax.Array:
        """Puts -inf in place of the entries [N, M] that do not count."""
        counts: jax.Array | None = None
        if self.query_ids is not None and self.key_ids is not None:
            counts = self.query_ids[:, None] != self.key_ids
        for where in (
            None if self.query_where is None else self.query_where[:, None],
            self.key_where,
            None if self.limit is None else ~(logits > self.limit),
        ):
            if where is not None:
                counts = where if counts is None else counts & where
        return logits if counts is None else jnp.where(counts, logits, -jnp.inf)


def product(equation: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """An einsum in full float32.

    At default precision accelerators multiply float32 as bfloat16 or TF32; divided by a temperature
    of 0.07 or less, that error is seen. These products are a small part of any step.
    """
    return jnp.einsum(equation, left, right, precision=jax.lax.Precision.HIGHEST)


def similarity_logits(
    queries: jax.Array, keys: jax.Array, shift: jax.Array | None, pairs: Pairs
) -> jax.Array:
    """The entries [N, M] for queries [N, D], keys [M, D] or [N, M, D]; -inf where none counts."""
    logits = product("nd,md->nm" if keys.ndim == 2 else "nd,nmd->nm", queries, keys)
    logits = pairs.exclude(logits)
    return logits if shift is None else logits - shift[:, None]


def reduce_rows(reduction: Reduction, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Reduces rows of entries.

    Args:
      reduction: how.
      logits: [N, M], -inf where an entry does not count.

    Returns:
      The value of each row [N] (of none that counts: -inf for logsumexp, else 0), and the number
      that `weights` wants of it [N].
    """
    return _reduce(reduction, logits)[:2]


class Reduced(NamedTuple):
    """Rows reduced, and the weights behind it: `factors[:, None] * shares` [N, M]."""

    values: jax.Array
    """[N]."""
    normalizers: jax.Array
    """[N], what `weights` wants of each row."""
    shares: jax.Array
    """[N, M]."""
    factors: jax.Array
    """[N]."""


def reduce_with_weights(reduction: Reduction, logits: jax.Array) -> Reduced:
    """`reduce_rows` and `weights` in one, with one exponential an entry; not differentiated.

    Args:
      reduction: how.
      logits: [N, M], -inf where an entry does not count.

    Returns:
      Values, and weights in two factors, for the second multiplies what the weights multiply.
    """
    values, normalizers, largest, exponentials = _reduce(reduction, logits)
    if reduction == "sum_softplus":
        shares = jax.nn.sigmoid(logits)
        return Reduced(values, normalizers, shares, jnp.ones_like(values))
    return Reduced(values, normalizers, exponentials, jnp.exp(largest - normalizers))


def _reduce(
    reduction: Reduction, logits: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Values, normalizers; for a softmax also what was taken out of rows, and exponentials."""
    if reduction == "sum_softplus":
        value = jnp.sum(jax.nn.softplus(logits), axis=1)
        zeros = jnp.zeros_like(value)
        return value, zeros, zeros, logits
    # Values do not depend on what is taken out and put back; nor do gradients.
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=1, initial=-jnp.inf))
    if reduction == "log1p_sumexp":
        largest = jnp.maximum(largest, 0)  # the 1 is an entry of 0
        exponentials = jnp.exp(logits - largest[:, None])
        value = largest + jnp.log1p(jnp.sum(exponentials, axis=1) + jnp.expm1(-largest))
        return value, value, largest, exponentials
    largest = jnp.where(jnp.isneginf(largest), 0, largest)
    exponentials = jnp.exp(logits - largest[:, None])
    total = jnp.sum(exponentials, axis=1)
    empty = total == 0  # the largest entry adds 1; NaN, which a maximum may leave out, is not 0
    value = jnp.where(empty, -jnp.inf, largest + jnp.log(jnp.where(empty, 1, total)))
    return value, jnp.where(empty, 0, value), largest, exponentials


def weights(reduction: Reduction, logits: jax.Array, normalizer: jax.Array) -> jax.Array:
    """The gradient of each row's value with respect to its entries.

    Args:
      reduction: how rows are reduced.
      logits: [N, M], -inf where an entry does not count.
      normalizer: [N, 1], the second result of `reduce_rows` for each row.

    Returns:
      [N, M], 0 where an entry does not count.
    """
    if reduction == "sum_softplus":
        return jax.nn.sigmoid(logits)
    return jnp.exp(logits - normalizer)


def logaddexp(a: jax.Array, b: jax.Array) -> jax.Array:
    """log(exp(a) + exp(b)) [N]; where both are -inf, that, with gradient zero."""
    return reduce_rows("logsumexp", jnp.stack([a, b], axis=1))[0]
