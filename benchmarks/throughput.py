"""Examples a second of a config: reading, views, the step without them, and all together.

    python benchmarks/throughput.py configs/quickstart.py --batch-size 256 --devices 1

Other options override the config, as on the command line: --method.encoder.dtype bfloat16
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from jaxcl.compilation import prefer_fast_convolutions

MAPPINGS = ("pmap", "shard_map")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--batch-size", type=int, help="default: the config's")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--mapping", choices=[*MAPPINGS, "both"], default="pmap")
    parser.add_argument("--steps", type=int, default=20, help="timed steps (default: 20)")
    parser.add_argument("--json", action="store_true", help="one JSON document, no table")
    arguments, options = parser.parse_known_args()
    arguments.overrides = options
    return arguments


def main() -> None:
    arguments = parse_arguments()
    prefer_fast_convolutions()
    if arguments.devices > 1 and "host_platform_device_count" not in os.environ["XLA_FLAGS"]:
        os.environ["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={arguments.devices}"

    mappings = MAPPINGS if arguments.mapping == "both" else (arguments.mapping,)
    results = [measure(arguments, mapping) for mapping in mappings]
    document = {"machine": describe_machine(), "results": results}
    if arguments.json:
        print(json.dumps(document, indent=1))
    else:
        print_table(document)


def measure(arguments: argparse.Namespace, mapping: str) -> dict:
    """Times the parts of one config under one mapping."""
    import dataclasses

    import jax

    from jaxcl.augment import batch_views
    from jaxcl.cli import load_config
    from jaxcl.data import Batches
    from jaxcl.methods import Batch
    from jaxcl.overrides import override
    from jaxcl.training import set_up

    experiment = load_config(arguments.config)
    experiment = override(experiment, arguments.overrides, program="throughput.py")
    size = arguments.batch_size or experiment.train.batch_size
    experiment = dataclasses.replace(
        experiment,
        train=dataclasses.replace(experiment.train, batch_size=size),
        run=dataclasses.replace(experiment.run, devices=arguments.devices, mapping=mapping),
    )
    setup = set_up(experiment)
    steps = arguments.steps
    batches = iter(Batches(setup.source, size, seed=0, start=0))
    host = next(batches)
    host.pop("replaced")

    def read(count: int) -> None:
        for _ in range(count):
            next(batches)

    images, indices = jax.device_put((host["image"], host["index"]))
    draw = jax.jit(lambda key, i, n: batch_views(experiment.views, key, i, n))

    def augment(count: int) -> None:
        for number in range(count):
            views = draw(jax.random.key(number), images, indices)
        jax.block_until_ready(views)

    # The method's own step on ready views, on one device's share of the batch.
    method = experiment.method
    share = size // arguments.devices
    views = jax.tree.map(lambda view: view[:share], draw(jax.random.key(0), images, indices))
    state = setup.init_state()
    batch = Batch(views, indices[:share])
    gradient = jax.jit(
        lambda params, method_state: jax.value_and_grad(method.loss, has_aux=True)(
            params, method_state, batch, key=jax.random.key(0)
        )
    )

    def differentiate(count: int) -> None:
        for _ in range(count):
            result = gradient(state.params, state.method)
        jax.block_until_ready(result)

    program = setup.step
    placed = setup.devices.split(host)
    running = setup.devices.replicate(state)
    compiled = program.lower(running, placed).compile()
    cost = compiled.cost_analysis() or {}
    cost = cost[0] if isinstance(cost, list) else cost
    flops = float(cost.get("flops", 0.0)) * arguments.devices  # the compiler counts one device

    def train(count: int) -> None:
        nonlocal running
        for _ in range(count):
            running, metrics = program(running, setup.devices.split(host))
        jax.block_until_ready(metrics)

    def train_with_input(count: int) -> None:
        nonlocal running
        for _ in range(count):
            batch = next(batches)
            batch.pop("replaced")
            running, metrics = program(running, setup.devices.split(batch))
        jax.block_until_ready(metrics)

    rates = {
        "input": rate(read, size, steps),
        "views": rate(augment, size, steps),
        "loss and gradient": rate(differentiate, share, steps),
        "step with views": rate(train, size, steps),
        "everything": rate(train_with_input, size, steps),
    }
    peak = matmul_flops()
    achieved = flops * rates["step with views"]["median"] / size
    return {
        "config": str(arguments.config),
        "overrides": arguments.overrides,
        "mapping": mapping,
        "devices": arguments.devices,
        "batch_size": size,
        "examples_per_second": rates,
        "flops_per_step": flops,
        "matmul_flops_per_second": peak,
        "share_of_matmul_speed": achieved / peak,
    }


def rate(run: Callable[[int], None], examples: int, steps: int, repeats: int = 5) -> dict:
    """Examples a second: median, lowest and highest of several repeats after a warm-up."""
    run(2)
    each = max(1, steps // repeats)
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        run(each)
        rates.append(each * examples / (time.perf_counter() - start))
    return {"median": statistics.median(rates), "lowest": min(rates), "highest": max(rates)}


def matmul_flops(size: int = 2048) -> float:
    """Floating-point operations a second of a large float32 matrix product, the best of five."""
    import jax
    import jax.numpy as jnp

    matrix = jnp.ones((size, size))
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def describe_machine() -> dict:
    import jax

    return {
        "device": jax.devices()[0].device_kind,
        "platform": jax.devices()[0].platform,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def print_table(document: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 100)
    machine = document["machine"]
    for result in document["results"]:
        table = Table(
            title=f"{result['config']}: batch {result['batch_size']}, {result['devices']} "
            f"{machine['platform']} device(s), {result['mapping']}, jax {machine['jax']}"
        )
        table.add_column("part")
        for column in ("median", "lowest", "highest"):
            table.add_column(f"{column}, examples/s", justify="right")
        for part, rates in result["examples_per_second"].items():
            table.add_row(part, *(f"{rates[key]:,.0f}" for key in ("median", "lowest", "highest")))
        console.print(table)
        console.print(
            f"{result['flops_per_step'] / 1e9:.2f} GFLOP a step by the compiler; "
            f"{result['share_of_matmul_speed']:.0%} of this machine's matrix product "
            f"({result['matmul_flops_per_second'] / 1e9:.0f} GFLOP/s)"
        )


if __name__ == "__main__":
    main()
