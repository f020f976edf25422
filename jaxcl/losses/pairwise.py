"""Every row against the rows of all devices: their distances, and masks that say which pairs count.

What is here is [N, G]: N rows of this device, G rows of all devices, device after device.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcl.losses.distances import DISTANCES, root, squared_euclidean
from jaxcl.similarity import AxisName, Pairs, axis_size, gather_rows, prepare, row_numbers
from jaxcl.similarity.checks import (
    check_choice,
    check_embeddings,
    check_integers,
    check_mask,
    check_where,
)
from jaxcl.similarity.rows import similarity_logits


class PairMasks(NamedTuple):
    """Which pairs count, of all there are between N anchors and the G rows of all devices.

    Attributes:
      positives: [N, G] bool, pairs to be pulled together.
      negatives: [N, G] bool, pairs to be pushed apart.
    """

    positives: jax.Array
    negatives: jax.Array


class LabelledRows(NamedTuple):
    """What a loss over labelled pairs is given, checked.

    Attributes:
      embeddings: [N, D], raw.
      where: [N] bool, or None: all rows count.
      pairs: masks [N, G] of the pairs that count.
    """

    embeddings: jax.Array
    where: jax.Array | None
    pairs: PairMasks

    def similarities(self, similarity: str, axis_name: AxisName | None) -> jax.Array:
        """[N, G] cosines or dot products."""
        rows = prepare(self.embeddings, similarity, self.where)
        return similarity_logits(rows, gather_rows(rows, axis_name), None, Pairs())

    def distances(self, distance: str, axis_name: AxisName | None) -> jax.Array:
        """[N, G], by a name of `jaxcl.losses.distances`."""
        return distances_to_all(self.embeddings, distance, axis_name, self.where)


def distances_to_all(
    rows: jax.Array, distance: str, axis_name: AxisName | None, where: jax.Array | None = None
) -> jax.Array:
    """Distances [N, G] of rows [N, D] to those of all devices, by a name of
    `jaxcl.losses.distances`; rows that do not count are zero."""
    check_choice("distance", distance, DISTANCES)
    if distance == "cosine":
        rows = prepare(rows, "cosine", where)
        return 1 - similarity_logits(rows, gather_rows(rows, axis_name), None, Pairs())
    rows = prepare(rows, "dot", where)
    squared = _squared_distances(rows, gather_rows(rows, axis_name))
    return squared if distance == "squared_euclidean" else root(squared)


@jax.custom_vjp
def _squared_distances(rows: jax.Array, others: jax.Array) -> jax.Array:
    """[N, G], for rows [N, D] and others [G, D].

    The value is that of differences: |x|^2 + |y|^2 - 2 xy is rounding where rows are close. The
    gradient is formed of products: of differences it would hold all [N, G, D].
    """
    return squared_euclidean(rows[:, None], others)


def _squared_distances_forward(
    rows: jax.Array, others: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _squared_distances(rows, others), (rows, others)


def _squared_distances_backward(
    residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    rows, others = residuals
    center = jnp.mean(others, axis=0)  # it cancels; taken out, so that no offset is rounded
    rows, others = rows - center, others - center

    def summed(cotangent: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
        """The sum over j of 2 c_ij (x_i - y_j), [N, D]."""
        of_others = jnp.matmul(cotangent, y, precision=jax.lax.Precision.HIGHEST)
        return 2 * (jnp.sum(cotangent, axis=1)[:, None] * x - of_others)

    return summed(cotangent, rows, others), summed(cotangent.T, others, rows)


_squared_distances.defvjp(_squared_distances_forward, _squared_distances_backward)


def label_pairs(
    labels: jax.Array, *, axis_name: AxisName | None = None, where: jax.Array | None = None
) -> PairMasks:
    """All pairs: positives are rows of one label, but for the row itself; negatives the others.

    Args:
      labels: [N] integers.
      axis_name: mapped axis whose other devices' rows are in pairs too.
      where: [N] bool, rows that count, or None: all. The others are in no pair.

    Returns:
      Masks [N, G], G the rows of all devices.

    Raises:
      ValueError: if shapes disagree or the axis name is unknown.
      TypeError: if labels are not integers or `where` is not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> positives, negatives = label_pairs(jnp.array([5, 5, 7]))
      >>> print(positives.astype(int).tolist())
      [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
      >>> print(negatives.astype(int).tolist())
      [[0, 0, 1], [0, 0, 1], [1, 1, 0]]
    """
    sizes: dict[str, int] = {}
    labels = check_integers("labels", labels, "N", sizes)
    where = check_where(where, sizes)
    numbers = row_numbers(sizes["N"], axis_name)
    same = labels[:, None] == gather_rows(labels, axis_name)
    counts = numbers[:, None] != gather_rows(numbers, axis_name)
    if where is not None:
        counts &= where[:, None] & gather_rows(where, axis_name)
    return PairMasks(same & counts, ~same & counts)


def labelled_rows(
    embeddings: jax.Array,
    labels: jax.Array,
    pairs: PairMasks | None,
    axis_name: AxisName | None,
    where: jax.Array | None,
) -> LabelledRows:
    """Checks the arguments of a loss or a miner over labelled pairs.

    Args:
      embeddings: [N, D].
      labels: [N] integers.
      pairs: masks [N, G]; pairs outside them do not count. None: all do.
      axis_name: mapped axis whose other devices' rows are in pairs too.
      where: [N] bool, rows that count, or None: all.

    Returns:
      The rows and the pairs that count.

    Raises:
      ValueError: if shapes disagree or the axis name is unknown.
      TypeError: if embeddings are not floating point, labels not integers or masks not bool.
    """
    sizes: dict[str, int] = {}
    embeddings = check_embeddings("embeddings", embeddings, "N D", sizes)
    labels = check_integers("labels", labels, "N", sizes)
    where = check_where(where, sizes)
    sizes["G"] = sizes["N"] * axis_size(axis_name)
    masks = label_pairs(labels, axis_name=axis_name, where=where)
    if pairs is not None:
        given = check_pairs(pairs, sizes)
        masks = PairMasks(masks.positives & given.positives, masks.negatives & given.negatives)
    return LabelledRows(embeddings, where, masks)


def check_pairs(pairs: PairMasks, sizes: dict[str, int]) -> PairMasks:
    """Returns the masks as arrays, known to be boolean and [N, G].

    Args:
      pairs: `PairMasks`, or two masks in their order.
      sizes: as in `jaxcl.similarity.checks.check_shape`.

    Returns:
      The masks.

    Raises:
      TypeError: if they are not two, or not boolean.
      ValueError: if their shape is another.
    """
    if not isinstance(pairs, tuple) or len(pairs) != 2:
        raise TypeError(
            f"pairs is a {type(pairs).__name__}, expected PairMasks, as miners and label_pairs "
            "return: masks of positives and of negatives"
        )
    positives, negatives = pairs
    return PairMasks(
        check_mask("pairs.positives", positives, "N G", sizes),
        check_mask("pairs.negatives", negatives, "N G", sizes),
    )
