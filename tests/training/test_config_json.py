"""Experiments as JSON: the round trip, what is refused, and what differs."""

import dataclasses
import json
from pathlib import Path

import flax.linen as nn
import pytest
from small_runs import make_experiment

from jaxcl import methods, training
from jaxcl.cli import load_config
from jaxcl.training import differences, from_data, to_data

CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_survives_json(path):
    experiment = load_config(path)
    again = from_data(json.loads(json.dumps(to_data(experiment))))
    assert again == experiment
    assert differences(to_data(experiment), to_data(again)) == []


def test_what_differs_is_named_by_its_path():
    one = make_experiment()
    other = make_experiment(
        method=dataclasses.replace(one.method, temperature=0.5),
        optimizer=training.AdamW(),
        run=training.Run(devices=4),
    )
    assert differences(to_data(one), to_data(other), ignore=("run",)) == [
        "method.temperature: 0.2 there, 0.5 here",
        "optimizer: SGD there, AdamW here",
    ]


class MyEncoder(nn.Module):
    width: int = 3

    @nn.compact
    def __call__(self, x, *, train=False, axis_name=None):
        return nn.Dense(self.width)(x.reshape(len(x), -1))


def test_a_class_of_the_users_is_written_and_not_loaded():
    experiment = make_experiment(method=methods.SimCLR(encoder=MyEncoder()))
    data = json.loads(json.dumps(to_data(experiment)))
    with pytest.raises(ValueError, match=r"MyEncoder, which is not a class of jaxcl.*--config"):
        from_data(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"class": "os.system"}, "os.system, which is not a class of jaxcl"),
        ({"class": "jaxcl.training.os.system"}, "not a class of jaxcl"),
        ({"class": "jaxcl.cli.main"}, "not a class of jaxcl"),
        ({"class": "jaxcl.training.experiment.Train", "lr": 1}, "Train has no field 'lr'"),
        ({"batch": 3}, "None, which is not a class"),
    ],
)
def test_nothing_else_is_built(data, message):
    with pytest.raises(ValueError, match=message):
        from_data(data)


def test_values_that_json_cannot_hold_are_refused():
    with pytest.raises(TypeError, match="numbers, strings and dataclasses"):
        to_data(make_experiment(data=object()))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("method", "temperature"), "warm", r"MoCo.temperature is 'warm', expected float"),
        (("method", "queue_size"), 10.5, r"MoCo.queue_size is 10.5, expected int"),
        (("method", "encoder", "widths"), 4, r"SmallCNN.widths is 4, expected tuple\[int, ...\]"),
        (("method", "encoder", "widths"), [4, "x"], r"SmallCNN.widths is \[4, 'x'\]"),
        (("train", "seed"), True, r"Train.seed is True, expected int"),
        (("run", "mapping"), "pmapp", r"Run.mapping is 'pmapp'"),
        (("optimizer",), None, r"Experiment.optimizer is None, expected .*Optimizer"),
        (("run", "devices"), [1], r"Run.devices is \[1\], expected int \| None"),
    ],
)
def test_a_value_of_another_type_is_named(experiment, path, value, message):
    edited = to_data(experiment)
    part = edited
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    with pytest.raises(ValueError, match=message):
        from_data(edited)
