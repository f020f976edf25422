"""Methods learn: features beat the untrained encoder's, and raw pixels' where labels are few."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from jaxcl import data
from jaxcl.cli import load_config
from jaxcl.evaluation.runs import evaluate_run
from jaxcl.training import Run, train

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("JAXCL_SHARED_DATA", ROOT.parent / "shared" / "data"))


def scores_after(experiment, directory):
    train(experiment, directory)
    evaluate_run(directory)
    return json.loads((directory / "evaluation.json").read_text())["scores"]


def few_label_accuracy(scores, labels):
    return next(few["mean"] for few in scores["few_labels"] if few["labels_per_class"] == labels)


@pytest.mark.slow
@pytest.mark.long_training
def test_quickstart_beats_pixels_and_the_untrained_encoder_with_few_labels(tmp_path):
    scores = scores_after(load_config(ROOT / "configs" / "quickstart.py"), tmp_path)
    trained = scores["trained encoder"]
    for other, margin in (("raw input", 0.03), ("untrained encoder", 0.06)):
        for labels in (1, 5, 10):
            gain = few_label_accuracy(trained, labels) - few_label_accuracy(scores[other], labels)
            assert gain > margin, (other, labels, gain)


@pytest.mark.slow
@pytest.mark.long_training
@pytest.mark.skipif(not (SHARED / "fashion_mnist.npz").exists(), reason="no Fashion-MNIST here")
def test_the_textbook_memory_method_learns_fashion_mnist(tmp_path):
    path = str(SHARED / "fashion_mnist.npz")
    arrays = np.load(path)
    small = str(tmp_path / "small.npz")
    np.savez(
        small,
        **{name: arrays[name][:4000] for name in ("image", "label", "test_image", "test_label")},
    )
    experiment = load_config(ROOT / "configs" / "fashion_memory.py")
    experiment = dataclasses.replace(
        experiment,
        data=data.Arrays(path),
        train=dataclasses.replace(experiment.train, epochs=3),
        run=Run(devices=1),
        evaluate=dataclasses.replace(
            experiment.evaluate,
            train=data.Arrays(small, label="label"),
            test=data.Arrays(small, image="test_image", label="test_label"),
        ),
    )
    scores = scores_after(experiment, tmp_path / "run")
    for labels, margin in ((1, 0.03), (5, 0.01)):
        trained, untrained = (
            few_label_accuracy(scores[f"{which} encoder"], labels)
            for which in ("trained", "untrained")
        )
        assert trained - untrained > margin, labels
