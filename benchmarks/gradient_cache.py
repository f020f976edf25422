"""Memory and time of a training step's gradient against the micro-batch that is encoded at a time.

    python benchmarks/gradient_cache.py
    python benchmarks/gradient_cache.py --batch-size 512 --micro-batches 128 --method simclr

A ResNet-18 with the CIFAR stem on pictures of 32x32, batch statistics in groups of --group
examples. "direct" is jax.value_and_grad of the whole batch. Temporaries are the compiler's; the
difference is that of the gradient to the direct one, relative to its norm.
"""

import argparse
import json
import statistics
import sys
import time

from jaxcl.compilation import prefer_fast_convolutions


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", choices=["moco", "simclr"], default="moco")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[64, 32])
    parser.add_argument("--group", type=int, default=16, help="examples that share statistics")
    parser.add_argument("--depth", type=int, default=18, help="of the ResNet")
    parser.add_argument("--size", type=int, default=32, help="pixels, height and width")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps of each")
    parser.add_argument("--json", action="store_true", help="one JSON document, no table")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    prefer_fast_convolutions()
    results = measure(arguments)
    import jax

    document = {
        "method": arguments.method,
        "encoder": f"ResNet-{arguments.depth}, {arguments.dtype}",
        "pixels": arguments.size,
        "batch_size": arguments.batch_size,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "results": results,
    }
    if arguments.json:
        print(json.dumps(document, indent=1))
    else:
        print_table(document)


def measure(arguments: argparse.Namespace) -> list[dict]:
    """A row for the direct gradient and for each micro-batch, timed in turns."""
    import jax
    import jax.numpy as jnp

    from jaxcl.methods import Batch, cached_loss_and_grad

    method = build_method(arguments)
    keys = jax.random.split(jax.random.key(0), 3)
    shape = (arguments.batch_size, arguments.size, arguments.size, 3)
    views = tuple(jax.random.uniform(key, shape) for key in keys[:2])
    batch = Batch(views, jnp.arange(arguments.batch_size))
    params, state = jax.jit(method.init)(keys[2], batch)

    programs = {}
    for micro_batch in (None, *arguments.micro_batches):
        function = jax.jit(cached_loss_and_grad(method, micro_batch=micro_batch))
        lowered = function.lower(params, state, batch, key=keys[2])
        programs[micro_batch] = lowered.compile()

    seconds: dict[int | None, list[float]] = {micro_batch: [] for micro_batch in programs}
    gradients = {}
    for repeat in range(1 + arguments.repeats):
        for micro_batch, program in programs.items():
            start = time.perf_counter()
            outputs = jax.block_until_ready(program(params, state, batch, key=keys[2]))
            if repeat:  # the first is a warm-up
                seconds[micro_batch].append(time.perf_counter() - start)
            gradients[micro_batch] = outputs[1]

    direct = jax.tree.leaves(gradients[None])
    norm = sum(float(jnp.sum(jnp.square(leaf))) for leaf in direct) ** 0.5
    rows = []
    for micro_batch, program in programs.items():
        off = jax.tree.map(
            lambda x, y: jnp.max(jnp.abs(x - y)), gradients[micro_batch], gradients[None]
        )
        rows.append(
            {
                "micro_batch": micro_batch,
                "temporaries_bytes": program.memory_analysis().temp_size_in_bytes,
                "seconds": statistics.median(seconds[micro_batch]),
                "seconds_lowest": min(seconds[micro_batch]),
                "seconds_highest": max(seconds[micro_batch]),
                "time_to_direct": statistics.median(seconds[micro_batch])
                / statistics.median(seconds[None]),
                "largest_difference": max(map(float, jax.tree.leaves(off))) / norm,
            }
        )
    return rows


def build_method(arguments: argparse.Namespace):
    from jaxcl import encoders
    from jaxcl.methods import MoCo, SimCLR

    views = 1 if arguments.method == "moco" else 2  # SimCLR encodes both as one batch
    groups = views * arguments.batch_size // arguments.group
    encoder = encoders.ResNet(
        arguments.depth,
        stem="cifar" if arguments.size <= 64 else "imagenet",
        batch_norm_groups=groups,
        dtype=arguments.dtype,
    )
    projector = encoders.moco_v2_projector(128)
    if arguments.method == "moco":
        return MoCo(encoder, projector, queue_size=4096)
    return SimCLR(encoder, projector)


def print_table(document: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{document['method']}, {document['encoder']}, batch {document['batch_size']} of "
        f"{document['pixels']}x{document['pixels']}; {document['device']}, jax {document['jax']}"
    )
    table.add_column("micro-batch")
    for column in ("temporaries, MB", "of direct", "s a step", "time to direct", "difference"):
        table.add_column(column, justify="right")
    most = document["results"][0]["temporaries_bytes"]
    for row in document["results"]:
        table.add_row(
            str(row["micro_batch"] or "direct"),
            f"{row['temporaries_bytes'] / 1e6:,.0f}",
            f"{row['temporaries_bytes'] / most:.1%}",
            f"{row['seconds']:.2f} ({row['seconds_lowest']:.2f} to {row['seconds_highest']:.2f})",
            f"{row['time_to_direct']:.2f}",
            f"{row['largest_difference']:.1e}",
        )
    Console(width=None if sys.stdout.isatty() else 100).print(table)


if __name__ == "__main__":
    main()
