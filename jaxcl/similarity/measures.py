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


def l2_normalize(array: jax.Array) -> jax.Array:
    """Divides each row (the last axis) by its Euclidean length; a zero row stays zero.

    Rows are scaled by their largest entry before they are squared, so that no row over- or
    underflows. The scale carries no gradient, and needs none: the result does not depend on it.

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
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(array), axis=-1, keepdims=True))
    is_zero = largest == 0
    array = array / jnp.where(is_zero, 1, largest)
    squares = jnp.sum(jnp.square(array), axis=-1, keepdims=True)
    return jnp.where(is_zero, 0, array / jnp.sqrt(jnp.where(is_zero, 1, squares)))


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


def row_similarity(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """The dot product of each query with its own key.

    Args:
      queries: [..., D], prepared.
      keys: [..., D], prepared; broadcast against queries.

    Returns:
      [...] similarities.
    """
    return jnp.sum(queries * keys, axis=-1)
