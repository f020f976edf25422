"""Hyper-parameters that change with the progress of training."""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Cosine:
    """From `start` to `end` along half a cosine.

    Example:
      >>> print(f"{Cosine(0.99, 1.0)(0.5):.3f}")
      0.995
    """

    start: float
    """Value at the beginning of training."""
    end: float
    """Value at its end."""

    def __call__(self, progress: jax.Array | float) -> jax.Array:
        """The value at `progress`, the share of training done (0 to 1)."""
        return self.end - (self.end - self.start) * (jnp.cos(jnp.pi * progress) + 1) / 2


@dataclasses.dataclass(frozen=True)
class Linear:
    """From `start` to `end` in a line, within the first `until` of training; then `end`.

    Example:
      >>> print(f"{Linear(0.04, 0.07, until=0.1)(0.05):.3f}")
      0.055
    """

    start: float
    """Value at the beginning of training."""
    end: float
    """Value from `until` on."""
    until: float = 1.0
    """Share of training, above 0 and at most 1."""

    def __call__(self, progress: jax.Array | float) -> jax.Array:
        """The value at `progress`, the share of training done (0 to 1)."""
        return self.start + (self.end - self.start) * jnp.clip(progress / self.until, 0, 1)


def value_at(value: float | Cosine | Linear, progress: jax.Array | float) -> jax.Array | float:
    """A constant as it is, a schedule at `progress`."""
    return value(progress) if isinstance(value, Cosine | Linear) else value
