"""Examples a second of a config: reading, views, the step without them, and all together.

    python benchmarks/throughput.py configs/quickstart.py --batch-size 256 --devices 1
    python benchmarks/throughput.py configs/moco_v2_emoji.py --data.path emoji.npz --peer lightly

Other options override the config, as on the command line: --method.encoder.dtype bfloat16. With
--peer, a MoCo of a ResNet with the CIFAR stem trains by lightly too, on the same pictures, batch
and sizes, in turns with jaxcl's: as lightly's examples do it, and with channels last. Its
environment (torch, 6 GB) is made first, in the working directory.
"""

import argparse
import dataclasses
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lightly_environment import environment

from jaxcl.compilation import keep_pages, overlap_exchanges, prefer_fast_convolutions

MAPPINGS = ("pmap", "shard_map")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--batch-size", type=int, help="default: the config's")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--mapping", choices=[*MAPPINGS, "both"], default="pmap")
    parser.add_argument("--steps", type=int, default=20, help="timed steps (default: 20)")
    parser.add_argument("--peer", choices=["lightly"], help="measure that beside jaxcl, in turns")
    parser.add_argument(
        "--environment", type=Path, default=Path("lightly-environment"), help="lightly's, made here"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document, no table")
    arguments, options = parser.parse_known_args()
    arguments.overrides = options
    return arguments


def main() -> None:
    arguments = parse_arguments()
    prefer_fast_convolutions()
    overlap_exchanges()
    keep_pages()
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
    import jax
    import numpy as np

    from jaxcl import augment
    from jaxcl.augment import batch_views
    from jaxcl.cli import load_config
    from jaxcl.data import Batches
    from jaxcl.overrides import override
    from jaxcl.planning import count_flops
    from jaxcl.planning.chips import chip_of
    from jaxcl.training import set_up

    experiment = load_config(arguments.config)
    experiment = override(experiment, arguments.overrides, program="throughput.py")
    size = arguments.batch_size or experiment.train.batch_size
    experiment = dataclasses.replace(
        experiment,
        train=dataclasses.replace(experiment.train, batch_size=size),
        run=dataclasses.replace(experiment.run, devices=arguments.devices, mapping=mapping),
        evaluate=None,  # its data need not be here
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

    def augment_batches(count: int) -> None:
        for number in range(count):
            views = draw(jax.random.key(number), images, indices)
        jax.block_until_ready(views)

    # The step on views that are ready, as pictures that their views leave as they are.
    views = draw(jax.random.key(0), images, indices)
    plain = augment.Views((augment.RandomHorizontalFlip(0.0),) * len(views))
    ready = host | {"image": np.asarray(255 * views[0].clip(0, 1)).astype(np.uint8)}
    plainly = dataclasses.replace(setup, experiment=dataclasses.replace(experiment, views=plain))

    without_views = setup.start()

    def train_without_views(count: int) -> None:
        nonlocal without_views
        for _ in range(count):
            without_views, metrics = plainly.step(without_views, setup.devices.split(ready))
        jax.block_until_ready(metrics)

    program = setup.step
    placed = setup.devices.split(host)
    running = setup.start()
    # As the program is written: a compiler counts the body of a loop once.
    model_flops = count_flops(jax.make_jaxpr(program)(running, placed))  # of one device
    flops = model_flops * arguments.devices

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

    parts = {
        "input": read,
        "views": augment_batches,
        "step without views": train_without_views,
        "step with views": train,
        "everything": train_with_input,
    }
    rates = {part: rate({"jaxcl": run}, size, steps)["jaxcl"] for part, run in parts.items()}
    beside = {}
    if arguments.peer:
        beside = compare(arguments, experiment, setup.source, size, parts)
    peak = matmul_flops()
    chip = chip_of(jax.devices()[0].device_kind)
    achieved = flops * rates["step with views"]["median"] / size
    return {
        "config": str(arguments.config),
        "overrides": arguments.overrides,
        "mapping": mapping,
        "devices": arguments.devices,
        "batch_size": size,
        "examples_per_second": rates,
        "beside_lightly": beside,
        "flops_per_step": flops,
        "matmul_flops_per_second": peak,
        "share_of_matmul_speed": achieved / peak,
        # Model FLOPs utilization: matrix products and convolutions over the chip's bfloat16 peak.
        "mfu": chip and model_flops / size * rates["step with views"]["median"] / chip.flops,
    }


def rate(
    sides: dict[str, Callable[[int], None]], examples: int, steps: int, repeats: int = 5
) -> dict[str, dict]:
    """Examples a second of each side: median, lowest and highest of several rounds, in turns."""
    for run in sides.values():
        run(2)
    each = max(1, steps // repeats)
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, run in sides.items():
            start = time.perf_counter()
            run(each)
            rates[side].append(each * examples / (time.perf_counter() - start))
    return {
        side: {"median": statistics.median(found), "lowest": min(found), "highest": max(found)}
        for side, found in rates.items()
    }


def compare(
    arguments: argparse.Namespace,
    experiment,
    source,
    size: int,
    parts: dict[str, Callable[[int], None]],
) -> dict[str, dict]:
    """Rates of the step and of everything, of jaxcl and lightly in turns."""
    import numpy as np

    from jaxcl import encoders, methods

    method = experiment.method
    encoder = method.encoder
    is_like = isinstance(method, methods.MoCo) and isinstance(encoder, encoders.ResNet)
    if not is_like or encoder.stem != "cifar" or arguments.devices != 1:
        sys.exit("--peer lightly takes a MoCo of a ResNet with the CIFAR stem, on one device")
    python = environment(arguments.environment)
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.npy"
        np.save(images, np.stack([source[record]["image"] for record in range(len(source))]))
        views = str(experiment.views)
        task = {
            "images": str(images),
            "depth": encoder.depth,
            "width": encoder.width,
            "dim": experiment.method.projector.widths[-1],
            "queue_size": method.queue_size,
            "temperature": method.temperature,
            "momentum": method.momentum,
            "batch_size": size,
            "size": source.image_shape[0],
            "strength": 0.5,
            "blur": "GaussianBlur" in views,
            "workers": len(os.sched_getaffinity(0)),
        }
        layouts = {"lightly": "contiguous_format", "lightly, channels last": "channels_last"}
        peers = {
            name: subprocess.Popen(
                [python, Path(__file__).with_name("throughput_lightly.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            for name in layouts
        }
        for name, peer in peers.items():
            print(json.dumps(task | {"layout": layouts[name]}), file=peer.stdin, flush=True)

        def run_there(peer: subprocess.Popen, part: str) -> Callable[[int], None]:
            def run(count: int) -> None:
                os.killpg(peer.pid, signal.SIGCONT)
                print(part, count, file=peer.stdin, flush=True)
                if not peer.stdout.readline():
                    sys.exit("lightly's side failed: see above")
                # Its workers would read ahead while it is jaxcl's turn.
                os.killpg(peer.pid, signal.SIGSTOP)

            return run

        rates = {
            part: rate(
                {"jaxcl": parts[part]}
                | {name: run_there(peer, part) for name, peer in peers.items()},
                size,
                arguments.steps,
            )
            for part in ("step without views", "everything")
        }
        for peer in peers.values():
            os.killpg(peer.pid, signal.SIGKILL)
    return rates


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
        for part, sides in result["beside_lightly"].items():
            peer = Table(title=f"{part}, in turns")
            for column in ("", "median, examples/s", "lowest", "highest", "jaxcl's to it"):
                peer.add_column(column, justify="right" if column else "left")
            ours = sides["jaxcl"]["median"]
            for side, rates in sides.items():
                cells = [f"{rates[key]:,.1f}" for key in ("median", "lowest", "highest")]
                peer.add_row(side, *cells, f"{ours / rates['median']:.2f}")
            console.print(peer)
        console.print(
            f"{result['flops_per_step'] / 1e9:.2f} GFLOP a step, of products and convolutions; "
            f"{result['share_of_matmul_speed']:.0%} of this machine's matrix product "
            f"({result['matmul_flops_per_second'] / 1e9:.0f} GFLOP/s)"
            + ("" if result["mfu"] is None else f"; MFU {result['mfu']:.1%} of the chip's peak")
        )


if __name__ == "__main__":
    main()
