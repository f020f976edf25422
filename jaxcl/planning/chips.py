"""TPU chips and the slices that they come in; H100s and their hosts."""

import dataclasses
import difflib
import importlib.util
import math
import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jaxcl.training.errors import UserError

_GIB = 2**30
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_DEEP = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
_HOSTS = ("1", "2", "4", "8", "2x8", "4x8", "8x8", "16x8", "32x8", "64x8")


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a chip can do at most."""

    name: str
    flops: float
    """Multiplications and additions a second, of bfloat16."""
    memory: float
    """Bytes that a program may use, as the compiler says it."""
    memory_bandwidth: float
    """Bytes/s between chip and main memory (HBM)."""
    sending: float
    """Bytes/s that it can send over all its links to other chips of the slice, or of its host."""
    shapes: tuple[str, ...]
    """Slices of up to 512 chips."""
    source: str
    """Where the figures are from, but the memory's of TPUs."""
    device_kind: str = ""
    """What jax calls it."""
    per_host: int = 4
    """Chips of a machine."""
    sending_between_hosts: float | None = None
    """Bytes/s that it can send to chips of other hosts; None: as much as within."""

    @property
    def is_gpu(self) -> bool:
        """Whether the compiler for CUDA compiles for it."""
        return self.name == "h100"


_DOCS = "https://docs.cloud.google.com/tpu/docs/"
CHIPS = {
    chip.name: chip
    for chip in (
        # Sending: half of what is published as bidirectional; v4 by its links, 6 of 50 GB/s.
        Chip("v4", 275e12, 30.75 * _GIB, 1.2e12, 300e9, _DEEP, _DOCS + "v4", "TPU v4"),
        Chip("v5e", 197e12, 15.75 * _GIB, 819e9, 200e9, _FLAT, _DOCS + "v5e", "TPU v5 lite"),
        Chip("v5p", 459e12, 95.73 * _GIB, 2.765e12, 600e9, _DEEP, _DOCS + "v5p", "TPU v5"),
        Chip("v6e", 918e12, 31.24 * _GIB, 1.638e12, 400e9, _FLAT, _DOCS + "v6e", "TPU v6 lite"),
        # Three quarters of its memory, what jax takes by itself; one 400 Gbit/s adapter for each.
        Chip(
            name="h100",
            flops=989.4e12,
            memory=0.75 * 80e9,
            memory_bandwidth=3.35e12,
            sending=450e9,
            shapes=_HOSTS,
            source="https://www.nvidia.com/en-us/data-center/h100/ (SXM, dense)",
            device_kind="NVIDIA H100 80GB HBM3",
            per_host=8,
            sending_between_hosts=50e9,
        ),
    )
}


def chip_of(device_kind: str) -> Chip | None:
    """The chip that jax calls so, as in `jax.devices()[0].device_kind`; None: not known here."""
    return next((chip for chip in CHIPS.values() if chip.device_kind == device_kind), None)


# What XLA's compiler asks about a GPU, as XLA describes an H100 SXM.
_H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 10 patch: 0 }
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: 84978434048
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
}
"""


@dataclasses.dataclass(frozen=True)
class Slice:
    """Chips that are wired together; one chip is one device."""

    chip: Chip
    shape: str
    """Such as 4x4; of GPUs, how many, or hosts x GPUs."""

    @property
    def name(self) -> str:
        """Such as v5e:4x4."""
        return f"{self.chip.name}:{self.shape}"

    @property
    def chips(self) -> int:
        """How many there are."""
        return math.prod(map(int, self.shape.split("x")))

    @property
    def hosts(self) -> int:
        """Machines that the chips are in."""
        return max(1, self.chips // self.chip.per_host)

    @property
    def sending(self) -> float:
        """Bytes/s that a chip can send to all others at once."""
        between = self.chip.sending_between_hosts
        return self.chip.sending if between is None or self.hosts == 1 else between

    def devices(self) -> tuple[Any, ...]:
        """The devices to compile for; none of them is there.

        Raises:
          UserError: where the compiler is not installed.
        """
        return self._gpus() if self.chip.is_gpu else self._tpus()

    def _gpus(self) -> tuple[Any, ...]:
        wanted = version("jax")
        try:
            version("jax-cuda13-plugin")
        except PackageNotFoundError:
            raise UserError(
                "jax's CUDA plugin, the compiler for H100, is not installed: pip install "
                f'"jax-cuda13-plugin=={wanted}" "jax-cuda13-pjrt=={wanted}"'
            ) from None
        from jax.experimental import topologies

        described = topologies.get_topology_desc(
            "h100",
            "cuda",
            target_config=_H100,
            topology=f"1x{self.hosts}x{min(self.chips, self.chip.per_host)}",
        )
        return tuple(described.devices)

    def _tpus(self) -> tuple[Any, ...]:
        if importlib.util.find_spec("libtpu") is None:
            raise UserError(
                'libtpu, the compiler for TPU, is not installed: pip install "jaxcl[plan]"'
            )
        # What it would ask of the machine, were this one a TPU's host.
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip is touched
        from jax.experimental import topologies

        # v4 has two cores a chip, which act as one device as v5p's do.
        options = {"chip_config_name": "megacore"} if self.chip.name == "v4" else {}
        return tuple(topologies.get_topology_desc(self.name, "tpu", **options).devices)


def find_slice(name: str) -> Slice:
    """A slice by its name, such as v5e:4x4.

    Raises:
      UserError: where there is none, naming the nearest.
    """
    kind, _, shape = name.strip().lower().partition(":")
    chip = CHIPS.get(kind) or CHIPS.get(next(iter(difflib.get_close_matches(kind, CHIPS)), ""))
    if chip is None:
        raise UserError(f"--topology {name}: expected CHIP:SHAPE of {', '.join(CHIPS)}")
    if shape not in chip.shapes or kind != chip.name:
        sides = [int(side) for side in shape.split("x") if side.isdecimal()]
        wanted = math.log(max(1, math.prod(sides, start=1)))
        nearest = min(chip.shapes, key=lambda each: abs(math.log(Slice(chip, each).chips) - wanted))
        if shape in chip.shapes:
            nearest = shape
        raise UserError(
            f"there is no slice {name}; the nearest is {chip.name}:{nearest}. {chip.name} comes "
            f"as {', '.join(chip.shapes)}"
        )
    return Slice(chip, shape)
