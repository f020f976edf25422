"""Plans as a table, as data, and as a picture."""

import dataclasses
import io
import math
from collections.abc import Sequence
from typing import Any, BinaryIO

from jaxcl.planning.collectives import by_kind
from jaxcl.planning.plans import Plan
from jaxcl.training.errors import TAKES_LESS_MEMORY


def to_json(plans: Sequence[Plan]) -> list[dict[str, Any]]:
    """Plain values of each plan; sizes in bytes, times in seconds, all of one chip but examples/s
    and the batch. NaN is null."""
    rows = []
    for each in plans:
        slowest, fastest = each.examples_per_second
        input_examples, input_bytes = each.host_input
        row = {
            "topology": each.slice.name,
            "chips": each.slice.chips,
            "hosts": each.slice.hosts,
            "batch_size": each.batch_size,
            "fits": each.fits,
            "memory": each.memory,
            "memory_capacity": each.slice.chip.memory,
            "state": each.state,
            "flops": each.flops,
            "compiler_flops": each.compiler_flops,
            "bytes_accessed": each.bytes_accessed,
            "collectives": _by_kind(each),
            "compute_seconds": each.compute_seconds,
            "memory_seconds": each.memory_seconds,
            "sending_seconds": each.sending_seconds,
            "examples_per_second": [slowest, fastest],
            "host_input_examples_per_second": input_examples,
            "host_input_bytes_per_second": input_bytes,
            "compile_seconds": each.compile_seconds,
            "peaks_source": each.slice.chip.source,
        }
        rows.append({name: _without_nan(value) for name, value in row.items()})
    return rows


def report(plans: Sequence[Plan]) -> str:
    """A table of plans, and beneath it what the figures are, and what does not fit."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for name in (
        "slice",
        "batch",
        "memory",
        "FLOP",
        "moved",
        "sent",
        "compute, ms",
        "memory, ms",
        "links, ms",
        "examples/s",
        "input a host",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for each in plans:
        table.add_row(*_cells(each))
    text = io.StringIO()
    Console(file=text, width=1000).print(table)  # as wide as it has to be
    lines = [line.rstrip() for line in text.getvalue().splitlines() if line.strip()]
    for each in plans:
        if each.collectives is None:
            lines.append(
                f"{each.slice.name}, batch {each.batch_size:,}: what is sent is not known, for jax "
                "cannot read the compiler's program back; the examples/s leave it out"
            )
        elif kinds := by_kind(each.collectives):
            found = ", ".join(
                f"{one.count} {kind} of {_scaled(one.bytes, 'B')} "
                f"({one.bytes_beside / max(one.bytes, 1):.0%} beside compute)"
                for kind, one in kinds.items()
            )
            lines.append(f"{each.slice.name}, batch {each.batch_size:,}: {found}")
    lines += [refusal(each) for each in plans if not each.fits]
    lines.append(
        "All figures are of one chip and step; examples/s of all chips, from nothing overlapping "
        "to all of it, both at peak\nrates: real runs reach less. Input: for the upper figure. "
        "Peaks: " + ", ".join(sorted({each.slice.chip.source for each in plans}))
    )
    return "\n".join(lines)


def refusal(each: Plan) -> str:
    """Says by how much a plan does not fit, and what would make it fit."""
    over = each.memory - each.slice.chip.memory
    return (
        f"{each.slice.name}, batch {each.batch_size:,} does not fit: {_scaled(each.memory, 'B')} "
        f"of {_scaled(each.slice.chip.memory, 'B')} a chip, {_scaled(over, 'B')} too many: "
        f"{TAKES_LESS_MEMORY} (--largest finds the largest batch that fits)"
    )


def draw(plans: Sequence[Plan], file: BinaryIO) -> None:
    """Draws memory against capacity, and where a step's time goes, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1.6 + 0.5 * len(plans)), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    names = [f"{each.slice.name}, {each.batch_size:,}" for each in plans]
    rows = range(len(plans))
    colors = ["tab:blue" if each.fits else "tab:red" for each in plans]
    left.barh(rows, [each.memory / 1e9 for each in plans], color=colors)
    for row, each in enumerate(plans):
        capacity = each.slice.chip.memory / 1e9
        left.plot([capacity] * 2, [row - 0.4, row + 0.4], color="black")
    left.set_yticks(list(rows), names)
    left.invert_yaxis()
    left.set_xlabel("memory of a chip, GB (line: what it has)")
    starts = [0.0] * len(plans)
    for label, times in {
        "compute": [each.compute_seconds for each in plans],
        "memory": [each.memory_seconds for each in plans],
        "links": [each.sending_seconds for each in plans],
    }.items():
        widths = [1e3 * (0 if math.isnan(time) else time) for time in times]
        right.barh(rows, widths, left=starts, label=label)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    right.set_xlabel("of a step, ms at peak rates, nothing overlapping")
    right.legend()
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, format="png", dpi=120)


def _by_kind(each: Plan) -> dict[str, dict[str, int]] | None:
    if each.collectives is None:
        return None
    kinds = by_kind(each.collectives)
    return {kind: dataclasses.asdict(exchanges) for kind, exchanges in kinds.items()}


def _cells(each: Plan) -> list[str]:
    memory = f"{_scaled(each.memory, 'B')} of {_scaled(each.slice.chip.memory, 'B')}"
    start = [each.slice.name, f"{each.batch_size:,}", memory, _scaled(each.flops, "")]
    if not each.fits:
        return [*start, *"------", "does not fit"]
    slowest, fastest = each.examples_per_second
    examples, size = each.host_input
    return [
        *start,
        _scaled(each.bytes_accessed, "B"),
        _scaled(each.sent, "B"),
        *(
            "-" if math.isnan(time) else f"{1e3 * time:.2f}"
            for time in (each.compute_seconds, each.memory_seconds, each.sending_seconds)
        ),
        f"{_rounded(slowest)} to {_rounded(fastest)}",
        f"{_rounded(examples)}/s, {_scaled(size, 'B')}/s",
    ]


def _rounded(value: float) -> str:
    """To three digits, such as 12,300."""
    return f"{float(f'{value:.3g}'):,.0f}"


def _scaled(value: float, unit: str) -> str:
    """Three digits and a prefix, such as 4.13 T."""
    if math.isnan(value):
        return "-"
    power = min(4, max(0, int(math.log10(max(value, 1.0))) // 3))
    scaled = value / 1000**power
    digits = max(0, 2 - int(math.log10(max(scaled, 1.0))))
    return f"{scaled:.{digits}f} {' kMGT'[power].strip()}{unit}".strip()


def _without_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
