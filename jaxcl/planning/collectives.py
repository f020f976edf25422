"""Collectives of a compiled program, read from its text."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable

_KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
_INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<type>.+?) (?P<kind>" + "|".join(_KINDS) + r")"
    r"(?P<start>-start)?\((?P<rest>.*)$"
)
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) \(.*\{$")
_CALLED = re.compile(
    r"(?:body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TIMES = re.compile(r'"?known_trip_count"?:\{"n":"(\d+)"\}')
_ARRAY = re.compile(r"\b(pred|bf16|[sufc]\d+\w*)\[([\d,]*)\]")


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
    where, entry = "", ""
    calls: list[tuple[str, str, int]] = []
    found: list[tuple[str, re.Match[str]]] = []
    for line in text.splitlines():
        begin = _COMPUTATION.match(line)
        if begin:
            where = begin["name"]
            entry = where if begin["entry"] else entry
            continue
        match = _INSTRUCTION.match(line)
        if match:
            found.append((where, match))
        passes = int(known[1]) if (known := _TIMES.search(line)) else 1
        names = _CALLED.findall(line)
        if branches := _BRANCHES.search(line):
            names += re.findall(r"[\w.-]+", branches[1])
        calls += [(where, name, passes) for name in names]
    times_of = _passes(entry, calls)
    running = [(match, times_of[name]) for name, match in found if times_of[name]]
    chains: dict[str, list[Collective]] = {}
    for number, (match, times) in enumerate(running):
        # TPU's compiler cuts one into a chain of fusions, each of which shows it whole.
        chain = re.search(r'chain_id="(\d+)"', match["rest"])
        name = f"{match['kind']} {chain[1]}" if chain else str(number)
        chains.setdefault(name, []).append(_collective(match, times))
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


def _passes(entry: str, calls: list[tuple[str, str, int]]) -> Counter[str]:
    """How often each computation runs in one of the entry's."""
    below: dict[str, Counter[str]] = {}
    for caller, called, passes in calls:
        below.setdefault(caller, Counter())[called] += passes
    times: Counter[str] = Counter()

    def visit(name: str, passes: int) -> None:
        times[name] += passes
        for called, more in below.get(name, Counter()).items():
            visit(called, passes * more)

    visit(entry, 1)
    return times


def _collective(match: re.Match[str], times: int) -> Collective:
    kind, rest = match["kind"], match["rest"]
    sizes = [_bytes(*array) for array in _ARRAY.findall(match["type"])]
    if match["start"] and kind in ("all-gather", "collective-permute"):
        # What starts one has its operands, as many results, and perhaps what tells of its state.
        arrays = [size for size in sizes if size > 4]
        sizes = arrays[len(arrays) // 2 :]
    source = re.search(r'op_name="([^"]*)"', rest)
    parts = 2 if match["start"] else 1
    return Collective(kind, sum(sizes), _group(rest), times, parts, source[1] if source else "")


def _bytes(dtype: str, shape: str) -> int:
    digits = re.search(r"\d+", dtype)
    bits = int(digits[0]) if digits else 8
    return math.prod(int(side) for side in shape.split(",") if side) * bits // 8


def _group(rest: str) -> int:
    """Devices in a group: {{0,1},{2,3}}, or [groups,devices]<=[...]."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(listed[1].split(","))
    if counted := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(counted[2])
    return 0
