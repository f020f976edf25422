"""Temporaries of every loss over similarities, value and all gradients, as the compiler plans them.

    python benchmarks/loss_memory.py
    python benchmarks/loss_memory.py --sizes 8192 65536 --backend dense --json memory.json

Nothing is run: programs are compiled, and asked what they allocate beside arguments and results. N
is the number of queries or pairs; a queue has 2 N negatives, and sup_con 2 N rows. A last column
says how many times as much the largest size takes as the smallest, against how many times as many
rows it has.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxcl import losses


def cases(size: int, dim: int, backend: str) -> dict[str, tuple[Callable, list]]:
    """By name a loss, and the shapes of its arguments; learnable scalars are among them."""
    rows, queue = (jax.ShapeDtypeStruct((n, dim), jnp.float32) for n in (size, 2 * size))
    labels = jax.ShapeDtypeStruct((2 * size,), jnp.int32)
    scalar = jax.ShapeDtypeStruct((), jnp.float32)

    def with_temperature(loss: Callable) -> Callable:
        return lambda *arrays: loss(*arrays[:-1], temperature=arrays[-1], backend=backend)

    def clip(image, text, scale):
        return losses.clip(image, text, logit_scale=scale, backend=backend)

    def siglip(image, text, scale, bias):
        return losses.siglip(image, text, logit_scale=scale, logit_bias=bias, backend=backend)

    two_views = [rows, rows, scalar]
    return {
        "info_nce, queue": (with_temperature(losses.info_nce), [rows, rows, queue, scalar]),
        "info_nce, batch": (with_temperature(losses.info_nce), two_views),
        "nt_xent": (with_temperature(losses.nt_xent), two_views),
        "sup_con": (with_temperature(losses.sup_con), [queue, labels, scalar]),
        "dcl": (with_temperature(losses.dcl), two_views),
        "dclw": (with_temperature(losses.dclw), two_views),
        "hard_nt_xent": (with_temperature(losses.hard_nt_xent), two_views),
        "clip": (clip, two_views),
        "siglip": (siglip, [rows, rows, scalar, scalar]),
    }


def temporaries(loss: Callable, shapes: list) -> int:
    """Bytes that value and all gradients take beside arguments and results."""
    floats = [number for number, shape in enumerate(shapes) if shape.dtype == jnp.float32]
    program = jax.jit(jax.value_and_grad(lambda *arrays: loss(*arrays).mean(), floats))
    return program.lower(*shapes).compile().memory_analysis().temp_size_in_bytes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384, 32768, 65536]
    )
    parser.add_argument("--dim", type=int, default=128, help="width of the embeddings")
    parser.add_argument("--backend", choices=("auto", "tiled", "dense"), default="tiled")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, in bytes")
    options = parser.parse_args()
    found: dict[str, dict[int, int]] = {}
    print(f"temporaries in MB; D = {options.dim}, float32, backend {options.backend}, value and")
    print(f"all gradients; jax {jax.__version__}, {jax.default_backend()}")
    print(f"{'N':<16}" + "".join(f"{size:>9}" for size in options.sizes) + "   growth")
    least, most = min(options.sizes), max(options.sizes)
    for name in cases(1, 1, options.backend):
        row = found[name] = {}
        for size in options.sizes:
            row[size] = temporaries(*cases(size, options.dim, options.backend)[name])
        print(
            f"{name:<16}"
            + "".join(f"{row[size] / 1e6:9.1f}" for size in options.sizes)
            + f"   {row[most] / row[least]:.0f} for {most / least:.0f} times as many rows",
            flush=True,
        )
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
