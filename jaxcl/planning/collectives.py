"""Collectives of a compiled program, read from its text."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable

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
    parts: int
    """Instructions that it is cut into, so that others run meanwhile: on TPU, compute that is fused
    with it. 1: nothing runs meanwhile, 2: what stands between its start and its end."""
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
    chains: dict[str, list[Collective]] = {}
    for number, each in enumerate(read_instructions(text)):
        kind = each.kind.removesuffix("-start")
        if kind not in _KINDS:
            continue
        # TPU's compiler cuts one into a chain of fusions, each of which shows it whole.
        chain = re.search(r'chain_id="(\d+)"', each.rest)
        name = f"{kind} {chain[1]}" if chain else str(number)
        chains.setdefault(name, []).append(_collective(each, kind))
    return [
        dataclasses.replace(chain[0], parts=max(chain[0].parts, len(chain)))
        for chain in chains.values()
    ]


def by_kind(collectives: Iterable[Collective]) -> dict[str, tuple[int, int]]:
    """Of each kind how many run, and their bytes in all."""
    count: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for each in collectives:
        count[each.kind] += each.times
        size[each.kind] += each.times * each.bytes
    return {kind: (count[kind], size[kind]) for kind in sorted(count)}


def _collective(each: Instruction, kind: str) -> Collective:
    sizes = array_sizes(each.type)
    starts = each.kind != kind
    if starts and kind in ("all-gather", "collective-permute"):
        # What starts one has its operands, as many results, and perhaps what tells of its state.
        arrays = [size for size in sizes if size > 4]
        sizes = arrays[len(arrays) // 2 :]
    source = re.search(r'op_name="([^"]*)"', each.rest)
    return Collective(
        kind=kind,
        bytes=sum(sizes),
        group=_group(each.rest),
        times=each.times,
        parts=2 if starts else 1,
        source=source[1] if source else "",
    )


def _group(rest: str) -> int:
    """Devices in a group: {{0,1},{2,3}}, or [groups,devices]<=[...]."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(listed[1].split(","))
    if counted := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(counted[2])
    return 0
