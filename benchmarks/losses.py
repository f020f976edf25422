"""Time and memory of contrastive losses, value and every gradient, against the batch size.

    python benchmarks/losses.py
    python benchmarks/losses.py --task views --sizes 1024 2048 4096 --plot losses.png
    python benchmarks/losses.py --sizes 65536 --negatives 1 --repeats 1

Task "queue": N queries and positives against 2 N shared negatives (--negatives), float32. Task
"views": NT-Xent over N pairs. Task "both": CLIP's loss over N pairs. Peers run where they are
installed: torch's dense cross entropy and lightly's NTXentLoss (pip install torch lightly), and
optax's ntxent; Inf-CL has kernels for GPUs only. Each figure comes from a process of its own, in
turns, so that what else the machine does falls on all. What would need more than --limit of memory
is left out.
"""

import argparse
import importlib.util
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

TASKS = ("queue", "views", "both")
TEMPERATURE = 0.1
GB = 1e9


def jaxcl_loss(task: str, backend: str) -> Callable:
    from jaxcl import losses

    options = {"temperature": TEMPERATURE, "backend": backend}
    if task == "queue":
        return lambda q, p, k: losses.info_nce(q, p, k, **options).mean()
    if task == "views":
        return lambda z0, z1: losses.nt_xent(z0, z1, **options).mean()
    log_scale = -math.log(options.pop("temperature"))
    return lambda image, text: losses.clip(image, text, logit_scale=log_scale, **options).mean()


def optax_loss(task: str) -> Callable:
    import jax.numpy as jnp
    import optax

    def loss(z0, z1):
        labels = jnp.tile(jnp.arange(len(z0)), 2)
        return optax.losses.ntxent(jnp.concatenate([z0, z1]), labels, TEMPERATURE)

    return loss


def torch_dense(task: str) -> Callable:
    import torch
    from torch.nn import functional

    def of_queue(q, p, k):
        q, p, k = (functional.normalize(x, dim=1) for x in (q, p, k))
        logits = torch.cat([(q * p).sum(1, keepdim=True), q @ k.T], 1) / TEMPERATURE
        return functional.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))

    def of_views(z0, z1):
        anchors = functional.normalize(torch.cat([z0, z1]), dim=1)
        logits = anchors @ anchors.T / TEMPERATURE
        logits.fill_diagonal_(-torch.inf)
        return functional.cross_entropy(logits, torch.arange(len(anchors)).roll(len(z0)))

    def of_both(image, text):
        image, text = (functional.normalize(x, dim=1) for x in (image, text))
        logits, labels = image @ text.T / TEMPERATURE, torch.arange(len(image))
        return (
            functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)
        ) / 2

    return {"queue": of_queue, "views": of_views, "both": of_both}[task]


def lightly_loss(task: str) -> Callable:
    from lightly.loss import NTXentLoss

    return NTXentLoss(temperature=TEMPERATURE)


def needed(name: str, task: str, size: int, dim: int, negatives: int) -> float:
    """Bytes that an implementation needs at most, roughly, so that none fills the machine."""
    rows = 2 * size if task == "views" else size
    columns = {"queue": negatives * size, "views": 2 * size, "both": size}[task]
    if name == "jaxcl tiled":
        return 4.0 * dim * 5 * (rows + columns)
    if name == "optax":
        return 4.0 * rows * columns * dim
    return 4.0 * rows * columns * 4


IMPLEMENTATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "jaxcl tiled": ("jax", TASKS),
    "jaxcl dense": ("jax", TASKS),
    "torch dense": ("torch", TASKS),
    "optax": ("jax", ("views",)),
    "lightly": ("lightly", ("views",)),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=TASKS, default="queue")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384])
    parser.add_argument(
        "--negatives", type=int, default=2, help="task queue: shared negatives for each query"
    )
    parser.add_argument("--dim", type=int, default=128, help="width of the embeddings")
    parser.add_argument("--repeats", type=int, default=3, help="processes for each figure")
    parser.add_argument("--limit", type=float, default=8.0, help="memory for one figure, GB")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--plot", metavar="FILE.png", help="draw time and memory against N")
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        name, size = options.cell
        print(json.dumps(measure(name, options.task, int(size), options.dim, options.negatives)))
        return
    results = run_all(options)
    print_table(results, options)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    if options.plot:
        plot(results, options)


