"""What small crops cost beside two full-size views: time, operations and memory of a step.

    python benchmarks/multi_crop.py
    python benchmarks/multi_crop.py --encoder vit --size 64 --small 32 --crops 2 4 8

SwAV's gradient on given views: two of full size, those and small crops, and as many views all of
full size. Operations and temporaries are the compiler's; ratios are to two views of the same run.
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
    parser.add_argument("--encoder", choices=["resnet", "vit"], default="resnet")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--size", type=int, default=56, help="pixels a side of full-size views")
    parser.add_argument("--small", type=int, default=24, help="pixels a side of small crops")
    parser.add_argument("--crops", type=int, nargs="+", default=[6], help="small crops")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each")
    parser.add_argument("--json", action="store_true", help="one JSON document, no table")
    arguments = parser.parse_args()
    if not 0 < arguments.small < arguments.size:
        parser.error(f"--small {arguments.small} is not below --size {arguments.size}")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    prefer_fast_convolutions()
    results = measure(arguments)
    import jax

    document = {
        "encoder": arguments.encoder,
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
    """A row for each set of views, timed in turns."""
    import jax
    import jax.numpy as jnp

    from jaxcl.methods import Batch

    full, small = arguments.size, arguments.small
    cases = {f"2 x {full}": [full] * 2}
    for crops in arguments.crops:
        cases[f"2 x {full}, {crops} x {small}"] = [full] * 2 + [small] * crops
        cases[f"{2 + crops} x {full}"] = [full] * (2 + crops)

    method, key = build_method(arguments), jax.random.key(0)
    rows, index = arguments.batch_size, jnp.arange(arguments.batch_size)
    batches = {
        name: Batch(tuple(jax.random.uniform(key, (rows, side, side, 3)) for side in sides), index)
        for name, sides in cases.items()
    }
    params, state = jax.jit(method.init)(key, batches[f"2 x {full}"])

    def gradient(params, state, batch):
        return jax.value_and_grad(method.loss, has_aux=True)(params, state, batch, key=key)

    programs = {
        name: jax.jit(gradient).lower(params, state, batch).compile()
        for name, batch in batches.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(1 + arguments.repeats):
        for name, program in programs.items():
            began = time.perf_counter()
            jax.block_until_ready(program(params, state, batches[name]))
            if repeat:  # the first is a warm-up
                seconds[name].append(time.perf_counter() - began)
    return [
        {
            "views": name,
            "pixels": sum(side * side for side in sides),
            "flops": program.cost_analysis()["flops"],
            "temporaries_bytes": program.memory_analysis().temp_size_in_bytes,
            "seconds": statistics.median(seconds[name]),
        }
        for (name, sides), program in zip(cases.items(), programs.values(), strict=True)
    ]


def build_method(arguments: argparse.Namespace):
    from jaxcl import encoders
    from jaxcl.methods import SwAV

    if arguments.encoder == "vit":
        encoder = encoders.ViT(
            patch=8, image_size=arguments.size, width=192, depth=6, heads=3, pool="mean"
        )
    else:
        encoder = encoders.ResNet(18, stem="cifar", width=32)
    return SwAV(encoder, projector=encoders.swav_projector(128, hidden=512), prototypes=64)


def print_table(document: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"SwAV, {document['encoder']}, batch {document['batch_size']}; "
        f"{document['device']}, jax {document['jax']}"
    )
    table.add_column("views")
    for column in ("pixels", "operations", "temporaries, MB", "ms a step", "time"):
        table.add_column(column, justify="right")
    first = document["results"][0]
    for row in document["results"]:
        ratios = {name: row[name] / first[name] for name in ("pixels", "flops", "seconds")}
        table.add_row(
            row["views"],
            f"{ratios['pixels']:.2f}",
            f"{ratios['flops']:.2f}",
            f"{row['temporaries_bytes'] / 1e6:,.0f}",
            f"{1000 * row['seconds']:,.0f}",
            f"{ratios['seconds']:.2f}",
        )
    Console(width=None if sys.stdout.isatty() else 100).print(table)


if __name__ == "__main__":
    main()
