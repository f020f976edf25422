"""Accumulation: the mean gradient of parts of a batch, each with a loss of its own."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcl.methods.gradient_cache import fold
from jaxcl.methods.method import Batch, Metrics, Params
from jaxcl.methods.micro_batches import LossAndGrad


def accumulated_loss_and_grad(loss_and_grad: LossAndGrad, *, parts: int) -> LossAndGrad:
    """Loss and gradient as means over parts of a batch, taken one after another.

    One update for several steps' worth of examples, in the memory of one. It is no substitute for a
    large batch: each part is contrasted within itself, so that negatives, batch statistics and all
    else that looks across a batch are those of a part (`cached_loss_and_grad` keeps the whole
    batch's). A queue takes in the keys of each part before the next one looks at it.

    Args:
      loss_and_grad: of a part.
      parts: how many; divides a device's batch. Every `parts`-th example is of one part, so that
        these are the same on any number of devices.

    Returns:
      As `loss_and_grad`; metrics are means too, the state is that after the last part. Part i draws
      by `jax.random.fold_in(key, i)`.

    Raises:
      ValueError: if `parts` does not divide the batch, while tracing.
    """

    def of_batch(
        params: Params,
        state: Any,
        batch: Batch,
        *,
        key: jax.Array,
        **options: Any,
    ) -> tuple[tuple[jax.Array, tuple[Any, Metrics]], Params]:
        chunks = jax.tree.map(lambda x: _every(x, parts), batch), jnp.arange(parts)

        def of_part(state: Any, part: tuple[Batch, jax.Array]) -> Any:
            own, number = part
            return loss_and_grad(params, state, own, key=jax.random.fold_in(key, number), **options)

        def advance(total: tuple[Any, Any], part: tuple[Batch, jax.Array]) -> tuple[Any, Any]:
            state, sums = total
            (loss, (state, metrics)), grads = of_part(state, part)
            found = (loss, metrics, grads)
            return state, jax.tree.map(lambda x, y: x + y.astype(x.dtype), sums, found)

        (loss, (_, metrics)), grads = jax.eval_shape(
            of_part, state, jax.tree.map(lambda x: x[0], chunks)
        )
        shapes = (loss, metrics, grads)
        # Many small numbers are added: in float32 also where parameters are narrower.
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), shapes
        )
        state, sums = fold(advance, (state, zeros), chunks, in_line_on_cpu=True)
        loss, metrics, grads = jax.tree.map(lambda x, y: (x / parts).astype(y.dtype), sums, shapes)
        return (loss, (state, metrics)), grads

    return of_batch


def _every(x: jax.Array, parts: int) -> jax.Array:
    """[N, ...] -> [parts, N / parts, ...], rows i, i + parts, ... in part i."""
    if len(x) % parts:
        raise ValueError(f"{parts} parts do not divide a device's batch of {len(x)} examples")
    return x.reshape(len(x) // parts, parts, *x.shape[1:]).swapaxes(0, 1)
