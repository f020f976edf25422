"""What losses, kernels and a sharded bank need on TPU slices, from the compiler, with no TPU.

    pip install "jaxcl[plan]"
    python benchmarks/tpu_topologies.py
    python benchmarks/tpu_topologies.py --parts losses --devices 1 8 64 256 --loss nt_xent

Part "losses": value and gradients of a loss with as many rows on each device on slices of more and
more devices. What a device holds beside its inputs must not grow on a ring. Part "bank": lookup and
refresh of a bank spread over a slice. Part "kernels": the Pallas kernels and XLA's tiles on a chip.

All figures are the compiler's, for one device; nothing is run. Temporaries are those in the chip's
main memory; the peak has arguments, results and what fits its vector memory (128 MB) too. Flops,
bytes accessed and seconds are estimates: they count the body of a loop once, however often it runs
(so a ring is counted for one step of it, and XLA's tiles are compiled for one block and
multiplied), take vector memory for main memory, and count products of float32 once, where the chip
multiplies bfloat16 six times to be exact. A dash: there is none.
"""

import argparse
import collections
import dataclasses
import functools
import importlib.util
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# The compiler asks for these of the machine that it takes this one for.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

SLICES = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
AXIS = "devices"
COLLECTIVE = re.compile(
    r"\s(all-gather|all-reduce|all-to-all|collective-broadcast|collective-permute|"
    r"ragged-all-to-all|reduce-scatter)(?:-start)?\("
)


@dataclasses.dataclass(frozen=True)
class Program:
    """One line of the table.

    Attributes:
      name: what it is.
      compile: compiles it.
      block: compiles the part of it that a loop repeats, where flops and the like are to be of
        that.
      blocks: how often it does.
    """

    name: str
    compile: Callable[[], jax.stages.Compiled]
    block: Callable[[], jax.stages.Compiled] | None = None
    blocks: int = 1

    def figures(self) -> dict:
        """What the compiler says, for one device."""
        compiled = self.compile()
        memory, text = compiled.memory_analysis(), compiled.as_text()
        cost = (self.block() if self.block else compiled).cost_analysis() or {}
        estimates = ("flops", "bytes accessed", "transcendentals", "optimal_seconds")
        return {
            "arguments_bytes": memory.argument_size_in_bytes,
            "temporaries_bytes": memory.temp_size_in_bytes,
            "peak_bytes": memory.peak_memory_in_bytes,
            "collectives": dict(collections.Counter(COLLECTIVE.findall(text))),
            "kernels": text.count('custom_call_target="tpu_custom_call"'),
            **{
                name.replace(" ", "_"): self.blocks * cost[name] if name in cost else None
                for name in estimates
            },
        }


def loss_programs(options: argparse.Namespace) -> Iterator[Program]:
    from jaxcl import losses

    loss = getattr(losses, options.loss)
    for backend in ("ring", "tiled"):
        for devices in options.devices:

            def mean(x, y, backend=backend):
                return loss(x, y, temperature=0.1, axis_name=AXIS, backend=backend).mean()

            def value_and_gradients(x, y, mean=mean):
                value, gradients = jax.value_and_grad(mean, (0, 1))(x, y)
                return value[None], gradients

            shape = (devices * options.rows, options.dim)
            views = [jax.ShapeDtypeStruct(shape, DTYPES[options.dtype])] * 2
            yield Program(
                f"{options.loss} {backend:<5} {options.chip} x{devices:<3}",
                functools.partial(
                    compile_sharded, value_and_gradients, views, slice_of(options.chip, devices)
                ),
            )


