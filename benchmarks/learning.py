"""Do jaxcl's methods learn what lightly's do? Both at equal encoder, views, batch and budget.

    python benchmarks/learning.py --fashion FASHION.npz --emoji EMOJI.npz
    python benchmarks/learning.py --fashion FASHION.npz --methods simclr byol --epochs 10 --size 28

FASHION.npz and EMOJI.npz are the files that configs/fashion_memory.py and configs/moco_v2_emoji.py
describe. lightly runs in an environment of its own, made once (--environment; about 2 GB). Both
sides train on the very same batches and views, start at the same encoder, and have the same
optimizer; heads and losses are each library's own. Their features are scored by the same functions:
Fashion-MNIST by 20 nearest neighbours and a linear probe, emoji by finding the same emoji as the
other studio drew it (R@1) and its subcategory by 5 nearest neighbours.

The tables have mean and standard deviation over the seeds; the difference, of runs of equal seeds,
with its standard error; and how many first losses of every seed agree to 0.1 %. `--alike` runs
lightly a further time with jaxcl's habits where these differ (`learning_lightly.py` says in what):
what is left between losses that then agree at first is rounding.

Each run has a process and a core of its own; finished ones are kept (--results) and not repeated.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from lightly_environment import environment

from jaxcl.compilation import prefer_fast_convolutions

METHODS = (
    "moco_v2",
    "simclr",
    "dcl",
    "byol",
    "simsiam",
    "nnclr",
    "barlow_twins",
    "vicreg",
    "swav",
    "dino",
)
SIDES = ("jaxcl", "lightly")
ALIKE = "lightly alike"
DIFFERENT_HABITS = ("simclr", "dcl", "nnclr", "swav", "dino")
EPOCHS, SIZE = {"fashion": 1.0, "emoji": 10.0}, {"fashion": 14, "emoji": 16}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fashion", metavar="FILE.npz", help="Fashion-MNIST; without it, not run")
    parser.add_argument("--emoji", metavar="FILE.npz", help="emoji; without it, not run")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each method and side")
    parser.add_argument("--alike", action="store_true", help="lightly with jaxcl's habits too")
    parser.add_argument("--epochs", type=float, help=f"passes over the data; {EPOCHS} if not given")
    parser.add_argument("--size", type=int, help=f"side of the pictures; {SIZE} if not given")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    parser.add_argument(
        "--environment", type=Path, default=Path("lightly-environment"), help="lightly's, made here"
    )
    parser.add_argument("--results", type=Path, default=Path("learning.json"), help="kept there")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(run(json.loads(options.run))))
        return
    files = {name: getattr(options, name) for name in EPOCHS if getattr(options, name)}
    if not files:
        parser.error("name the data: --fashion FILE.npz, --emoji FILE.npz or both")
    for file in files.values():
        if not Path(file).is_file():
            parser.error(f"{file} does not exist")
    runs = [
        {
            "task": task,
            "file": str(Path(file).resolve()),
            "epochs": options.epochs or EPOCHS[task],
            "size": options.size or SIZE[task],
            "method": method,
            "side": side,
            "seed": seed,
        }
        for task, file in files.items()
        for seed in range(options.seeds)
        for method in options.methods
        for side in (*SIDES, *([ALIKE] if options.alike and method in DIFFERENT_HABITS else []))
    ]
    theirs = str(environment(options.environment))
    pythons = {"jaxcl": sys.executable, "lightly": theirs, ALIKE: theirs}
    results = run_all(runs, pythons, options)
    print(table(results, runs))


def run_all(runs: list[dict], pythons: dict[str, str], options: argparse.Namespace) -> dict:
    """All runs, `options.jobs` at a time, each on a core of its own; by what describes them."""
    results = json.loads(options.results.read_text()) if options.results.exists() else {}
    missing = [each for each in runs if describe(each) not in results]
    cores: SimpleQueue[int] = SimpleQueue()
    for core in range(options.jobs):
        cores.put(core)
    began, done = time.monotonic(), 0

    def one(each: dict) -> None:
        nonlocal done
        core = cores.get()
        try:
            command = [pythons[each["side"]], __file__, "--run", json.dumps({**each, "core": core})]
            found = subprocess.run(command, capture_output=True, text=True)
        finally:
            cores.put(core)
        if found.returncode:
            raise SystemExit(f"{describe(each)} failed:\n{found.stderr[-2000:]}")
        results[describe(each)] = json.loads(found.stdout.splitlines()[-1])
        options.results.write_text(json.dumps(results, indent=1) + "\n")
        done += 1
        left = (time.monotonic() - began) / done * (len(missing) - done)
        scores = " ".join(f"{k} {v:.1f}" for k, v in results[describe(each)]["scores"].items())
        print(f"{describe(each)}: {scores} ({left / 60:.0f} min left)", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(one, missing))
    return results


def describe(each: dict) -> str:
    numbers = f"{each['epochs']:g} epochs, {each['size']} pixels, seed {each['seed']}"
    return f"{each['task']} {each['method']} {each['side']}, {numbers}"


def run(each: dict) -> dict:
    """One run in this process: scores in %, seconds, the loss of each step."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[each["core"]]})
    os.environ["JAX_PLATFORMS"] = "cpu"  # both sides on the same machine
    prefer_fast_convolutions()
    import learning_setup

    task = learning_setup.make_task(
        each["task"], each["file"], size=each["size"], epochs=each["epochs"]
    )
    if each["side"] == "jaxcl":
        train = learning_setup.train
    else:
        import learning_lightly
        import torch

        torch.set_num_threads(1)
        train = partial(learning_lightly.train, alike=each["side"] == ALIKE)
    began = time.monotonic()
    embed, history = train(each["method"], task, each["seed"])
    seconds = time.monotonic() - began
    scores = learning_setup.score(task, embed)
    return {"scores": scores, "seconds": round(seconds, 1), "loss": [round(x, 4) for x in history]}


