"""What XLA's compiler for CPU has to compute once, and not anew for each that reads it."""

import jax
import jax.extend
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir


def once(x: jax.Array) -> jax.Array:
    """`x`; on CPU it and its gradient are computed once and kept for all who read them.

    Other platforms' compilers know what to keep. That for CPU drops optimization barriers before it
    fuses operations, and computes `x` anew, value by value, in each that reads it. But it fuses
    nothing across a loop, and does not know that this one never turns, whatever `x` holds.
    """
    return x if is_followed(x) else _once.bind(x)


def is_followed(x: jax.Array) -> bool:
    """Whether jax's types say on which devices `x` lies or varies (explicit shardings, `shard_map`
    with `check_vma`), which they can for jax's own operations only."""
    kind = jax.typeof(x)
    varying = getattr(getattr(kind, "manual_axis_type", None), "varying", ())
    explicit = jax.sharding.AxisType.Explicit in kind.sharding.mesh.axis_types
    return explicit or bool(varying)


def _kept_by_a_loop(x: jax.Array) -> jax.Array:
    if not x.size or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return jax.lax.while_loop(lambda x: jnp.abs(x[(0,) * x.ndim]) > jnp.inf, jnp.negative, x)


def _kept(x: jax.Array) -> jax.Array:
    return jax.lax.platform_dependent(x, cpu=_kept_by_a_loop, default=lambda x: x)


# An operation of its own, so that gradients are kept as well.
_once = jax.extend.core.Primitive("once")
_once.def_impl(jax.jit(_kept))
_once.def_abstract_eval(lambda x: x)
ad.deflinear(_once, lambda gradient: [once(gradient)])
batching.defvectorized(_once)
mlir.register_lowering(_once, mlir.lower_fun(_kept, multiple_results=False))