def bank_programs(options: argparse.Namespace) -> Iterator[Program]:
    from jaxcl.memory import ShardedBank, lookup, refresh

    devices = options.bank_devices
    held = -(-options.bank_size // devices)
    bank = jax.ShapeDtypeStruct((devices * held, options.dim), jnp.float32)
    indices = jax.ShapeDtypeStruct((devices * options.bank_rows,), jnp.int32)
    embeddings = jax.ShapeDtypeStruct((devices * options.bank_rows, options.dim), jnp.float32)

    def look_up(rows, indices):
        return lookup(ShardedBank(rows, options.bank_size), indices, axis_name=AXIS)

    def refreshed(rows, indices, embeddings):
        bank = ShardedBank(rows, options.bank_size)
        return refresh(bank, indices, embeddings, momentum=0.5, axis_name=AXIS).embeddings

    chips = slice_of(options.chip, devices)
    size = f"{options.bank_size:,} x {options.dim} {options.chip} x{devices}"
    yield Program(
        f"lookup  {size}", functools.partial(compile_sharded, look_up, [bank, indices], chips)
    )
    yield Program(
        f"refresh {size}",
        functools.partial(
            compile_sharded, refreshed, [bank, indices, embeddings], chips, donate=(0,)
        ),
    )


def kernel_programs(options: argparse.Namespace) -> Iterator[Program]:
    """The log-sum-exp with value and gradients, by kernels and by XLA's tiles, on one chip."""
    from jaxcl.similarity.rows import Pairs
    from jaxcl.similarity.tiled import row_gradients, row_values
    from jaxcl.similarity.tpu_kernel import kernel_gradients, kernel_values

    n, m = options.kernel_shape
    rows = min(options.block_size, n)

    def kernels(*arguments):
        values, normalizer = kernel_values("logsumexp", *arguments)
        return values, kernel_gradients(
            "logsumexp", *arguments, normalizer, jnp.ones_like(normalizer)
        )

    def tiles(*arguments):
        values, normalizer = row_values("logsumexp", rows, *arguments)
        return values, row_gradients(
            "logsumexp", rows, *arguments, normalizer, jnp.ones_like(normalizer)
        )

    def compiled(way: Callable, dtype: str, chip: str, queries: int) -> jax.stages.Compiled:
        pairs = Pairs(
            query_ids=jax.ShapeDtypeStruct((queries,), jnp.int32),
            key_ids=jax.ShapeDtypeStruct((m,), jnp.int32),
        )
        arguments = [
            jax.ShapeDtypeStruct((queries, options.dim), DTYPES[dtype]),
            jax.ShapeDtypeStruct((m, options.dim), DTYPES[dtype]),
            jax.ShapeDtypeStruct((), jnp.float32),
            jax.ShapeDtypeStruct((queries,), jnp.float32),
            pairs,
        ]
        everywhere = NamedSharding(slice_of(chip, 1), PartitionSpec())
        return compile_with(way, arguments, everywhere)

    for chip in ("v5e", "v6e"):
        for dtype in DTYPES:
            whole = functools.partial(compiled, kernels, dtype, chip, n)
            yield Program(f"kernels     {dtype:<8} {chip}", whole)
        whole = functools.partial(compiled, tiles, "float32", chip, n)
        block = functools.partial(compiled, tiles, "float32", chip, rows)
        yield Program(f"XLA's tiles float32  {chip}", whole, block, -(-n // rows))


PROGRAMS = {"losses": loss_programs, "bank": bank_programs, "kernels": kernel_programs}
PARTS = tuple(PROGRAMS)


@functools.cache
def slice_of(chip: str, devices: int) -> Mesh:
    """The devices of a slice that no one has, as a mesh of one axis."""
    name = f"{chip}:{SLICES[devices]}"
    found = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    return Mesh(np.array(found), (AXIS,))


def compile_sharded(
    function: Callable, arguments: list, mesh: Mesh, donate: tuple[int, ...] = ()
) -> jax.stages.Compiled:
    """The function of each device's rows, compiled for arguments [all rows, ...]."""
    rows = PartitionSpec(AXIS)
    mapped = jax.shard_map(function, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)
    return compile_with(mapped, arguments, NamedSharding(mesh, rows), donate)


def compile_with(
    function: Callable, arguments: list, sharding: NamedSharding, donate: tuple[int, ...] = ()
) -> jax.stages.Compiled:
    placed = jax.tree.map(
        lambda each: jax.ShapeDtypeStruct(each.shape, each.dtype, sharding=sharding), arguments
    )
    return jax.jit(function, donate_argnums=donate).lower(*placed).compile()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--chip", default="v5e", help="v5e or v6e, for losses and bank")
    parser.add_argument("--devices", type=int, nargs="+", choices=SLICES, default=[1, 4, 8, 16, 64])
    parser.add_argument("--loss", choices=("info_nce", "nt_xent"), default="info_nce")
    parser.add_argument("--rows", type=int, default=1024, help="rows on each device, of each view")
    parser.add_argument("--dim", type=int, default=128, help="width of the embeddings")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the embeddings")
    parser.add_argument("--bank-size", type=int, default=14_000_000, help="examples in the bank")
    parser.add_argument("--bank-rows", type=int, default=32, help="looked up on each device")
    parser.add_argument("--bank-devices", type=int, choices=SLICES, default=256)
    parser.add_argument(
        "--kernel-shape",
        type=int,
        nargs=2,
        default=[8192, 16384],
        metavar=("QUERIES", "KEYS"),
    )
    parser.add_argument(
        "--block-size", type=int, default=1024, help="of XLA's tiles; chosen on TPU at these sizes"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    if importlib.util.find_spec("libtpu") is None:
        sys.exit('libtpu, the compiler for TPU, is not installed: pip install "jaxcl[plan]"')
    rows: list[dict] = []
    for part in options.parts:
        print(f"\n{part}: jax {jax.__version__}", flush=True)
        for program in PROGRAMS[part](options):
            start = time.perf_counter()
            figures = program.figures()
            seconds = round(time.perf_counter() - start, 1)
            rows.append(
                {"part": part, "program": program.name, **figures, "compile_seconds": seconds}
            )
            print(as_line(rows[-1]), flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")


def as_line(row: dict) -> str:
    def scaled(name: str, unit: float) -> str:
        value = row[name]
        return f"{value / unit:8.3f}" if value is not None and value >= 0 else "       -"

    collectives = ", ".join(f"{count} {name}" for name, count in row["collectives"].items())
    return (
        f"{row['program']:<36} arguments {scaled('arguments_bytes', 1e6)} MB, "
        f"temporaries {scaled('temporaries_bytes', 1e6)} MB, peak {scaled('peak_bytes', 1e6)} MB; "
        f"{scaled('flops', 1e9)} GFLOP, {scaled('bytes_accessed', 1e6)} MB accessed, "
        f"{scaled('optimal_seconds', 1e-3)} ms"
        + (f"; {row['kernels']} kernels" if row["kernels"] else "")
        + (f"; {collectives}" if collectives else "")
    )


if __name__ == "__main__":
    main()
