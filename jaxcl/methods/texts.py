"""Views that are texts: rows of tokens, integers, below 0 where no token stands."""

import jax
import jax.numpy as jnp


def is_text(view: jax.Array) -> bool:
    """Whether a view is of texts."""
    return jnp.issubdtype(view.dtype, jnp.integer)


def text_number(tokens: jax.Array) -> jax.Array:
    """A number of each text, by its tokens: the same for the same, however far padded, and for
    others the same once in some four thousand million times.

    Args:
      tokens: [N, T] integers, below 0 where none stands.

    Returns:
      [N] int32.
    """
    factors = jnp.cumprod(jnp.full(tokens.shape[1], 0x9E3779B1, jnp.uint32))  # odd, so invertible
    values = jnp.where(tokens >= 0, tokens + 1, 0).astype(jnp.uint32)
    mixed = (values * jnp.uint32(0x85EBCA6B)) ^ (values >> 3)
    number = jnp.sum(mixed * factors, axis=1, dtype=jnp.uint32)
    return jax.lax.bitcast_convert_type(number ^ (number >> 15), jnp.int32)


def blank(view: jax.Array, where: jax.Array | None) -> jax.Array:
    """A view with nothing in the rows that are not there, whatever filled them."""
    if where is None:
        return view
    nothing = -1 if is_text(view) else 0
    return jnp.where(where.reshape(-1, *(1,) * (view.ndim - 1)), view, nothing)
