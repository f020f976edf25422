"""A compiled program's text: its instructions, and how often each runs."""

import dataclasses
import math
import re
from collections import Counter

_INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<type>.+?) (?P<kind>[a-z][\w-]*)\((?P<rest>.*)$"
)
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) \(.*\{$")
_CALLED = re.compile(
    r"(?:body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TIMES = re.compile(r'"?known_trip_count"?:\{"n":"(\d+)"\}')
_ARRAY = re.compile(r"\b(pred|bf16|[sufc]\d+\w*)\[([\d,]*)\]")

_CONTROL = ("call", "while", "conditional")
"""Kinds whose computations are made of instructions that run, not of parts of one kernel."""


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a program."""

    name: str
    type: str
    """Of its result, such as `(f32[8,4]{1,0}, s32[])`."""
    kind: str
    """Such as `all-reduce`."""
    rest: str
    """Operands and all that follows."""
    times: int
    """How often it runs in a call of the program."""
    is_inner: bool
    """Whether it is part of another's kernel: of a fusion, or a reduction's sum."""
    where: str
    """The computation that it is in."""


def read_instructions(text: str) -> list[Instruction]:
    """The instructions that run, in the order of `compiled.as_text()`, loops' with their passes."""
    where, entry = "", ""
    found: list[tuple[str, re.Match[str]]] = []
    calls: list[tuple[str, str, int]] = []
    controlled: set[str] = set()
    for line in text.splitlines():
        if begin := _COMPUTATION.match(line):
            where = begin["name"]
            entry = where if begin["entry"] else entry
            continue
        match = _INSTRUCTION.match(line)
        if match is None:
            continue
        found.append((where, match))
        passes = int(known[1]) if (known := _TIMES.search(line)) else 1
        names = _CALLED.findall(line)
        if branches := _BRANCHES.search(line):
            names += re.findall(r"[\w.-]+", branches[1])
        calls += [(where, name, passes) for name in names]
        if match["kind"] in _CONTROL:
            controlled.update(names)
    times = _passes(entry, calls)
    controlled.add(entry)
    return [
        Instruction(
            match["name"],
            match["type"],
            match["kind"],
            match["rest"],
            times[where],
            where not in controlled,
            where,
        )
        for where, match in found
        if times[where]
    ]


def array_sizes(text: str) -> list[int]:
    """Bytes of each array that a type names."""
    return [_bytes(*array) for array in _ARRAY.findall(text)]


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


def _bytes(dtype: str, shape: str) -> int:
    digits = re.search(r"\d+", dtype)
    bits = int(digits[0]) if digits else 8
    return math.prod(int(side) for side in shape.split(",") if side) * bits // 8
