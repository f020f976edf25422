"""Distances between rows, by name; each has a finite gradient everywhere."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxcl.similarity import at_least_float32, prepare, row_similarity
from jaxcl.similarity.checks import check_choice


def squared_euclidean(x: jax.Array, y: jax.Array) -> jax.Array:
    """The sum of squared differences.

    Args:
      x: [..., D].
      y: [..., D]; the two broadcast.

    Returns:
      [...], in float32.
    """
    return jnp.sum(jnp.square(at_least_float32(x) - at_least_float32(y)), axis=-1)


def euclidean(x: jax.Array, y: jax.Array) -> jax.Array:
    """The length of the difference. Between equal rows, where it has no gradient, that is zero.

    Args:
      x: [..., D].
      y: [..., D]; the two broadcast.

    Returns:
      [...], in float32.
    """
    return root(squared_euclidean(x, y))


def root(squared: jax.Array) -> jax.Array:
    """The square root, whose gradient at 0, where it has none, is 0."""
    is_zero = squared == 0
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squared)))


def cosine(x: jax.Array, y: jax.Array) -> jax.Array:
    """1 - cosine, from 0 (same direction) to 2; 1 where a row is zero.

    Args:
      x: [..., D].
      y: [..., D]; the two broadcast.

    Returns:
      [...], in float32.
    """
    return 1 - row_similarity(prepare(x, "cosine"), prepare(y, "cosine"))


DISTANCES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "euclidean": euclidean,
    "squared_euclidean": squared_euclidean,
    "cosine": cosine,
}


def distance_function(name: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The distance of that name.

    Args:
      name: a key of `DISTANCES`.

    Returns:
      A function of two arrays [..., D].

    Raises:
      ValueError: if there is none of that name; the nearest is suggested.
    """
    check_choice("distance", name, DISTANCES)
    return DISTANCES[name]
