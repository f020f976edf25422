"""Everything a run is, as one tree of arrays."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcl import memory
from jaxcl.methods import Batch, Method


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ProbeState:
    """State of the online probes."""

    head: dict[str, jax.Array]
    """Kernel [F, C] and bias [C] of the linear classifier."""
    optimizer: Any
    """The state of its own optax transformation."""
    queue: memory.Queue
    """Past features, unit rows, with the labels and numbers of their examples."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The whole state of a run; the position in the data is `step`."""

    step: jax.Array
    """Steps done, a scalar int32."""
    key: jax.Array
    """The run's raw random key, from which every step's is derived."""
    params: dict[str, Any]
    """Parameters of the online networks."""
    method: Any
    """The method's state: batch statistics, target networks, memory."""
    optimizer: Any
    """The state of the optax transformation."""
    probe: ProbeState | None = None
    """The state of the online probes, where there are any."""


def init_state(
    method: Method, optimizer: optax.GradientTransformation, batch: Batch, *, seed: int | jax.Array
) -> TrainState:
    """The state before the first step.

    Args:
      method: the method.
      optimizer: an optax transformation.
      batch: views of the shapes to come.
      seed: decides parameters, views and all else that is random.

    Raises:
      ValueError: if the method's own state is no pytree of arrays.
    """
    init_key, run_key = jax.random.split(jax.random.key(seed))
    params, method_state = method.init(init_key, batch)
    for leaf in jax.tree.leaves(method_state):
        if not hasattr(leaf, "dtype"):
            raise ValueError(
                f"{type(method).__name__}.init returned a state with {type(leaf).__name__} in it, "
                "expected arrays: have a class registered by jax.tree_util.register_dataclass, and "
                "numbers made arrays"
            )
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        key=jax.random.key_data(run_key),
        params=params,
        method=method_state,
        optimizer=optimizer.init(params),
    )


def name_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their path, such as `params/encoder/conv1/kernel`."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {path_name(path): leaf for path, leaf in leaves}


def path_name(path: tuple[Any, ...]) -> str:
    """A path of jax's as such a name."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
