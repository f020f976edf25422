"""Populations: the same numbers as members trained one by one, and ordinary runs at the end."""

import dataclasses
import json
import os
import signal

import numpy as np
import pytest
from PIL import Image

from jaxcl import augment, data, encoders, methods, training
from jaxcl.cli import main
from jaxcl.evaluation.populations import report_population
from jaxcl.training import Evaluate, Population, UserError, read_metrics, train, train_population
from jaxcl.training.observers import ProgressBar


def make_experiment(**changes):
    """SimCLR of a perceptron: 6 steps of 64 digits."""
    experiment = training.Experiment(
        data=data.Digits(),
        views=augment.crops(8),
        method=methods.SimCLR(encoders.MLP((16, 8), batch_norm=True), temperature=0.2),
        optimizer=training.SGD(learning_rate=0.1),
        schedule=training.Schedule(warmup_epochs=2 / 23),
        train=training.Train(batch_size=64, epochs=6 / 23),
        run=training.Run(devices=1, log_every=1, checkpoint_every=100),
    )
    return dataclasses.replace(experiment, **changes)


def rows(directory):
    return read_metrics(directory / "metrics.jsonl")


FLIPS = augment.Views((augment.RandomHorizontalFlip(),) * 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "values", "changes"),
    [
        ("method.temperature", (0.1, 0.5), {"views": FLIPS}),  # which compile sooner
        ("optimizer.learning_rate", (0.03, 0.3), {}),
        ("optimizer.weight_decay", (0.0, 0.1), {}),
        ("train.seed", (0, 5), {}),
    ],
)
def test_members_are_as_if_trained_one_by_one(field, values, changes, tmp_path, quiet):
    population = Population(make_experiment(**changes), field, values)
    outcome = train_population(population, tmp_path / "all", console=quiet)
    assert outcome.finished
    for number, member in enumerate(population.members):
        train(member, tmp_path / str(number), console=quiet)
        found, wanted = rows(tmp_path / "all" / str(number)), rows(tmp_path / str(number))
        for name in ("loss", "learning_rate", "gradient_norm", "effective_rank"):
            np.testing.assert_allclose(
                [row[name] for row in found], [row[name] for row in wanted], rtol=1e-5, atol=1e-5
            )
    losses = [[row["loss"] for row in rows(tmp_path / "all" / str(n))] for n in range(2)]
    assert np.abs(np.subtract(*losses)).max() > 1e-3  # they differ at all


@pytest.mark.slow
def test_momentum_of_a_target_varies_too(tmp_path, quiet):
    method = methods.BYOL(encoders.MLP((16, 8)), predictor=encoders.MLP((8,)), momentum=0.9)
    population = Population(make_experiment(method=method), "method.momentum", (0.5, 0.99))
    train_population(population, tmp_path / "all", console=quiet)
    for number, member in enumerate(population.members):
        train(member, tmp_path / str(number), console=quiet)
        found, wanted = (
            [row["loss"] for row in rows(folder / str(number))]
            for folder in (tmp_path / "all", tmp_path)
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_report_has_a_row_a_member_and_curves(tmp_path, quiet):
    judged = Evaluate(train=data.Digits("train"), test=data.Digits("test"))
    population = Population(make_experiment(evaluate=judged), "method.temperature", (0.1, 0.5))
    train_population(population, tmp_path, console=quiet)
    text = report_population(population, tmp_path)
    document = json.loads((tmp_path / "population.json").read_text())
    assert [row["value"] for row in document["figures"]] == [0.1, 0.5]
    for number, row in enumerate(document["figures"]):
        scores = json.loads((tmp_path / str(number) / "evaluation.json").read_text())["scores"]
        assert row["knn"] == scores["trained encoder"]["knn"]
        assert f"{100 * row['knn']:.1f}" in text
        losses = [each["loss"] for each in rows(tmp_path / str(number))]
        assert document["curves"][number]["loss"] == losses
        np.testing.assert_allclose(row["loss"], np.mean(losses[-5:]), rtol=1e-6)
    assert Image.open(tmp_path / "population.png").size[0] > 300
    # A member is a run like any other.
    assert main(["evaluate", str(tmp_path / "1")]) == 0
    # Done already: nothing is trained, and the directory is of this population only.
    assert train_population(population, tmp_path, console=quiet).finished
    other = dataclasses.replace(population, values=(0.1, 0.6))
    with pytest.raises(UserError, match=r"holds the population method.temperature=\[0.1, 0.5\]"):
        train_population(other, tmp_path, console=quiet)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "values"), [("method.temperature", (0.1, 0.5)), ("train.seed", (0, 5))]
)
def test_stopped_and_resumed_logs_the_very_same_losses(field, values, tmp_path, quiet, monkeypatch):
    population = Population(make_experiment(), field, values)
    train_population(population, tmp_path / "whole", console=quiet)
    advance = ProgressBar.advance

    def advance_and_stop(self, done):
        advance(self, done)
        if done == 2:  # the step under way when the signal comes is still done
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(ProgressBar, "advance", advance_and_stop)
        outcome = train_population(population, tmp_path / "parts", console=quiet)
    assert (outcome.step, outcome.stopped_by, outcome.finished) == (3, signal.SIGTERM, False)
    assert train_population(population, tmp_path / "parts", console=quiet).finished
    for member in ("0", "1"):
        parts, whole = rows(tmp_path / "parts" / member), rows(tmp_path / "whole" / member)
        assert [row["step"] for row in parts] == list(range(1, 7))
        assert [row["loss"] for row in parts] == [row["loss"] for row in whole]


