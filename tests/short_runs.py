"""What tests of the command line share: a short run and pictures."""

import fcntl
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from jaxcl.cli import main

ROOT = Path(__file__).parents[1]
QUICK = [
    "--train.epochs",
    "0.3",
    "--train.batch_size",
    "64",
    "--method.queue_size",
    "128",
    "--method.encoder.widths",
    "4",
    "8",
    "--run.log_every",
    "1",
]
CONFIG = str(ROOT / "configs" / "quickstart.py")


def write_pictures(folder, sizes, mode="L"):
    folder.mkdir()
    random = np.random.default_rng(0)
    for number, size in enumerate(sizes):
        shape = (*size, 3) if mode == "RGB" else size
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(
            folder / f"{number}.png"
        )


def quickstart(tmp_path_factory):
    """A short run of the quickstart: trained by the worker that is first, copied by each."""
    session = os.environ.get("PYTEST_XDIST_TESTRUNUID", os.getpid())
    made = Path(os.environ["JAXCL_TEST_CACHE"]) / f"quickstart-{session}"
    with open(f"{made}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            assert main(["train", CONFIG, "--out", str(made), *QUICK]) == 0
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("runs") / "quick"))
