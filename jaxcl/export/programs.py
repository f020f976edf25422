"""Encoders as programs that run without jaxcl."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from jaxcl.extras import import_extra

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def stablehlo(
    features: Callable[[jax.Array], Any],
    inputs: jax.ShapeDtypeStruct,
    *,
    platforms: Sequence[str] = PLATFORMS,
) -> bytes:
    """A function of a batch as StableHLO, for any number of examples.

    What the function has learned is within. It runs where jax is:
    `jax.export.deserialize(content).call(batch)`.

    Args:
      features: of inputs [N, ...].
      inputs: shape and type of one example.
      platforms: on which it is to run.

    Returns:
      What `jax.export.Exported.serialize` makes; jax promises to read it for six months at least.

    Raises:
      ImportError: where flatbuffers is not installed.
    """
    import_extra("flatbuffers", "stablehlo")
    (count,) = export.symbolic_shape("n")
    batch = jax.ShapeDtypeStruct((count, *inputs.shape), inputs.dtype)
    exported = export.export(jax.jit(lambda rows: jnp.asarray(features(rows))), platforms=platforms)
    return bytes(exported(batch).serialize())
