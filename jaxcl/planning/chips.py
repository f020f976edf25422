"""TPU chips and the slices that they come in."""

import dataclasses
import difflib
import importlib.util
import math
import os
from typing import Any

from jaxcl.training.errors import UserError

_GIB = 2**30
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_DEEP = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")


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
    """Bytes/s that it can send over all its links to other chips of the slice."""
    shapes: tuple[str, ...]
    """Slices of up to 512 chips."""
    source: str
    """Where the figures are from, but the memory's."""


_DOCS = "https://docs.cloud.google.com/tpu/docs/"
CHIPS = {
    chip.name: chip
    for chip in (
        # Sending: half of what is published as bidirectional; v4 by its links, 6 of 50 GB/s.
        Chip("v4", 275e12, 30.75 * _GIB, 1.2e12, 300e9, _DEEP, _DOCS + "v4"),
        Chip("v5e", 197e12, 15.75 * _GIB, 819e9, 200e9, _FLAT, _DOCS + "v5e"),
        Chip("v5p", 459e12, 95.73 * _GIB, 2.765e12, 600e9, _DEEP, _DOCS + "v5p"),
        Chip("v6e", 918e12, 31.24 * _GIB, 1.638e12, 400e9, _FLAT, _DOCS + "v6e"),
    )
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """Chips that are wired together; one chip is one device."""

    chip: Chip
    shape: str
    """Such as 4x4."""

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
        """Machines that the chips are in, at four chips each."""
        return max(1, self.chips // 4)

    def devices(self) -> tuple[Any, ...]:
        """The devices to compile for; none of them is there.

        Raises:
          UserError: where the compiler is not installed.
        """
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
