"""Losses over pairs of rows that are given, each a match or not."""

import jax
import jax.numpy as jnp

from jaxcl.losses.distances import euclidean
from jaxcl.losses.matched import only_counted
from jaxcl.similarity import prepare
from jaxcl.similarity.checks import (
    Scalar,
    check_embeddings,
    check_integers,
    check_scalar,
    check_shape,
    check_where,
)


def pair_margin(
    x: jax.Array,
    y: jax.Array,
    same: jax.Array,
    *,
    margin: Scalar,
    where: jax.Array | None = None,
) -> jax.Array:
    """The contrastive loss: matches together, others `margin` apart (Hadsell et al., 2006, eq. 4).

    d^2 for a match, max(0, margin - d)^2 for any other pair, d their Euclidean distance: twice the
    paper's, whose halves public implementations leave out. Embeddings are taken as they are.
    Two equal rows that are no match have a gradient of zero, for want of a direction.

    Args:
      x: [N, D] embeddings; gradients flow into both.
      y: [N, D]; row i is in a pair with row i of x.
      same: [N] bool, or integers of 0 and 1: whether the pair is a match.
      margin: > 0, in units of the distance; float or scalar array.
      where: [N] bool, rows that count, or None: all.

    Returns:
      [N] loss of each pair; 0 where `where` is False.

    Raises:
      ValueError: if shapes disagree or margin <= 0.
      TypeError: if embeddings are not floating point, `same` is neither bool nor integers, or
        `where` is not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> x, y = jnp.zeros((3, 2)), jnp.array([[3.0, 4.0], [3.0, 4.0], [0.0, 1.0]])
      >>> print(pair_margin(x, y, jnp.array([True, False, False]), margin=2.0))  # 5^2, 0, (2 - 1)^2
      [25.  0.  1.]
    """
    sizes: dict[str, int] = {}
    x = check_embeddings("x", x, "N D", sizes)
    y = check_embeddings("y", y, "N D", sizes)
    same = jnp.asarray(same)
    if same.dtype == jnp.bool_:
        check_shape("same", same, "N", sizes)
    else:
        same = check_integers("same", same, "N", sizes) != 0
    check_scalar("margin", margin, above=0)
    where = check_where(where, sizes)
    distance = euclidean(prepare(x, "dot", where), prepare(y, "dot", where))
    losses = jnp.square(jnp.where(same, distance, jax.nn.relu(margin - distance)))
    return only_counted(losses, where)
