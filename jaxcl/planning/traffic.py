"""What a compiled program moves between a chip and its main memory, read from its text."""

import re

from jaxcl.planning.hlo import array_sizes, read_instructions

_MOVES_NOTHING = {
    "after-all",
    "bitcast",
    "call",
    "conditional",
    "constant",
    "get-tuple-element",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
    "while",
}
_NAME = re.compile(r"%([\w.-]+)")


def count_traffic(text: str) -> int:
    """Bytes that the kernels of a program read and write, loops by their passes.

    Each kernel is taken to read its operands and to write its result once, whatever a cache spares;
    for compilers that do not say it themselves, as that for GPUs. A kernel that reads or writes a
    slice counts the whole array, so that of loops over parts of a batch this is far too much.

    Args:
      text: `compiled.as_text()`.
    """
    instructions = [each for each in read_instructions(text) if not each.is_inner]
    sizes = {(each.where, each.name): sum(array_sizes(each.type)) for each in instructions}
    total = 0
    for each in instructions:
        if each.kind in _MOVES_NOTHING or each.kind.endswith("-done"):
            continue
        operands = _NAME.findall(each.rest.partition(")")[0])
        read = sum(sizes.get((each.where, name), 0) for name in operands)
        total += each.times * (read + sizes[each.where, each.name])
    return total
