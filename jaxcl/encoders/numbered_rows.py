"""Random draws of networks that hang on the examples' numbers, not on their places in a batch."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl.encoders.drop_path import DropPath


def number_rows(rows: jax.Array) -> contextlib.AbstractContextManager[None]:
    """Within it, every drop path and flax `Dropout` draws by the rows' numbers instead of their
    places.

    So what a row draws is the same whichever rows it stands among: on any number of devices, and in
    micro-batches. Dropout of other rows than these, such as the cells of a map, is refused.

    Args:
      rows: [N] integers, the numbers of the inputs' rows.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> rows, rngs = jnp.arange(6), {"dropout": jax.random.key(0)}
      >>> def drop(rows):
      ...     inputs = jnp.ones((len(rows), 4))
      ...     with number_rows(rows):
      ...         return nn.Dropout(0.5, deterministic=False).apply({}, inputs, rngs=rngs)
      >>> bool((drop(rows)[3:] == drop(rows[3:])).all())
      True
    """

    def give(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if context.method_name == "__call__":
            if isinstance(module, DropPath):
                kwargs = {"rows": rows, **kwargs}
            elif isinstance(module, nn.Dropout):
                return _drop(module, rows, *args, **kwargs)
        return call(*args, **kwargs)

    return nn.intercept_methods(give)


@contextlib.contextmanager
def drop_nothing() -> Iterator[None]:
    """Within it, flax's `Dropout` passes all on, as drop path does without a stream to draw from:
    for networks that train but do not learn, such as targets."""

    def give(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, nn.Dropout) and context.method_name == "__call__":
            return args[0] if args else kwargs["inputs"]
        return call(*args, **kwargs)

    with nn.intercept_methods(give):
        yield


def _drop(
    module: nn.Dropout,
    rows: jax.Array,
    inputs: jax.Array,
    deterministic: bool | None = None,
    rng: jax.Array | None = None,
) -> jax.Array:
    """What flax's `Dropout` does, each row by a key of its own."""
    deterministic = nn.merge_param("deterministic", module.deterministic, deterministic)
    if deterministic or module.rate == 0:
        return inputs
    if module.rate == 1:
        return jnp.zeros_like(inputs)
    if len(inputs) != len(rows):
        raise ValueError(
            f"dropout got {len(inputs)} rows, expected the {len(rows)} that are numbered: let the "
            "network keep one row for each of its inputs"
        )
    key = module.make_rng(module.rng_collection) if rng is None else rng
    shape = list(inputs.shape)
    for axis in module.broadcast_dims:
        shape[axis] = 1
    if shape[0] != len(inputs):
        raise ValueError("dropout that drops the same of all rows cannot draw row by row")
    keep = 1 - module.rate

    def draw(row: jax.Array) -> jax.Array:
        return jax.random.bernoulli(jax.random.fold_in(key, row), keep, shape[1:])

    return jnp.where(jax.vmap(draw)(rows), inputs / keep, jnp.zeros_like(inputs))
