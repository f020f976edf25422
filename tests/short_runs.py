"""What tests of the command line share: a short run and pictures."""

from pathlib import Path

import numpy as np
from PIL import Image

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
