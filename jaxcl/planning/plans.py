"""Plans: an experiment's own train step, compiled for chips that are not there."""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from jaxcl.compilation import cache_folder
from jaxcl.data import Record, Source, SourceConfig
from jaxcl.planning.chips import Slice
from jaxcl.planning.collectives import Collective, find_collectives
from jaxcl.planning.flops import count_flops
from jaxcl.planning.traffic import count_traffic
from jaxcl.training import Experiment, set_up
from jaxcl.training.durable_files import write_durably
from jaxcl.training.errors import UserError

_FORMAT = 4  # of what is kept; another one for each change of what is read from a program
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([KMGT]?)i?B?"
_OUT_OF_MEMORY = (
    re.compile(rf"Used {_SIZE} of [\d.]+\w* hbm"),
    re.compile(rf"\({_SIZE}\) exceeds available HBM"),
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one step of an experiment takes on a slice, by the compiler's figures.

    Figures are of one chip and step. The seconds are at the chip's peak rates: as far as figures
    hold, the work takes no less than the longest of the three, and their sum where nothing
    overlaps.
    """

    slice: Slice
    batch_size: int
    memory: float
    """Bytes of main memory that the program takes, its arguments and results included."""
    state: float
    """Bytes of what a chip has of the training state, part of `memory`."""
    flops: float
    """Of matrix products and convolutions, counted in the program as it was written."""
    compiler_flops: float
    """By the compiler, which counts all arithmetic, and the body of a loop once."""
    bytes_accessed: float
    """Between chip and main memory, by the compiler, where the body of a loop counts once; for GPUs
    by `count_traffic`, which counts too much of loops."""
    collectives: tuple[Collective, ...] | None
    """None where jax cannot read back the program of a newer compiler."""
    example_bytes: float
    """Of one example, as the host sends it to the chips."""
    compile_seconds: float

    @property
    def fits(self) -> bool:
        """Whether the memory of a chip holds it."""
        return self.memory <= self.slice.chip.memory

    @property
    def compute_seconds(self) -> float:
        """Of `flops`, at the peak of bfloat16."""
        return self.flops / self.slice.chip.flops

    @property
    def memory_seconds(self) -> float:
        """Of `bytes_accessed`."""
        return self.bytes_accessed / self.slice.chip.memory_bandwidth

    @property
    def sent(self) -> float:
        """Bytes that a chip has to send to others; NaN where nobody knows."""
        if self.collectives is None:
            return math.nan
        return sum(each.sent(self.slice.chips) for each in self.collectives)

    @property
    def sending_seconds(self) -> float:
        """Of what a chip has to send to others, over all its links at once."""
        return self.sent / self.slice.sending

    @property
    def step_seconds(self) -> tuple[float, float]:
        """With the three overlapping as if by magic, and one after the other; without what is not
        known of them. NaN where the step does not fit."""
        if not self.fits:
            return math.nan, math.nan
        parts = (self.compute_seconds, self.memory_seconds, self.sending_seconds)
        known = [each for each in parts if not math.isnan(each)]
        return max(known), sum(known)

    @property
    def examples_per_second(self) -> tuple[float, float]:
        """By `step_seconds`, the lower first; of all chips."""
        fastest, slowest = self.step_seconds
        return self.batch_size / slowest, self.batch_size / fastest

    @property
    def host_input(self) -> tuple[float, float]:
        """Examples/s and bytes/s that each host has to read to keep up with the fastest step."""
        examples = self.examples_per_second[1] / self.slice.hosts
        return examples, examples * self.example_bytes


@dataclasses.dataclass(frozen=True)
class Described(SourceConfig):
    """Data of which only number and shape are known: enough to plan, not to train."""

    examples: int
    """How many there are."""
    image: tuple[int, int, int]
    """Height, width and channels, uint8."""
    classes: int | None = None
    """How many labels there are; None: no labels."""

    def open(self) -> Source:
        """A source of black images."""
        return _Black(self)


@dataclasses.dataclass(frozen=True)
class _Black:
    described: Described

    def __len__(self) -> int:
        return self.described.examples

    def __getitem__(self, record: int) -> Record:
        found: Record = {"image": np.zeros(self.described.image, np.uint8), "replaced": False}
        if self.described.classes is not None:
            found["label"] = np.int32(record % self.described.classes)
        return found

    @property
    def names(self) -> Sequence[str]:
        return range(len(self))  # type: ignore[return-value]  # nobody reads them

    @property
    def labels(self) -> np.ndarray | None:
        if self.described.classes is None:
            return None
        return np.arange(len(self), dtype=np.int32) % self.described.classes

    @property
    def label_names(self) -> None:
        return None


def plan(
    experiment: Experiment,
    where: Slice,
    *,
    batch_size: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Compiles the train step for a slice, which takes seconds to minutes.

    What was compiled once is kept in the user's cache folder.

    Args:
      experiment: what to train; its data have to be there, or be `Described`.
      where: the slice.
      batch_size: of all chips; None: the experiment's.
      say: told what is about to take long.

    Returns:
      The plan; one that does not fit has its memory and flops only, the rest NaN.

    Raises:
      UserError: where the experiment does not fit together on so many devices, or the compiler is
        not installed.
      FileNotFoundError: where the data are missing.
    """
    size = experiment.train.batch_size if batch_size is None else batch_size
    changed = dataclasses.replace(
        experiment,
        train=dataclasses.replace(experiment.train, batch_size=size),
        run=dataclasses.replace(experiment.run, mapping="shard_map", devices=None),
        evaluate=None,
    )
    setup = set_up(changed, where.devices())
    batch = setup.devices.split_shapes(setup.batch_shapes())
    return plan_step(setup.step, setup.placed_shapes(), batch, where, batch_size=size, say=say)


def plan_step(
    step: Any,
    state: Any,
    batch: Any,
    where: Slice,
    *,
    batch_size: int,
    say: Callable[[str], None] = lambda text: None,
) -> Plan:
    """As `plan`, of any jitted step(state, batch).

    Args:
      step: from `jax.jit`, over the devices of `where`.
      state: shapes, types and shardings over these devices, as `jax.ShapeDtypeStruct`s.
      batch: likewise.
      where: the slice.
      batch_size: examples of the whole batch.
      say: told what is about to take long.

    Returns:
      The plan.
    """
    traced = step.trace(state, batch)
    lowered = traced.lower()
    figures = _cached(
        _digest(where, lowered.as_text()),
        lambda: _compile(lowered, lambda: say(f"compiling for {where.name}, batch {batch_size:,}")),
    )
    collectives = figures["collectives"]
    if collectives is not None:
        collectives = tuple(Collective(**each) for each in collectives)
    return Plan(
        slice=where,
        batch_size=batch_size,
        memory=figures["memory"],
        state=float(sum(map(_bytes_here, _leaves(state)))),
        flops=count_flops(traced.jaxpr),
        compiler_flops=figures["flops"],
        bytes_accessed=figures["bytes_accessed"],
        collectives=collectives,
        example_bytes=sum(x.size * x.dtype.itemsize for x in _leaves(batch)) / batch_size,
        compile_seconds=figures["compile_seconds"],
    )


def largest_batch(
    experiment: Experiment,
    where: Slice,
    *,
    say: Callable[[str], None] = lambda text: None,
    compiles: int = 8,
) -> list[Plan]:
    """Looks for the largest batch of which the step fits on a slice.

    Memory is close to linear in the batch, so that a line through two plans leads near its end.

    Args:
      experiment: as in `plan`.
      where: the slice.
      say: told what is about to take long.
      compiles: how many sizes to try at most.

    Returns:
      The plans that were made, ascending. The last that fits is within a thirty-second of the next,
      unless `compiles` was reached, or the method takes no larger one, which is said.

    Raises:
      UserError: as `plan`.
    """
    share = where.chips * experiment.train.accumulate
    step = share * max(1, experiment.run.micro_batch or 1)
    for network in vars(experiment.method).values():
        step = math.lcm(step, share * (getattr(network, "batch_norm_groups", None) or 1))
    size = max(step, experiment.train.batch_size // step * step)
    plans: dict[int, Plan] = {}
    refused: int | None = None  # the smallest size that the method or the data cannot have
    tried: set[int] = set()
    while len(plans) < compiles and size >= step and size not in tried:
        tried.add(size)
        try:
            plans[size] = plan(experiment, where, batch_size=size, say=say)
        except UserError as error:
            if not plans:
                raise
            refused, reason = size, error
        fitting = max((each for each, made in plans.items() if made.fits), default=0)
        failing = min((each for each, made in plans.items() if not made.fits), default=refused)
        if refused is not None and (failing is None or refused < failing):
            failing = refused
        tolerance = max(step, fitting // 32 // step * step)
        if failing is not None and failing - fitting <= tolerance:
            break
        size = _meeting(plans, where.chip.memory) // step * step
        # Near its limit a compiler computes again what it cannot keep: no line leads on from there.
        if failing is not None:
            if failing == refused or len(plans) > 4:
                size = (fitting + failing) // 2 // step * step
            size = min(size, failing - tolerance)
        elif len(plans) > 1:
            size = min(size, 2 * fitting)
        size = max(size, fitting + tolerance)
    if failing is not None and failing == refused:
        say(f"no larger one: {reason}")
    return [plans[each] for each in sorted(plans)]


def _meeting(plans: dict[int, Plan], memory: float) -> int:
    """The batch at which a line through the two plans next to the limit meets it."""
    ordered = sorted(plans.values(), key=lambda each: each.batch_size)
    fitting = [each for each in ordered if each.fits]
    failing = [each for each in ordered if not each.fits]
    near = [fitting[-1], failing[0]] if fitting and failing else fitting[-2:] or failing[:2]
    low, high = near[0], near[-1]
    if low is high:  # the state does not grow with the batch, the rest does
        return int((memory - low.state) / max(low.memory - low.state, 1) * low.batch_size)
    slope = max((high.memory - low.memory) / (high.batch_size - low.batch_size), 1e-9)
    return int(low.batch_size + (memory - low.memory) / slope)


def _compile(lowered: Any, announce: Callable[[], None]) -> dict[str, Any]:
    import jax

    announce()
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = _needed(str(error))
        if needed is None:
            raise
        nothing: dict[str, Any] = {"flops": np.nan, "bytes_accessed": np.nan, "collectives": []}
        return nothing | {"memory": needed, "compile_seconds": time.perf_counter() - start}
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    text, collectives = "", None
    # jax fails to read back programs with instructions newer than it knows.
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        text = compiled.as_text() or ""
        collectives = [dataclasses.asdict(each) for each in find_collectives(text)]
    return {
        "memory": float(
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes
            + memory.generated_code_size_in_bytes
        ),
        "flops": float(cost.get("flops", np.nan)),
        "bytes_accessed": float(
            cost.get("bytes accessed") or (count_traffic(text) if text else np.nan)
        ),
        "collectives": collectives,
        "compile_seconds": time.perf_counter() - start,
    }


def _needed(text: str) -> float | None:
    """Bytes that a program would take, by the words of a compiler that refuses it."""
    for pattern in _OUT_OF_MEMORY:
        if found := pattern.search(text):
            return float(found[1]) * _UNITS[found[2]]
    return None


def _digest(where: Slice, text: str) -> str:
    flags = [os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
    package = "jax-cuda13-pjrt" if where.chip.is_gpu else "libtpu"
    compiler = f"{_FORMAT} {version('jax')} {version(package)} {where.name} {flags}"
    return hashlib.sha256(f"{compiler}\n{text}".encode()).hexdigest()[:32]


def _cached(key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` returns, from the user's cache folder where it lies there."""
    path = cache_folder() / "plans" / f"{key}.json"
    with contextlib.suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    made = make()
    with contextlib.suppress(OSError):  # a full disk costs the next one time, no more
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, json.dumps(made))
    return made


def _bytes_here(x: Any) -> int:
    """Of what one device has of an array."""
    return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize


def _leaves(tree: Any) -> list[Any]:
    import jax

    return jax.tree.leaves(tree)
