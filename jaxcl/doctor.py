"""What jaxcl finds on a machine: devices, versions, speed, and what to change."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxcl.data.batches import available_cores
from jaxcl.planning.chips import chip_of
from jaxcl.training.devices import device_memory

_PACKAGES = (
    "jaxcl",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "libtpu",
    "jax-cuda13-plugin",
    "jax-cuda12-plugin",
)
_HURTS = {
    "JAX_DISABLE_JIT": "runs every operation by itself",
    "JAX_DEBUG_NANS": "runs every program that finds a NaN again, operation by operation",
    "JAX_ENABLE_CHECKS": "checks jax's own inner workings",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "compiles without most optimizations",
    "JAX_ENABLE_X64": "makes float64 out of what is not said to be float32",
    "XLA_PYTHON_CLIENT_ALLOCATOR": "if it is 'platform', asks the driver for every array",
}
_OFF = ("", "0", "false", "no", "off")


def examine(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Looks at this machine; takes some seconds, on every kind of device.

    Args:
      environment: environment variables.

    Returns:
      Plain values: versions, devices, memory in bytes, speeds in operations or bytes a second, and
      `advice`, what to change, in words.
    """
    device = jax.devices()[0]
    cores = available_cores()
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "versions": _versions(),
        "platform": device.platform,
        "device_kind": device.device_kind,
        "devices": jax.device_count(),
        "cores": cores,
        "memory": device_memory(device),
        "flags": {
            name: environment[name] for name in ("XLA_FLAGS", *_HURTS) if name in environment
        },
        "matmul_flops": {
            dtype: _matmul_flops(dtype, 2048 if device.platform == "cpu" else 8192)
            for dtype in ("float32", "bfloat16")
        },
        "copy_bytes": _copy_bytes(2**26 if device.platform == "cpu" else 2**29),
    }
    chip = chip_of(device.device_kind)
    if chip is not None:
        found["peak_flops"], found["peak_bytes"] = chip.flops, chip.memory_bandwidth
    return found | {"advice": _advice(found, environment)}


def report(found: Mapping[str, Any]) -> str:
    """`examine`'s findings as text."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    speeds = found["matmul_flops"]
    peak = found.get("peak_flops")

    def of_peak(speed: float, most: float | None) -> str:
        return "" if most is None else f" ({speed / most:.0%} of the peak)"

    lines = [
        f"devices   {found['devices']} {found['platform']} ({found['device_kind']}), "
        f"{found['cores']} cores to use on the host",
        f"memory    {found['memory'] / 1e9:.1f} GB"
        + (" a device" if found["platform"] != "cpu" else ""),
        f"versions  Python {found['python']}, {versions}",
        f"product   of matrices: float32 {speeds['float32'] / 1e12:.2f} TFLOP/s, bfloat16 "
        f"{speeds['bfloat16'] / 1e12:.2f} TFLOP/s" + of_peak(speeds["bfloat16"], peak),
        f"copying   {found['copy_bytes'] / 1e9:.1f} GB/s read and written"
        + of_peak(found["copy_bytes"], found.get("peak_bytes")),
    ]
    lines += [f"flag      {name}={value}" for name, value in found["flags"].items()]
    lines += [f"change    {advice}" for advice in found["advice"]] or ["change    nothing"]
    return "\n".join(lines)


def _advice(found: Mapping[str, Any], environment: Mapping[str, str]) -> list[str]:
    advice = [
        f"{name} {what}: unset it, but to look for a bug"
        for name, what in _HURTS.items()
        if environment.get(name, "").lower() not in _OFF
        and (name != "XLA_PYTHON_CLIENT_ALLOCATOR" or environment[name] == "platform")
    ]
    versions = found["versions"]
    accelerators = [name for name in versions if name.startswith("jax-cuda") or name == "libtpu"]
    if found["platform"] == "cpu" and accelerators:
        why = (
            "JAX_PLATFORMS says so"
            if "cpu" in environment.get("JAX_PLATFORMS", "")
            else "jax found no device for it: look at its first error"
        )
        advice.append(f"{accelerators[0]} is installed, but the CPU is used: {why}")
    if found["platform"] == "cpu" and found["devices"] > found["cores"]:
        advice.append(
            f"{found['devices']} CPU devices share {found['cores']} cores: good for a test, slower "
            "than one"
        )
    if versions.get("jax") != versions.get("jaxlib"):
        advice.append(
            f"jax is {versions.get('jax')}, jaxlib {versions.get('jaxlib')}: give both one version"
        )
    if "peak_flops" in found and found["matmul_flops"]["bfloat16"] < found["peak_flops"] / 2:
        advice.append("matrix products reach less than half of the chip's peak: is it shared?")
    if found["memory"] < 4e9:
        advice.append(f"{found['memory'] / 1e9:.1f} GB are little: set --run.micro-batch")
    return advice


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _matmul_flops(dtype: str, size: int) -> float:
    matrix = jnp.ones((size, size), dtype)
    return 2 * size**3 / _seconds(jax.jit(jnp.matmul), matrix, matrix)


def _copy_bytes(count: int) -> float:
    values = jnp.ones((count // 4,), jnp.float32)
    return 2 * count / _seconds(jax.jit(lambda x: x + 1), values)


def _seconds(function: Callable[..., jax.Array], *arguments: jax.Array) -> float:
    """The best of five, after one that compiles."""
    function(*arguments).block_until_ready()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        function(*arguments).block_until_ready()
        times.append(time.perf_counter() - start)
    return min(times)
