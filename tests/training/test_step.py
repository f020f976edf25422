"""Micro-batches in the trainer: one field of the config, and the run stays as it was."""

import dataclasses

import numpy as np
import pytest
from small_runs import make_experiment

from jaxcl import encoders, methods, training
from jaxcl.training import Run, RunDirectory, UserError, read_metrics, train


def grouped(experiment, **run):
    """The experiment with batch statistics of 8 rows, which fit into micro-batches."""
    method = experiment.method
    groups = experiment.train.batch_size // run.get("devices", 1) // 8
    encoder = dataclasses.replace(method.encoder, batch_norm_groups=groups)
    return dataclasses.replace(
        experiment,
        method=dataclasses.replace(method, encoder=encoder),
        run=Run(**{"devices": 1, "log_every": 1, **run}),
    )


def rows(directory):
    names = ("loss", "gradient_norm", "accuracy", "effective_rank")
    return np.array(
        [[row[name] for name in names] for row in read_metrics(RunDirectory(directory).metrics)]
    )


@pytest.mark.parametrize(
    ("devices", "mapping"),
    [
        pytest.param(1, "pmap", marks=pytest.mark.slow),
        pytest.param(2, "shard_map", marks=pytest.mark.slow),
        pytest.param(4, "pmap", marks=pytest.mark.slow),
    ],
)
def test_a_run_in_micro_batches_follows_the_same_losses(
    tmp_path, experiment, quiet, devices, mapping
):
    at_once = grouped(experiment, devices=devices, mapping=mapping)
    train(at_once, tmp_path / "at once", console=quiet)
    train(
        grouped(experiment, devices=devices, mapping=mapping, micro_batch=8),
        tmp_path / "micro",
        console=quiet,
    )
    expected, found = rows(tmp_path / "at once"), rows(tmp_path / "micro")
    assert len(expected) == 12
    np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.slow
def test_a_run_may_go_on_in_other_micro_batches(tmp_path, experiment, quiet):
    """As it may on other devices: nothing of what is learned hangs on it."""
    train(grouped(experiment), tmp_path / "run", console=quiet)
    again = train(grouped(experiment, micro_batch=16), tmp_path / "run", console=quiet)
    assert again.finished


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: grouped(make_experiment(), micro_batch=24),
            "run.micro_batch 24 does not divide a device's batch of 64 rows: use 16 or 32",
        ),
        (
            lambda: grouped(make_experiment(), devices=4, micro_batch=3),
            "run.micro_batch 3 does not divide a device's batch of 16 rows: use 2 or 4",
        ),
        (
            lambda: make_experiment(run=Run(devices=1, micro_batch=16)),
            r"MoCo: encoder/norm0 \(BatchNorm\) normalizes by statistics of the whole batch",
        ),
        (
            lambda: make_experiment(
                method=methods.SimCLR(encoders.SmallCNN((4,), batch_norm_groups=2)),
                run=Run(devices=1, micro_batch=32),
            ),
            "shares statistics among 64 rows, which micro-batches of 32 cut apart",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_one_line_before_anything_is_compiled(make, message):
    with pytest.raises(UserError, match=message) as caught:
        training.set_up(make())
    assert "\n" not in str(caught.value)


def test_a_micro_batch_below_one_is_named():
    with pytest.raises(ValueError, match=r"run.micro_batch must be at least 1 or None, got 0"):
        Run(micro_batch=0)
