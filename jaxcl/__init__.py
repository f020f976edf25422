"""Contrastive representation learning in JAX and Flax.

Submodules load on first use, so that `from jaxcl import losses` pays for jax alone.
"""

import importlib
from types import ModuleType

__version__ = "0.1.0"

_SUBMODULES = (
    "augment",
    "data",
    "encoders",
    "evaluation",
    "export",
    "losses",
    "memory",
    "methods",
    "planning",
    "pretrained",
    "similarity",
    "testing",
    "training",
)

__all__ = ["__version__", *_SUBMODULES]


def __getattr__(name: str) -> ModuleType:
    if name in _SUBMODULES:
        return importlib.import_module(f"jaxcl.{name}")
    raise AttributeError(f"module 'jaxcl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
