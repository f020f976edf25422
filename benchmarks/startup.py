"""Seconds from the command to the first step: nothing kept, programs kept, and resuming.

    python benchmarks/startup.py configs/quickstart.py --repeats 3

Beside it the seconds that Python takes to import jax and find the devices, which is the limit.
Other options override the config.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON document, no table")
    arguments, arguments.overrides = parser.parse_known_args()
    return arguments


def main() -> None:
    arguments = parse_arguments()
    seconds: dict[str, list[float]] = {}
    cases = {"nothing kept": True, "programs kept": True, "resuming": False}
    with tempfile.TemporaryDirectory() as folder:
        cache, run = Path(folder) / "cache", Path(folder) / "run"
        for _ in range(arguments.repeats):
            shutil.rmtree(cache, ignore_errors=True)
            for case, fresh in cases.items():
                if fresh:
                    shutil.rmtree(run, ignore_errors=True)
                seconds.setdefault(case, []).append(until_first_step(arguments, cache, run))
            seconds.setdefault("import jax, find devices", []).append(until_devices())
    results = {
        case: {"median": statistics.median(each), "lowest": min(each), "highest": max(each)}
        for case, each in seconds.items()
    }
    if arguments.json:
        print(json.dumps({"config": str(arguments.config), "seconds": results}, indent=1))
    else:
        print_table(arguments, results)


def until_first_step(arguments: argparse.Namespace, cache: Path, run: Path) -> float:
    """Starts a run, or goes on with it, until one more step is in its log; then stops it."""
    log = run / "metrics.jsonl"
    before = log.read_text().count("\n") if log.exists() else 0
    options = ["--out", str(run), "--run.log-every", "1", *arguments.overrides]
    began = time.perf_counter()
    said = run.with_name("said").open("w+")
    process = subprocess.Popen(
        [sys.executable, "-m", "jaxcl.cli", "train", str(arguments.config), *options],
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        stderr=said,
    )
    while process.poll() is None and not (log.exists() and log.read_text().count("\n") > before):
        time.sleep(0.02)
    took = time.perf_counter() - began
    if process.poll() is not None:
        said.seek(0)
        sys.exit(said.read())
    process.send_signal(signal.SIGTERM)
    process.wait()
    said.close()
    return took


def until_devices() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], check=True)
    return time.perf_counter() - began


def print_table(arguments: argparse.Namespace, results: dict[str, dict]) -> None:
    from rich.console import Console
    from rich.table import Table

    limit = results["import jax, find devices"]["median"]
    table = Table(title=f"{arguments.config}: seconds to the first step logged")
    for column in ("", "median, s", "lowest", "highest", "of jax's own"):
        table.add_column(column, justify="right" if column else "left")
    for case, each in results.items():
        cells = [f"{each[key]:.1f}" for key in ("median", "lowest", "highest")]
        table.add_row(case, *cells, f"{each['median'] / limit:.1f} x")
    Console(width=None if sys.stdout.isatty() else 100).print(table)


if __name__ == "__main__":
    main()
