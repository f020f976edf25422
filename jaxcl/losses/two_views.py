"""What losses over two views share: each view an anchor, its partner the positive."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcl.similarity import (
    AxisName,
    gather_rows,
    masked_logsumexp,
    prepare,
    row_numbers,
    row_similarity,
    similarity_logsumexp,
)
from jaxcl.similarity.checks import (
    Scalar,
    check_embeddings,
    check_integers,
    check_scalar,
    check_where,
)


class TwoViewTerms(NamedTuple):
    """The parts that a two-view loss is made of.

    Attributes:
      similarity: [N] between the two views of each row, not divided by the temperature.
      negatives: [2N] log-sum-exp, over each anchor's negatives, of similarity / temperature; z0's
        anchors first; -inf where it has none.
      where: [N] bool, rows that count.
    """

    similarity: jax.Array
    negatives: jax.Array
    where: jax.Array


def two_view_terms(
    z0: jax.Array,
    z1: jax.Array,
    *,
    temperature: Scalar,
    similarity: str,
    axis_name: AxisName | None,
    where: jax.Array | None,
    ids: jax.Array | None,
    more_negatives: jax.Array | None = None,
    more_ids: jax.Array | None = None,
) -> TwoViewTerms:
    """Checks the arguments of a two-view loss and computes the parts it is made of.

    An anchor's negatives are both views of every row, on every device, that counts and whose id is
    another.

    Args:
      z0: [N, D] embeddings of one view.
      z1: [N, D] of the other; row i shows what row i of z0 shows.
      temperature: divides similarities.
      similarity: "cosine" or "dot".
      axis_name: mapped axis whose other devices' rows are negatives too.
      where: [N] bool, rows that count.
      ids: [N] integers; rows with equal ids are never each other's negatives.
      more_negatives: [M, D] negatives of every anchor beside those of the batch, or None.
      more_ids: [M] integers, their ids; goes with `ids`.

    Returns:
      The parts, of this device's anchors.

    Raises:
      ValueError: if shapes, the temperature, the similarity or the axis name are not what they
        should be.
      TypeError: if embeddings are not floating point, ids not integers or `where` not bool.
    """
    sizes: dict[str, int] = {}
    z0 = check_embeddings("z0", z0, "N D", sizes)
    z1 = check_embeddings("z1", z1, "N D", sizes)
    check_scalar("temperature", temperature, above=0)
    where = check_where(where, sizes)
    rows = sizes["N"]
    if more_negatives is not None:
        more_negatives = check_embeddings("negatives", more_negatives, "M D", sizes)
        if (ids is None) != (more_ids is None):
            raise ValueError(
                "ids and negative_ids go together where negatives are given: "
                f"{'ids' if ids is None else 'negative_ids'} is missing"
            )
    elif more_ids is not None:
        raise ValueError("negative_ids came without negatives: the batch's own ids are `ids`")
    if more_ids is not None:
        more_ids = check_integers("negative_ids", more_ids, "M", sizes)
    # Equal row numbers mark an anchor itself and its partner; equal ids do that, and more.
    ids = row_numbers(rows, axis_name) if ids is None else check_integers("ids", ids, "N", sizes)
    z0 = prepare(z0, similarity, where)
    z1 = prepare(z1, similarity, where)
    where = jnp.ones(rows, bool) if where is None else where

    anchors = jnp.concatenate([z0, z1])
    negatives = similarity_logsumexp(
        anchors,
        gather_rows(anchors, axis_name),
        temperature=temperature,
        query_ids=jnp.tile(ids, 2),
        key_ids=gather_rows(jnp.tile(ids, 2), axis_name),
        key_where=gather_rows(jnp.tile(where, 2), axis_name),
    )
    if more_negatives is not None:
        more = similarity_logsumexp(
            anchors,
            prepare(more_negatives, similarity),
            temperature=temperature,
            query_ids=None if more_ids is None else jnp.tile(ids, 2),
            key_ids=more_ids,
        )
        both = jnp.stack([negatives, more], axis=1)
        negatives = masked_logsumexp(both, ~jnp.isneginf(both))
    return TwoViewTerms(row_similarity(z0, z1), negatives, where)
