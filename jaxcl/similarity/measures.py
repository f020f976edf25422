"""What two embeddings' similarity is: their cosine, or their dot product."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxcl.similarity.checks import check_choice


def at_least_float32(array: jax.Array) -> jax.Array:
    """Widens bfloat16 and float16 to float32; float64 (where x64 is enabled) stays.

    Args:
      array: floating point, any shape.

    Returns:
      The same numbers in float32 or wider.
    """
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


@jax.custom_jvp
def l2_normalize(array: jax.Array) -> jax.Array:
    """Divides each row (the last axis) by its Euclidean length; a zero row stays zero.

    Rows are scaled by their largest entry before they are squared, so that no row over- or
    underflows.

    Args:
      array: [..., D], floating point.

    Returns:
      [..., D] rows of length 1, in float32 (float64 for float64). The gradient of a zero row, where
      the function has none, is zero.

    Example:
      >>> import jax.numpy as jnp
      >>> l2_normalize(jnp.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
      [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    array = at_least_float32(array)
    lengths = _lengths(array)
    return array / jnp.where(lengths == 0, 1, lengths)


@l2_normalize.defjvp
def _l2_normalize_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Written out, the gradient takes one pass over the rows and keeps nothing but them."""
    unit = l2_normalize(primals[0])
    change = tangents[0].astype(unit.dtype)
    along = jnp.sum(unit * change, axis=-1, keepdims=True)
    lengths = _lengths(at_least_float32(primals[0]))
    is_zero = lengths == 0
    return unit, jnp.where(is_zero, 0, (change - unit * along) / jnp.where(is_zero, 1, lengths))


def _lengths(array: jax.Array) -> jax.Array:
    """Euclidean lengths [..., 1] of rows."""
    largest = jnp.max(jnp.abs(array), axis=-1, keepdims=True)
    largest = jnp.where(largest == 0, 1, largest)
    return largest * jnp.sqrt(jnp.sum(jnp.square(array / largest), axis=-1, keepdims=True))


_PREPARE: dict[str, Callable[[jax.Array], jax.Array]] = {
    "cosine": l2_normalize,
    "dot": at_least_float32,
}


def prepare(array: jax.Array, similarity: str, where: jax.Array | None = None) -> jax.Array:
    """Turns raw embeddings into rows whose dot products are the similarities.

    Args:
      array: [N, ..., D] raw embeddings, any float dtype.
      similarity: "cosine", or "dot" for embeddings that are to be taken as they are.
      where: [N] bool. Rows that do not count become zero before anything is computed of them, so
        that what they hold, NaN included, reaches neither a value nor a gradient.

    Returns:
      [N, ..., D] in float32.

    Raises:
      ValueError: if there is no such similarity.
    """
    check_choice("similarity", similarity, _PREPARE)

    def prepared(array: jax.Array) -> jax.Array:
        if where is not None:
            array = jnp.where(where.reshape(-1, *[1] * (array.ndim - 1)), array, 0)
        return _PREPARE[similarity](array)

    # The backward pass prepares anew: between the passes nothing but the inputs is kept.
    return jax.checkpoint(prepared)(array)


def matched_similarity(
    queries: jax.Array, keys: jax.Array, similarity: str, where: jax.Array | None = None
) -> jax.Array:
    """The similarity of each raw query to its own raw key, as of a positive pair.

    Args:
      queries: [N, D] raw embeddings.
      keys: [N, D]; row i goes with query i.
      similarity: as in `prepare`.
      where: as in `prepare`.

    Returns:
      [N], float32; 0 where `where` is False.
    """

    def matched(queries: jax.Array, keys: jax.Array) -> jax.Array:
        return row_similarity(prepare(queries, similarity, where), prepare(keys, similarity, where))

    # Computed anew in the backward pass, so that no prepared copy is kept for it.
    return jax.checkpoint(matched)(queries, keys)


def row_similarity(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """The dot product of each query with its own key.

    Args:
      queries: [..., D], prepared.
      keys: [..., D], prepared; broadcast against queries.

    Returns:
      [...] similarities.
    """
    return jnp.sum(queries * keys, axis=-1)
