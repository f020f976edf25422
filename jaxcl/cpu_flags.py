"""Compiler flags that make the CPU faster, for the command line and the benchmarks to set."""

import importlib.metadata
import os

_FLAG = "--xla_cpu_experimental_ynn_fusion_type"


def prefer_fast_convolutions() -> None:
    """Turns off XLA's slower kernel library for convolutions on CPU.

    Call it before jax is imported. It changes XLA_FLAGS, so importing jaxcl never does it; a flag
    that is set already stays. Only the versions of jax that know the flag get it, for XLA aborts at
    one it does not know.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    version = tuple(int(part) for part in importlib.metadata.version("jaxlib").split(".")[:2])
    if _FLAG not in flags and (0, 10) <= version < (0, 13):
        os.environ["XLA_FLAGS"] = f"{flags} {_FLAG}=".strip()
