"""Miners: which pairs of a labelled batch are worth a loss, as masks.

Each takes embeddings and labels and returns `PairMasks` [N, G]; none has a gradient. Masks go into
the losses over labelled pairs as `pairs`. Those with at most one positive and one negative an
anchor (`hard_pairs`, `semi_hard_pairs`, `distance_weighted_pairs`) also go into losses over
triplets, as the rows they point at:

  pairs = hard_pairs(embeddings, labels)
  mined = mined_triplets(embeddings, pairs)
  triplet(embeddings, mined.positive, mined.negative, margin=0.2, where=mined.where)

Mine with the distance of the loss. With an `axis_name`, give it to both, as to `label_pairs`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcl.losses.pairwise import PairMasks, check_pairs, labelled_rows
from jaxcl.similarity import AxisName, axis_size, gather_rows, row_numbers
from jaxcl.similarity.checks import Scalar, check_embeddings, check_key, check_scalar


class MinedTriplets(NamedTuple):
    """The other two rows of each anchor's triplet.

    Attributes:
      positive: [N, D].
      negative: [N, D].
      where: [N] bool, anchors that have both; the rows of the others mean nothing.
    """

    positive: jax.Array
    negative: jax.Array
    where: jax.Array


def mined_triplets(
    embeddings: jax.Array, pairs: PairMasks, *, axis_name: AxisName | None = None
) -> MinedTriplets:
    """The rows that masks of at most one positive and one negative an anchor point at.

    Args:
      embeddings: [N, D]; gradients flow, across devices too.
      pairs: masks [N, G]; of several in a row of a mask the first is taken.
      axis_name: mapped axis whose other devices' rows the masks may point at.

    Returns:
      What `triplet` and `distance_difference` want: positive, negative and where.

    Raises:
      ValueError: if shapes disagree or the axis name is unknown.
      TypeError: if embeddings are not floating point or masks not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcl.losses.triplet import triplet
      >>> rows = jnp.array([[0.0], [1.0], [1.5]])
      >>> pairs = hard_pairs(rows, jnp.array([0, 0, 1]))
      >>> mined = mined_triplets(rows, pairs)
      >>> print(triplet(rows, mined.positive, mined.negative, margin=1.0, where=mined.where))
      [0.5 1.5 0. ]
    """
    sizes: dict[str, int] = {}
    embeddings = check_embeddings("embeddings", embeddings, "N D", sizes)
    sizes["G"] = sizes["N"] * axis_size(axis_name)
    pairs = check_pairs(pairs, sizes)
    rows = gather_rows(embeddings, axis_name)
    found = [jnp.any(mask, axis=1) for mask in pairs]
    positive, negative = (rows[jnp.argmax(mask, axis=1)] for mask in pairs)
    return MinedTriplets(positive, negative, found[0] & found[1])


def _largest(values: jax.Array, mask: jax.Array) -> jax.Array:
    """The mask, reduced to the largest value [N, G] of each row; the first of equal ones."""
    largest = jnp.argmax(jnp.where(mask, values, -jnp.inf), axis=1, keepdims=True)
    return mask & (jnp.arange(mask.shape[1]) == largest)


def _drawn(
    key: jax.Array, log_weights: jax.Array, mask: jax.Array, axis_name: AxisName | None
) -> jax.Array:
    """The mask, reduced to one of each row, drawn by weights [N, G] given as logarithms.

    An anchor draws by its global number: the same whatever the devices, other than its neighbours.
    """
    numbers = row_numbers(len(mask), axis_name)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, mask.shape[1:]))(keys)
    return _largest(log_weights + noise, mask)


def hard_pairs(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    distance: str = "euclidean",
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
) -> PairMasks:
    """Batch hard: the farthest positive and the nearest negative (Hermans et al., 2017, sec. 2).

    Args:
      embeddings: [N, D]; the Euclidean distances take them as they are.
      labels: [N] integers, the rows' classes.
      distance: "euclidean", "squared_euclidean" or "cosine" (1 - cosine).
      axis_name: mapped axis whose other devices' rows are candidates too.
      where: [N] bool, rows that count, or None: all.

    Returns:
      Masks [N, G] with at most one positive and one negative an anchor: none where it has no
      candidate or `where` is False.

    Raises:
      ValueError: if shapes disagree, or distance or axis name are unknown.
      TypeError: if embeddings are not floating point, labels not integers or `where` not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> rows = jnp.array([[0.0], [1.0], [2.0], [4.0], [3.0]])
      >>> positives, negatives = hard_pairs(rows, jnp.array([0, 0, 0, 1, 1]))
      >>> print(positives[0].astype(int), negatives[0].astype(int))
      [0 0 1 0 0] [0 0 0 0 1]
    """
    rows = labelled_rows(embeddings, labels, None, axis_name, where)
    distances = rows.distances(distance, axis_name)
    return PairMasks(
        _largest(distances, rows.pairs.positives), _largest(-distances, rows.pairs.negatives)
    )


def semi_hard_pairs(
    key: jax.Array,
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    margin: Scalar | None = None,
    distance: str = "squared_euclidean",
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
) -> PairMasks:
    """Semi-hard: the nearest negative that is farther than the positive (Schroff et al., 2015).

    The paper (section 3.2, eq. 4) takes every positive of an anchor in turn; here one is drawn,
    which is the same in expectation.

    Args:
      key: draws the positives; the same on every device.
      embeddings: [N, D]; the Euclidean distances take them as they are, the paper's are normalized.
      labels: [N] integers, the rows' classes.
      margin: the negative is nearer than the positive's distance plus this, > 0; float or scalar
        array. None: any distance; triplets beyond the margin of the loss add 0 to it.
      distance: "squared_euclidean", the paper's; "euclidean" or "cosine" (1 - cosine).
      axis_name: mapped axis whose other devices' rows are candidates too.
      where: [N] bool, rows that count, or None: all.

    Returns:
      Masks [N, G] with at most one positive and one negative an anchor: no positive where it has
      none or `where` is False, no negative where none is semi-hard.

    Raises:
      ValueError: if shapes disagree, margin <= 0, or distance or axis name are unknown.
      TypeError: if embeddings are not floating point, labels not integers, `where` not bool or
        `key` not a key.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> rows, labels = jnp.array([[0.0], [2.0], [1.0], [2.5]]), jnp.array([0, 0, 1, 1])
      >>> _, negatives = semi_hard_pairs(jax.random.key(0), rows, labels)
      >>> print(negatives[0].astype(int))  # 1.0 is nearer than the positive
      [0 0 0 1]
    """
    check_key(key)
    if margin is not None:
        check_scalar("margin", margin, above=0)
    rows = labelled_rows(embeddings, labels, None, axis_name, where)
    distances = rows.distances(distance, axis_name)
    positives = _drawn(key, jnp.zeros_like(distances), rows.pairs.positives, axis_name)
    to_positive = jnp.max(jnp.where(positives, distances, -jnp.inf), axis=1, keepdims=True)
    farther = (distances > to_positive) & ~jnp.isneginf(to_positive)
    if margin is not None:
        farther &= distances < to_positive + margin
    return PairMasks(positives, _largest(-distances, rows.pairs.negatives & farther))


def distance_weighted_pairs(
    key: jax.Array,
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    smallest: Scalar = 0.5,
    largest: Scalar = 1.4,
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
) -> PairMasks:
    """Distance-weighted: negatives drawn evenly over distances (Wu et al., 2017, section 4).

    A negative at distance d of the unit sphere in D dimensions is drawn by the inverse of how
    common that distance is among random points, d^(D-2) (1 - d^2/4)^((D-3)/2), taken at no less
    than `smallest`. The positive is drawn evenly, where the paper takes each in turn. The defaults
    are those of the authors' code.

    Args:
      key: draws; the same on every device.
      embeddings: [N, D], normalized here.
      labels: [N] integers, the rows' classes.
      smallest: nearer negatives weigh as if at this distance; float or scalar array, > 0.
      largest: farther negatives are not drawn; float or scalar array, > 0, at most 2.
      axis_name: mapped axis whose other devices' rows are candidates too.
      where: [N] bool, rows that count, or None: all.

    Returns:
      Masks [N, G] with at most one positive and one negative an anchor: no positive where it has
      none, no negative where all are beyond `largest`, none of both where `where` is False. For
      all positives with the drawn negative, `label_pairs(labels)._replace(negatives=...)`.

    Raises:
      ValueError: if shapes disagree, a distance is out of range or the axis name is unknown.
      TypeError: if embeddings are not floating point, labels not integers, `where` not bool or
        `key` not a key.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> rows, labels = jnp.array([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0], [1.0, 1.0]]), jnp.arange(4)
      >>> _, negatives = distance_weighted_pairs(jax.random.key(0), rows, labels)
      >>> print(bool(negatives[0, 1] | negatives[0, 3]), bool(negatives[0, 2]))  # 2 is too far
      True False
    """
    check_key(key)
    check_scalar("smallest", smallest, above=0)
    check_scalar("largest", largest, above=0, at_most=2)
    rows = labelled_rows(embeddings, labels, None, axis_name, where)
    squared = jnp.maximum(2 * rows.distances("cosine", axis_name), 0)
    width = rows.embeddings.shape[1]
    clipped = jnp.maximum(squared, jnp.square(smallest))
    on_cap = jnp.maximum(1 - clipped / 4, jnp.finfo(squared.dtype).tiny)
    rarity = -(width - 2) / 2 * jnp.log(clipped) - (width - 3) / 2 * jnp.log(on_cap)
    near = rows.pairs.negatives & (squared <= jnp.square(largest))
    for_positive, for_negative = jax.random.split(key)
    return PairMasks(
        _drawn(for_positive, jnp.zeros_like(squared), rows.pairs.positives, axis_name),
        _drawn(for_negative, rarity, near, axis_name),
    )


def multi_similarity_pairs(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    epsilon: Scalar = 0.1,
    similarity: str = "cosine",
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
) -> PairMasks:
    """The mining of multi-similarity: pairs that are hard for their anchor (Wang et al., 2019).

    Negatives more similar than the least similar positive less `epsilon`, and positives less
    similar than the most similar negative plus `epsilon`.

    Args:
      embeddings: [N, D].
      labels: [N] integers, the rows' classes.
      epsilon: float or scalar array.
      similarity: "cosine", or "dot" for embeddings that are normalized already.
      axis_name: mapped axis whose other devices' rows are candidates too.
      where: [N] bool, rows that count, or None: all.

    Returns:
      Masks [N, G], any number an anchor; none where it has no positive or no negative, or `where`
      is False. They are for `pairs` of `multi_similarity`, `circle` and `lifted_structure`.

    Raises:
      ValueError: if shapes disagree, or similarity or axis name are unknown.
      TypeError: if embeddings are not floating point, labels not integers or `where` not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> rows = jnp.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.2]])
      >>> positives, negatives = multi_similarity_pairs(rows, jnp.array([0, 0, 1, 1]))
      >>> print(positives[0].astype(int), negatives[0].astype(int))
      [0 1 0 0] [0 0 0 1]
    """
    check_scalar("epsilon", epsilon)
    rows = labelled_rows(embeddings, labels, None, axis_name, where)
    similarities = rows.similarities(similarity, axis_name)
    positives, negatives = rows.pairs
    least = jnp.min(jnp.where(positives, similarities, jnp.inf), axis=1, keepdims=True)
    most = jnp.max(jnp.where(negatives, similarities, -jnp.inf), axis=1, keepdims=True)
    return PairMasks(
        positives & (similarities < most + epsilon), negatives & (similarities > least - epsilon)
    )