@pytest.mark.slow
def test_a_member_that_diverges_leaves_the_others_and_the_report(tmp_path, quiet):
    judged = Evaluate(train=data.Digits("train"), test=data.Digits("test"))
    population = Population(
        make_experiment(evaluate=judged), "optimizer.learning_rate", (0.1, 1e30)
    )
    outcome = train_population(population, tmp_path, console=quiet)
    assert outcome.finished
    assert outcome.diverged[0] is None
    assert "training diverged" in outcome.diverged[1]
    report_population(population, tmp_path)
    healthy, diverged = json.loads((tmp_path / "population.json").read_text())["figures"]
    assert "knn" in healthy
    assert "knn" not in diverged


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method.temperatur=[0.1,0.2]", "does not have: did you mean method.temperature?"),
        ("method.contrast=['dcl','dclw']", "method.contrast cannot vary within one compiled"),
        ("method.queue_size=[0,8]", "method.queue_size cannot vary within one compiled"),
        ("method.temperature=0.1", "is '0.1', expected a list of numbers"),
        ("method.temperature", "expected FIELD=[VALUE,VALUE]"),
        ("method.temperature=[0.1]", "has 1 value(s), expected two or more"),
        ("method.temperature=[0.1,0.1]", "has a value twice"),
        ("method.temperature=[0.1,'a']", "has the value 'a', expected a number"),
        ("method.temperature=[0.1,-1]", "temperature must be positive, got -1"),
        ("train.seed=[0,0.5]", "has the value 0.5, expected an integer"),
    ],
)
def test_wrong_populations_are_named(text, message):
    with pytest.raises(UserError) as raised:
        Population.parse(make_experiment(), text)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_several_devices_are_refused(tmp_path, quiet):
    experiment = make_experiment(run=training.Run(devices=2))
    population = Population(experiment, "method.temperature", (0.1, 0.2))
    with pytest.raises(UserError, match=r"trains on one device, got 2: set run\.devices to 1"):
        train_population(population, tmp_path, console=quiet)


def test_the_command_says_what_is_wrong_in_a_line(tmp_path, capsys):
    config = tmp_path / "config.py"
    config.write_text(
        "from jaxcl import augment, data, encoders, methods, training\n"
        "def config():\n"
        "    return training.Experiment(data.Digits(), augment.crops(8),\n"
        "        methods.SimCLR(encoders.MLP((8,))))\n"
    )
    line = ["train", str(config), "--out", str(tmp_path / "out"), "--population"]
    assert main([*line, "method.temperatur=[0.1,0.2]"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "jaxcl: error: --population names 'method.temperatur', which the experiment does not have: "
        "did you mean method.temperature?"
    ]


def test_a_run_directory_is_no_population(tmp_path, capsys):
    assert main(["train", str(tmp_path), "--population", "method.temperature=[0.1,0.2]"]) == 2
    assert "--population goes with a config file" in capsys.readouterr().err