def measure(name: str, task: str, size: int, dim: int, negatives: int) -> dict:
    """One implementation at one size, in this process: seconds, and memory above the inputs."""
    import numpy as np

    rows = [size, size, negatives * size] if task == "queue" else [size, size]
    random = np.random.default_rng(0)
    arrays = [random.normal(size=(count, dim)).astype(np.float32) for count in rows]
    temporaries = None
    if name in ("torch dense", "lightly"):
        import torch

        tensors = [torch.from_numpy(array).requires_grad_() for array in arrays]
        loss = torch_dense(task) if name == "torch dense" else lightly_loss(task)

        def run() -> float:
            value = loss(*tensors)
            torch.autograd.grad(value, tensors)
            return float(value)
    else:
        import jax

        if name == "optax":
            function = optax_loss(task)
        else:
            function = jaxcl_loss(task, name.removeprefix("jaxcl "))
        placed = jax.device_put(arrays)
        program = jax.jit(jax.value_and_grad(function, range(len(placed))))
        compiled = program.lower(*placed).compile()
        temporaries = compiled.memory_analysis().temp_size_in_bytes

        def run() -> float:
            return float(jax.block_until_ready(compiled(*placed))[0])

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    value = run()
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "loss": value,
        "seconds": min(seconds),
        "resident_growth_bytes": 1024 * (peak - before),
        "process_bytes": 1024 * peak,
        "compiled_temporaries_bytes": temporaries,
    }


def run_all(options: argparse.Namespace) -> list[dict]:
    """All figures, in turns; a row for each implementation and size."""
    names = [
        name
        for name, (package, tasks) in IMPLEMENTATIONS.items()
        if options.task in tasks and importlib.util.find_spec(package)
    ]
    results = []
    for size in options.sizes:
        fitting = [
            name
            for name in names
            if needed(name, options.task, size, options.dim, options.negatives)
            <= options.limit * GB
        ]
        found: dict[str, list[dict]] = {name: [] for name in fitting}
        for _ in range(options.repeats):
            for name in fitting:
                found[name].append(run_cell(name, size, options))
        for name, repeats in found.items():
            seconds = [each["seconds"] for each in repeats]
            results.append(
                {
                    "implementation": name,
                    "size": size,
                    **repeats[-1],
                    "seconds": statistics.median(seconds),
                    "seconds_lowest": min(seconds),
                    "seconds_highest": max(seconds),
                }
            )
            print(f"N = {size}: {name} {statistics.median(seconds):.3f} s", file=sys.stderr)
    return results


def run_cell(name: str, size: int, options: argparse.Namespace) -> dict:
    command = [sys.executable, __file__, "--task", options.task, "--dim", str(options.dim)]
    command += ["--negatives", str(options.negatives)]
    done = subprocess.run(
        [*command, "--cell", name, str(size)], check=True, capture_output=True, env=os.environ
    )
    return json.loads(done.stdout.splitlines()[-1])


def print_table(results: list[dict], options: argparse.Namespace) -> None:
    print(f"task {options.task}, D = {options.dim}, value and every gradient, float32")
    print(
        "seconds: median (lowest to highest); memory: compiled temporaries, growth of the process, "
        "the process"
    )
    peers = {r["size"]: r["seconds"] for r in results if r["implementation"] == "torch dense"}
    for row in results:
        temporaries = row["compiled_temporaries_bytes"]
        ratio = peers.get(row["size"], 0) / row["seconds"]
        print(
            f"N {row['size']:>6}  {row['implementation']:<12} {row['seconds']:8.3f} s "
            f"({row['seconds_lowest']:.3f} to {row['seconds_highest']:.3f})  "
            + ("        -   " if temporaries is None else f"{temporaries / 1e6:9.1f} MB")
            + f" {row['resident_growth_bytes'] / 1e6:9.1f} MB"
            + f" {row['process_bytes'] / 1e6:7.0f} MB  loss {row['loss']:.5f}"
            + (f"  torch / this {ratio:.2f}" if ratio else "")
        )


def plot(results: list[dict], options: argparse.Namespace) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    for name in dict.fromkeys(row["implementation"] for row in results):
        rows = [row for row in results if row["implementation"] == name]
        sizes = [row["size"] for row in rows]
        time_axes.plot(sizes, [row["seconds"] for row in rows], "o-", label=name)
        memory = [max(row["resident_growth_bytes"], 1e6) / 1e6 for row in rows]
        memory_axes.plot(sizes, memory, "o-", label=name)
    for axes, label in ((time_axes, "seconds"), (memory_axes, "growth of the process, MB")):
        axes.set(xscale="log", yscale="log", xlabel="batch size N", ylabel=label)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(f"{options.task}: value and every gradient, D = {options.dim}")
    figure.savefig(options.plot, dpi=150)


if __name__ == "__main__":
    main()
