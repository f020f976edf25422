"""Examples a second of a config on 1 to 8 devices and 1 to 4 processes, beside the machine's limit.

    python benchmarks/scaling.py configs/quickstart.py --devices 1 2 4 8 --processes 1 2 4

Every device has as many examples as one alone (--per-device). The limit is what as many trainings
reach that know nothing of each other, all at once, on one device each: on virtual devices, which
share the cores, no program can be faster. Both take turns. Other options override the config.

    python benchmarks/scaling.py CONFIG --topologies v5e:2x4 v5e:16x16 --examples 1281167 \
        --image 256x256x3

instead asks the compiler for TPU what a chip computes, holds and sends on ever more chips.
"""

import argparse
import dataclasses
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

from jaxcl.compilation import keep_programs, prefer_fast_convolutions
from jaxcl.data.batches import available_cores


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--per-device", type=int, default=64, help="examples of each (default: 64)")
    parser.add_argument("--steps", type=int, default=20, help="of a round (default: 20)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--topologies", nargs="+", metavar="CHIP:SHAPE", help="ask the compiler")
    parser.add_argument("--examples", type=int, help="for --topologies: plan without the data")
    parser.add_argument("--image", help="likewise, as in 256x256x3")
    parser.add_argument("--json", action="store_true", help="one JSON document, no table")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    arguments, arguments.overrides = parser.parse_known_args()
    if (arguments.examples is None) != (arguments.image is None):
        parser.error("--examples and --image go together")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    prefer_fast_convolutions()
    keep_programs()  # most workers compile the same
    if arguments.worker is not None:
        return work(arguments, **arguments.worker)
    if arguments.topologies:
        return ask_the_compiler(arguments)
    settings = [
        (devices, processes)
        for devices in arguments.devices
        for processes in arguments.processes
        if devices % processes == 0
    ]
    results = [measure(arguments, devices, processes) for devices, processes in settings]
    if arguments.json:
        print(json.dumps(results, indent=1))
    else:
        print_table(arguments, results)


def measure(arguments: argparse.Namespace, devices: int, processes: int) -> dict:
    """Rates of one program over all devices, and of as many programs of one device, in turns."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    together = [
        start(arguments, devices=devices // processes, processes=processes, index=i, port=port)
        for i in range(processes)
    ]
    apart = [start(arguments, devices=1) for _ in range(devices)]
    size = devices * arguments.per_device
    rates: dict[str, list[float]] = {"together": [], "apart": []}
    for process in (*together, *apart):
        expect(process, "ready")  # it has compiled
    for _ in range(arguments.rounds):
        for side, running in (("together", together), ("apart", apart)):
            began = time.perf_counter()
            for process in running:
                print("go", file=process.stdin, flush=True)
            for process in running:
                expect(process, "done")
            rates[side].append(size * arguments.steps / (time.perf_counter() - began))
    for process in (*together, *apart):
        process.stdin.close()  # the last line
    for process in (*together, *apart):
        process.wait()
    ratios = [a / b for a, b in zip(rates["together"], rates["apart"], strict=True)]
    return {
        "devices": devices,
        "processes": processes,
        "batch_size": size,
        **{f"{side}_examples_per_second": spread(found) for side, found in rates.items()},
        "efficiency": spread(ratios),
    }


def start(arguments: argparse.Namespace, *, devices: int, **place) -> subprocess.Popen:
    """A worker with so many virtual devices of its own."""
    task = json.dumps({"devices": devices, **place})
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, *sys.argv, "--worker", task],
        env=os.environ | {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def expect(process: subprocess.Popen, word: str) -> None:
    """Waits for a worker's word; what libraries print meanwhile, as gloo does, is passed over."""
    while (line := process.stdout.readline()).strip() != word:
        if not line:
            sys.exit("a worker failed: see above")


def work(
    arguments: argparse.Namespace,
    devices: int,
    processes: int = 1,
    index: int = 0,
    port: int | None = None,
) -> None:
    """Compiles, says so, and takes a round of steps for each line that comes."""
    import jax

    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, index)
    from jaxcl.cli import load_config
    from jaxcl.data import batch_at
    from jaxcl.overrides import override
    from jaxcl.training import set_up

    experiment = override(load_config(arguments.config), arguments.overrides, program="scaling.py")
    size = devices * processes * arguments.per_device
    setup = set_up(
        dataclasses.replace(
            experiment,
            train=dataclasses.replace(experiment.train, batch_size=size),
            run=dataclasses.replace(experiment.run, devices=None),
        )
    )
    whole = batch_at(setup.source, 0, batch_size=size, seed=0)
    rows = slice(index * size // processes, (index + 1) * size // processes)
    host = {name: array[rows] for name, array in whole.items() if name != "replaced"}
    state = setup.start()

    def take(count: int) -> None:
        nonlocal state
        for _ in range(count):
            state, metrics = setup.step(state, setup.devices.split(host))
        jax.block_until_ready(metrics)

    take(2)
    print("ready", flush=True)
    for _ in sys.stdin:
        take(arguments.steps)
        print("done", flush=True)


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def ask_the_compiler(arguments: argparse.Namespace) -> None:
    """Plans of as many examples a chip on each slice."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from jaxcl import planning
    from jaxcl.cli import load_config
    from jaxcl.overrides import override

    experiment = override(load_config(arguments.config), arguments.overrides, program="scaling.py")
    if arguments.examples:
        sides = tuple(map(int, arguments.image.split("x")))
        described = planning.Described(arguments.examples, sides)
        experiment = dataclasses.replace(experiment, data=described, evaluate=None)
    plans = []
    for name in arguments.topologies:
        where = planning.find_slice(name)
        size = where.chips * arguments.per_device
        plans.append(planning.plan(experiment, where, batch_size=size))
    text = json.dumps(planning.to_json(plans), indent=1)
    print(text if arguments.json else planning.report(plans))


def print_table(arguments: argparse.Namespace, results: list[dict]) -> None:
    import jax
    from rich.console import Console
    from rich.table import Table

    cores = available_cores()
    table = Table(
        title=f"{arguments.config}: {arguments.per_device} examples a device, {cores} cores, "
        f"jax {jax.__version__}"
    )
    for column in ("devices", "processes", "examples/s", "apart, examples/s", "efficiency"):
        table.add_column(column, justify="right")
    for each in results:
        together, apart = (each[f"{side}_examples_per_second"] for side in ("together", "apart"))
        share = each["efficiency"]
        table.add_row(
            str(each["devices"]),
            str(each["processes"]),
            f"{together['median']:,.0f}",
            f"{apart['median']:,.0f}",
            f"{share['median']:.2f} ({share['lowest']:.2f} to {share['highest']:.2f})",
        )
    Console(width=None if sys.stdout.isatty() else 100).print(table)


if __name__ == "__main__":
    main()