def table(results: dict, runs: list[dict]) -> str:
    """A Markdown table for each task; a row for each method and each other side."""
    lines = []
    for task in dict.fromkeys(each["task"] for each in runs):
        of_task = [each for each in runs if each["task"] == task]
        names = list(results[describe(of_task[0])]["scores"])
        heads = ["method", "against"]
        heads += [head for name in names for head in (name, "against's", "difference")]
        heads += ["equal losses"]
        lines += ["", f"{task}, {of_task[0]['epochs']:g} epochs, {of_task[0]['size']} pixels, %:"]
        lines += ["", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        for method in dict.fromkeys(each["method"] for each in of_task):
            by_side: dict[str, list[dict]] = {}
            for each in of_task:
                if each["method"] == method:
                    by_side.setdefault(each["side"], []).append(results[describe(each)])
            ours = by_side.pop("jaxcl")
            for side, theirs in by_side.items():
                cells = compare(ours, theirs, names)
                lines.append(f"| {method} | {side} | " + " | ".join(cells) + " |")
    return "\n".join(lines[1:])


def compare(ours: list[dict], theirs: list[dict], names: list[str]) -> list[str]:
    """Cells of the table: scores of both sides by name, their difference, and equal losses."""
    import numpy as np

    def spread(values: np.ndarray) -> float:
        return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0

    cells = []
    for name in names:
        mine, others = (np.array([run["scores"][name] for run in side]) for side in (ours, theirs))
        difference = mine - others
        error = spread(difference) / len(difference) ** 0.5
        cells += [f"{x.mean():.1f} ± {spread(x):.1f}" for x in (mine, others)]
        cells += [f"{difference.mean():+.1f} ± {error:.1f}"]
    equal = [
        int(np.cumprod(np.isclose(one["loss"], other["loss"], rtol=1e-3, atol=1e-4)).sum())
        for one, other in zip(ours, theirs, strict=True)
    ]
    return [*cells, f"{min(equal)} of {len(ours[0]['loss'])}"]


if __name__ == "__main__":
    main()
