"""Collectives of a compiled program, read from its text."""

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence

from jaxcl.planning.hlo import Instruction, array_sizes, read_instructions

_KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)

_KERNELS = {"convolution", "custom-call", "dot", "fusion"}


@dataclasses.dataclass(frozen=True)
class Collective:
    """An exchange between devices, as one device sees it."""

    kind: str
    """As XLA names it, such as all-reduce."""
    bytes: int
    """Of its result."""
    group: int
    """How many devices take part in each exchange; 0: all."""
    times: int
    """How often it runs in a call of the program."""
    beside: int
    """Kernels that run meanwhile: on TPU those that it is cut up and fused with, elsewhere those
    between its start and its end. 0: all wait for it."""
    source: str
    """The JAX operation that it came from, as far as the compiler kept it."""

    def sent(self, devices: int) -> float:
        """Bytes that a device has to send at least, all calls together."""
        others = 1 - 1 / (self.group or devices)
        share = {
            "all-reduce": 2 * others,
            "all-gather": others,
            "all-to-all": others,
            "reduce-scatter": (self.group or devices) - 1,
        }
        return self.times * self.bytes * share.get(self.kind, 1.0)


def find_collectives(text: str) -> list[Collective]:
    """The collectives of a compiled program.

    Args:
      text: `compiled.as_text()`.

    Returns:
      One for each exchange, those within loops with the number of their passes.
    """
    instructions = read_instructions(text)
    chains: dict[str, list[Collective]] = {}
    for place, each in enumerate(instructions):
        kind = each.kind.removesuffix("-start")
        if kind not in _KINDS:
            continue
        # TPU's compiler cuts one into a chain of fusions, each of which shows it whole.
        chain = re.search(r'chain_id="(\d+)"', each.rest)
        name = f"{kind} {chain[1]}" if chain else str(place)
        beside = 0 if kind == each.kind else _kernels_until_done(instructions[place:])
        chains.setdefault(name, []).append(_collective(each, kind, beside))
    return [
        dataclasses.replace(chain[0], beside=len(chain)) if len(chain) > 1 else chain[0]
        for chain in chains.values()
    ]


@dataclasses.dataclass(frozen=True)
class Exchanges:
    """All collectives of one kind."""

    count: int
    """How many run."""
    bytes: int
    """Of all their results."""
    bytes_beside: int
    """Of those that other kernels run beside."""


def by_kind(collectives: Iterable[Collective]) -> dict[str, Exchanges]:
    """The collectives of each kind together."""
    kinds: dict[str, list[Collective]] = {}
    for each in collectives:
        kinds.setdefault(each.kind, []).append(each)
    return {
        kind: Exchanges(
            sum(each.times for each in some),
            sum(each.times * each.bytes for each in some),
            sum(each.times * each.bytes for each in some if each.beside),
        )
        for kind, some in sorted(kinds.items())
    }


def _kernels_until_done(instructions: Sequence[Instruction]) -> int:
    """How many kernels run from the first of these, a start, to its end."""
    start, count = instructions[0], 0
    own = re.compile(rf"%{re.escape(start.name)}(?![\w.-])")
    for each in instructions[1:]:
        if each.where != start.where:
            break
        if each.kind.endswith("-done") and own.search(each.rest):
            return count
        count += each.kind in _KERNELS
    return count


def _collective(each: Instruction, kind: str, beside: int) -> Collective:
    sizes = array_sizes(each.type)
    starts = each.kind != kind
    if starts and kind != "all-reduce":
        # What starts one has its operands, as many results, and perhaps what tells of its state.
        arrays = [size for size in sizes if size > 4]
        sizes = arrays[len(arrays) // 2 :]
    source = re.search(r'op_name="([^"]*)"', each.rest)
    return Collective(
        kind=kind,
        bytes=sum(sizes),
        group=_group(each.rest),
        times=each.times,
        beside=beside,
        source=source[1] if source else "",
    )


def _group(rest: str) -> int:
    """Devices in a group: {{0,1},{2,3}}, [groups,devices]<=[...], or mesh['a'=2, 'b'=4] {'b'}."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(listed[1].split(","))
    if counted := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(counted[2])
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", named[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'([^']+)'", named[2]))
    return 0
