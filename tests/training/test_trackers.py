"""Curves elsewhere: those of metrics.jsonl, once each, however often a run is stopped."""

import json
import shutil
import struct
import sys
import time

import numpy as np
import pytest
from small_runs import make_plain_experiment, stop_after

from jaxcl import data, training
from jaxcl.evaluation.runs import evaluate_run


def tracked(*names, **changes):
    run = training.Run(devices=1, log_every=1, checkpoint_every=5, keep_last=9, trackers=names)
    return make_plain_experiment(run=run, **changes)


def curves(directory):
    """Steps and values by tag, as TensorBoard shows them."""
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = module.EventAccumulator(str(directory / "tensorboard")).Reload()
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def rows(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def check_curve(directory, name):
    found = curves(directory)[f"train/{name}"]
    wanted = [(row["step"], row[name]) for row in rows(directory)]
    assert [step for step, _ in found] == list(range(1, 13))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [False, True])
def test_a_resumed_curve_goes_on_without_doubling_back(tmp_path, monkeypatch, lost):
    with monkeypatch.context() as patch:
        stop_after(patch, 8)
        training.train(tracked("tensorboard"), tmp_path)
    if lost:  # what a kill leaves: rows past the newest checkpoint
        shutil.rmtree(tmp_path / "checkpoints" / "00000008")
    training.train(tracked("tensorboard"), tmp_path)
    for name in ("loss", "accuracy", "learning_rate", "examples_per_second"):
        check_curve(tmp_path, name)


@pytest.mark.slow
def test_what_is_measured_stands_at_the_last_step(tmp_path):
    parts = training.Evaluate(train=data.Digits("train"), test=data.Digits("test"))
    training.train(tracked("tensorboard", evaluate=parts), tmp_path)
    evaluate_run(tmp_path)
    found = curves(tmp_path)
    scores = json.loads((tmp_path / "evaluation.json").read_text())["scores"]["trained encoder"]
    assert [step for step, _ in found["eval/knn_top1"]] == [12]
    np.testing.assert_allclose(found["eval/knn_top1"][0][1], scores["knn"], rtol=1e-6)
    linear = scores["linear"]["accuracy"]
    np.testing.assert_allclose(found["eval/linear_top1"][0][1], linear, rtol=1e-6)
    check_curve(tmp_path, "loss")


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_said_before_anything(tmp_path, monkeypatch, name):
    for module in ("tensorboard.summary.writer.event_file_writer", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'pip install "jaxcl\[{name}\]"'):
        training.train(tracked(name), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def records(content):
    """Of a .wandb file: a LevelDB log, in blocks of 32 KiB, behind a head of 7 bytes."""
    at, whole = 7, b""
    while at < len(content):
        left = 32_768 - at % 32_768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def offline_rows(directory):
    """Step and loss of all offline runs below a run directory, and the names of their files."""
    messages = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    found, names = [], set()
    for path in sorted((directory / "wandb").glob("offline-run-*/run-*.wandb")):
        names.add(path.name)
        for content in records(path.read_bytes()):
            record = messages.Record.FromString(content)
            if record.WhichOneof("record_type") == "history":
                items = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                step = items.get("_step", record.history.step.num)
                found.append((step, items["train/loss"]))
    return found, names


@pytest.mark.slow
def test_weights_and_biases_offline_have_each_row_once(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with monkeypatch.context() as patch:
        stop_after(patch, 8)
        training.train(tracked("wandb"), tmp_path)
    training.train(tracked("wandb"), tmp_path)
    for _ in range(60):  # a process of its own writes them
        found, names = offline_rows(tmp_path)
        if len(found) >= 12:
            break
        time.sleep(0.5)
    assert len(names) == 1
    wanted = [(row["step"], row["loss"]) for row in rows(tmp_path)]
    assert [step for step, _ in found] == list(range(1, 13))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
