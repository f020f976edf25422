"""Target networks: slow averages of the online ones."""

from typing import Any

import jax
import jax.numpy as jnp


def start_target(params: Any) -> Any:
    """The online parameters, in buffers of their own (a donated step may not see one twice)."""
    return jax.tree.map(jnp.copy, params)


def move_target(target: Any, online: Any, momentum: jax.Array | float) -> Any:
    """momentum * target + (1 - momentum) * online, leaf by leaf (MoCo, He et al., 2020, eq. 2)."""
    return jax.tree.map(lambda old, new: momentum * old + (1 - momentum) * new, target, online)
