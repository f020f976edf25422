"""What a config's tasks measure, over seeds: mean and standard deviation.

    python benchmarks/tasks.py configs/text/translation.py --seeds 0 1 2 --out runs/translation

Trains a run a seed (`OUT_0`, `OUT_1`, ...), or reads the figures of those that are there, and
prints a table for each task. Options after `--` go to `jaxcl train`.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from jaxcl.evaluation.report import markdown_table


def mean_and_deviation(values: list[float]) -> str:
    """As in 0.871 ± 0.004; of one value, itself."""
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", required=True, help="run directories, a seed after each")
    parser.add_argument("options", nargs="*", help="of jaxcl train, after --")
    given = parser.parse_args()

    found = []
    for seed in given.seeds:
        figures = Path(f"{given.out}_{seed}", "tasks.json")
        if not figures.exists():
            train = [sys.executable, "-m", "jaxcl.cli", "train", str(given.config)]
            options = ["--train.seed", str(seed), "--out", str(figures.parent), *given.options]
            subprocess.run([*train, *options], check=True)
        found.append(json.loads(figures.read_text())["tasks"])
    print(f"{given.config}, {len(found)} seeds, mean ± standard deviation")
    for task, representations in found[0].items():
        names = list(representations)
        rows = []
        for figure in representations[names[0]]:
            values = [[one[task][name][figure] for one in found] for name in names]
            rows.append([figure, *map(mean_and_deviation, values)])
        print(f"\n{task}:\n\n{markdown_table(['', *names], rows)}")


if __name__ == "__main__":
    main()
