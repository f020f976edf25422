"""What losses over two views share: each view an anchor, its partner the positive."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcl.similarity import (
    AxisName,
    Execution,
    Pairs,
    Reduction,
    gather_rows,
    matched_similarity,
    mutual_similarity_rows,
    prepare,
    row_numbers,
)
from jaxcl.similarity.checks import (
    Scalar,
    check_embeddings,
    check_integers,
    check_scalar,
    check_where,
)


class TwoViews(NamedTuple):
    """Two views of a batch as the anchors that both are.

    Attributes:
      anchors: [2N, D] prepared rows, z0's first.
      similarity: [N] between the two views of each row, not divided by the temperature.
      ids: [N] integers; negatives are rows of other ids.
      pairs: an anchor's negatives: both views of every row that counts and whose id is another.
      where: [N] bool, rows that count.
    """

    anchors: jax.Array
    similarity: jax.Array
    ids: jax.Array
    pairs: Pairs
    where: jax.Array

    def negatives(
        self,
        reduction: Reduction,
        temperatures: Sequence[Scalar],
        execution: Execution,
        *,
        shift: jax.Array | None = None,
        ignore_above: Scalar | None = None,
        uniform: bool = True,
    ) -> tuple[jax.Array, ...]:
        """Each anchor's similarities to its negatives, on every device, reduced to [2N] for each
        temperature."""
        return mutual_similarity_rows(
            reduction,
            self.anchors,
            temperatures=temperatures,
            shift=shift,
            pairs=self.pairs,
            ignore_above=ignore_above,
            execution=execution,
            uniform=uniform,
        )

    def negative_count(self, axis_name: AxisName | None) -> jax.Array:
        """How many negatives each anchor has, on all devices: [2N] int32."""
        own = self.ids
        ids, counts = gather_rows(own, axis_name), gather_rows(self.where, axis_name)
        order = jnp.argsort(ids)
        # Among sorted ids, how many before each place count.
        before = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(counts[order])])
        start, end = (jnp.searchsorted(ids[order], own, side=side) for side in ("left", "right"))
        others = before[-1] - (before[end] - before[start])
        return jnp.tile(2 * jnp.where(self.where, others, 0), 2)


def two_views(
    z0: jax.Array,
    z1: jax.Array,
    *,
    temperature: Scalar,
    similarity: str,
    execution: Execution,
    where: jax.Array | None,
    ids: jax.Array | None,
) -> TwoViews:
    """Checks the arguments of a two-view loss and prepares its anchors.

    Args:
      z0: [N, D] embeddings of one view.
      z1: [N, D] of the other; row i shows what row i of z0 shows.
      temperature: divides similarities.
      similarity: "cosine" or "dot".
      execution: with an axis name, other devices' rows are negatives too.
      where: [N] bool, rows that count.
      ids: [N] integers; rows with equal ids are never each other's negatives.

    Returns:
      The anchors, this device's.

    Raises:
      ValueError: if shapes, the temperature or the similarity are not what they should be.
      TypeError: if embeddings are not floating point, ids not integers or `where` not bool.
    """
    sizes: dict[str, int] = {}
    z0 = check_embeddings("z0", z0, "N D", sizes)
    z1 = check_embeddings("z1", z1, "N D", sizes)
    check_scalar("temperature", temperature, above=0)
    where = check_where(where, sizes)
    rows = sizes["N"]
    # Equal row numbers mark an anchor itself and its partner; equal ids do that, and more.
    if ids is None:
        ids = row_numbers(rows, execution.axis_name)
    else:
        ids = check_integers("ids", ids, "N", sizes)
    anchors = jnp.concatenate([prepare(z0, similarity, where), prepare(z1, similarity, where)])
    both = jnp.tile(ids, 2)
    counts = None if where is None else jnp.tile(where, 2)
    return TwoViews(
        anchors=anchors,
        similarity=matched_similarity(z0, z1, similarity, where),
        ids=ids,
        pairs=Pairs(both, both, counts, counts),
        where=jnp.ones(rows, bool) if where is None else where,
    )
