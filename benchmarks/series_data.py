"""Writes the labelled series that configs/series/ reads, from the archives that aeon holds.

    pip install aeon
    python benchmarks/series_data.py data/series

One .npz for each data set and part, GunPoint_train.npz and so on: `series` [N, T, C], each channel
with mean 0 and deviation 1 over the training part (the mean and deviation of which the test part is
scaled by, too), and `label` [N], a word. Shorter series hold their last value. Nothing is fetched:
these few lie in the package.
"""

import argparse
from pathlib import Path

import numpy as np
from aeon.datasets import load_classification

NAMES = ("ArrowHead", "BasicMotions", "GunPoint", "ItalyPowerDemand", "JapaneseVowels", "OSULeaf")
TIMES = {"JapaneseVowels": 29}  # of the longest, where they differ


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes labelled series as .npz.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        parts = {}
        for part in ("train", "test"):
            found, label = load_classification(name, split=part)  # of [C, T] each
            times = TIMES.get(name, found[0].shape[1])
            held = [np.pad(one, ((0, 0), (0, times - one.shape[1])), "edge").T for one in found]
            parts[part] = np.stack(held).astype(np.float32), np.asarray(label, str)
        axes = (0, 1)
        mean = np.mean(parts["train"][0], axes)
        deviation = np.std(parts["train"][0], axes)
        for part, (series, label) in parts.items():
            path = folder / f"{name}_{part}.npz"
            np.savez(path, series=(series - mean) / np.maximum(deviation, 1e-8), label=label)
            print(f"{path}: {'x'.join(map(str, series.shape))}, {len(np.unique(label))} labels")


if __name__ == "__main__":
    main()
