"""Runs whose config file has classes of the user's own: gone on with, embedded, read by workers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxcl.cli import main

ROOT = Path(__file__).parents[1]
OWN = """
import dataclasses
from jaxcl import methods

@dataclasses.dataclass(frozen=True)
class Own(methods.SimCLR):
    factor: float = 1.0
"""
OWN_CONFIG = """
from beside import Own
from jaxcl import augment, data, encoders, training

def config():
    return training.Experiment(
        data=data.Digits(),
        views=augment.Views((augment.RandomHorizontalFlip(),) * 2),
        method=Own(encoders.MLP((8,))),
        train=training.Train(batch_size=64, epochs=4 / 23),
    )
"""


@pytest.mark.slow
def test_a_run_with_classes_of_ones_own_goes_on_by_its_config(tmp_path, capsys):
    (tmp_path / "beside.py").write_text(OWN)
    (tmp_path / "own.py").write_text(OWN_CONFIG)
    config, run = str(tmp_path / "own.py"), tmp_path / "run"
    options = ["--method.factor", "2", "--method.encoder.widths", "4"]
    assert main(["train", config, "--out", str(run), *options]) == 0
    assert main(["train", str(run)]) == 2
    assert "names beside.Own" in capsys.readouterr().err
    assert main(["train", str(run), "--config", config]) == 0
    assert json.loads((run / "config.json").read_text())["method"]["factor"] == 2.0
    assert main(["train", config, "--config", config]) == 2
    # What was trained is what embeds: 4 features, not the 8 of the file, which has moved besides.
    (tmp_path / "own.py").rename(tmp_path / "moved.py")
    np.savez(tmp_path / "images.npz", image=np.zeros((3, 8, 8), np.uint8))
    found = ["--out", str(tmp_path / "f.npz"), "--config", str(tmp_path / "moved.py")]
    assert main(["embed", str(run), str(tmp_path / "images.npz"), *found]) == 0
    assert np.load(tmp_path / "f.npz")["features"].shape == (3, 4)


OWN_SOURCE = """
import dataclasses
import numpy as np
from jaxcl import augment, data, encoders, methods, training

class Blobs:
    names = range(256)
    labels = label_names = None

    def __len__(self):
        return 256

    def __getitem__(self, record):
        image = np.random.default_rng(record).integers(0, 256, (8, 8, 1), np.uint8)
        return {"image": image, "replaced": False}

@dataclasses.dataclass(frozen=True)
class BlobsConfig(data.SourceConfig):
    def open(self):
        return Blobs()

def config():
    return training.Experiment(
        data=BlobsConfig(),
        views=augment.Views((augment.RandomHorizontalFlip(),) * 2),
        method=methods.SimCLR(encoders.MLP((8,))),
        train=training.Train(batch_size=64, epochs=1),
        run=training.Run(workers=1),
    )
"""


@pytest.mark.slow
def test_a_source_of_ones_own_is_read_by_worker_processes(tmp_path):
    (tmp_path / "blobs.py").write_text(OWN_SOURCE)
    verb = ["train", str(tmp_path / "blobs.py"), "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "jaxcl.cli", *verb],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "trained 4 steps" in done.stderr
