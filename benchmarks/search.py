"""Exact search among many rows: seconds and memory, beside scikit-learn and blocks of NumPy.

    python benchmarks/search.py
    python benchmarks/search.py --rows 1000000 --dim 384 --queries 1000 --k 10

Each contender runs in a process of its own, on the same features, which lie in a file and are
mapped. Memory is the most that the process held beside what it held before it searched; pages of
the mapped file, which the system may drop at any time, are left out.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

CONTENDERS = ("jaxcl", "NumPy blocks", "scikit-learn")


def held() -> int:
    """Bytes of this process that are no mapped file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["RssAnon"].split()[0]) * 1024


def jaxcl_search(features: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    from jaxcl.evaluation import nearest_neighbours

    return nearest_neighbours(features, queries, k)[0]


def numpy_search(features: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Blocks of queries against all features: what one would write by hand."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    found = []
    for start in range(0, len(queries), 100):
        scores = queries[start : start + 100] @ unit.T
        best = np.argpartition(-scores, k, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1)
        found.append(np.take_along_axis(best, order, 1))
    return np.concatenate(found)


def sklearn_search(features: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    fitted = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(features)
    return fitted.kneighbors(queries, return_distance=False)


def contend(name: str, folder: Path, k: int) -> None:
    """One search in this process; prints seconds and bytes, and writes what it found."""
    features = np.load(folder / "features.npy", mmap_mode="r")
    queries = np.load(folder / "queries.npy")
    search = dict(zip(CONTENDERS, (jaxcl_search, numpy_search, sklearn_search), strict=True))[name]
    search(features[:8192], queries, k)  # imports, compiles, starts threads
    before, most, done = held(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.005):
            most = max(most, held())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    found = search(features, queries, k)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    np.save(folder / f"{name}.npy", found)
    print(seconds, max(most - before, 0))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--contend", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contend:
        return contend(given.contend, given.folder, given.k)
    with tempfile.TemporaryDirectory() as directory:
        folder, random = Path(directory), np.random.default_rng(0)
        shape = (given.rows, given.dim)
        features = np.lib.format.open_memmap(folder / "features.npy", "w+", np.float32, shape)
        for start in range(0, given.rows, 50_000):
            part = features[start : start + 50_000]
            part[:] = random.standard_normal(part.shape, np.float32)
        features.flush()
        queries = random.standard_normal((given.queries, given.dim), np.float32)
        np.save(folder / "queries.npy", queries)
        size = features.nbytes / 1e9
        del features
        print(f"{given.rows:,} x {given.dim} float32, {size:.2f} GB; {given.queries} queries,")
        print(f"each one's {given.k} nearest; {os.cpu_count()} cores")
        print(f"{'':<14}{'seconds':>9}{'queries/s':>11}{'more GB held':>14}{'found as jaxcl':>16}")
        for name in CONTENDERS:
            command = [sys.executable, __file__, "--contend", name, "--folder", str(folder)]
            done = subprocess.run(
                [*command, "--k", str(given.k)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                print(f"{name:<14}ended with {done.returncode}: {done.stderr.strip()[-200:]}")
                continue
            seconds, extra = map(float, done.stdout.split())
            same = np.mean(np.load(folder / f"{name}.npy") == np.load(folder / "jaxcl.npy"))
            rate = given.queries / seconds
            print(f"{name:<14}{seconds:>9.1f}{rate:>11.1f}{extra / 1e9:>14.2f}{same:>16.4f}")


if __name__ == "__main__":
    main()
