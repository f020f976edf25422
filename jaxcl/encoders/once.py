"""What XLA's compiler for CPU has to compute once, and not anew for each that reads it."""

import jax
import jax.extend
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir


def once(x: jax.Array) -> jax.Array:
    """`x`; on CPU it and its gradient are computed once and kept for all who read them.

    Other platforms' compilers know what to keep. That for CPU drops optimization barriers before it
    fuses operations, and computes `x` anew, value by value, in each that reads it; but nothing is
    fused across a loop, and it cannot know that this one never turns.
    """
    return _once.bind(x)


def _kept_by_a_loop(x: jax.Array) -> jax.Array:
    if not x.size:
        return x
    return jax.lax.while_loop(lambda x: jnp.abs(x[(0,) * x.ndim]) < 0, jnp.negative, x)


def _itself(x: jax.Array) -> jax.Array:
    return x


# An operation of its own, so that gradients are kept as well.
_once = jax.extend.core.Primitive("once")
_once.def_impl(jax.jit(_once.bind))
_once.def_abstract_eval(_itself)
ad.deflinear(_once, lambda gradient: [once(gradient)])
batching.defvectorized(_once)
mlir.register_lowering(_once, mlir.lower_fun(_itself, multiple_results=False))
mlir.register_lowering(_once, mlir.lower_fun(_kept_by_a_loop, multiple_results=False), "cpu")
