"""Collapse, provoked in each of the ways the field knows, is named; healthy runs hear nothing."""

import dataclasses
from pathlib import Path

import pytest
from rich.console import Console

from jaxcl import encoders
from jaxcl.cli import load_config
from jaxcl.training import train
from jaxcl.training.observers import Verdict
from jaxcl.training.setup import set_up

CONFIGS = Path(__file__).parents[2] / "configs"
STEPS, STEPS_AN_EPOCH = 300, 11


def changed(name, **changes):
    """A config of 300 steps, its method changed."""
    experiment = load_config(CONFIGS / f"{name}.py")
    return dataclasses.replace(
        experiment,
        method=dataclasses.replace(experiment.method, **changes),
        train=dataclasses.replace(experiment.train, epochs=STEPS / STEPS_AN_EPOCH),
        evaluate=None,
    )


COLLAPSING = {
    "SimSiam without stop-gradient": ("digits/simsiam", {"stop_gradient": False}),
    "BYOL without predictor": ("digits/byol", {"predictor": None}),
    "MoCo at temperature 1e-3": ("quickstart", {"temperature": 1e-3}),
    "MoCo without momentum": ("quickstart", {"momentum": 0.0}),
}


@pytest.mark.slow
@pytest.mark.long_training
@pytest.mark.parametrize("case", COLLAPSING)
def test_collapse_is_named_within_300_steps(case, tmp_path):
    name, changes = COLLAPSING[case]
    outcome = train(changed(name, **changes), tmp_path, console=Console(quiet=True))
    assert outcome.step == STEPS
    assert any("embeddings have collapsed" in alarm for alarm in outcome.alarms)


# With `quickstart`, MoCo's, those that benchmarks/learning.py has.
HEALTHY = (
    "barlow_twins",
    "byol",
    "dcl",
    "dino",
    "nnclr",
    "simclr",
    "simsiam",
    "swav",
    "vicreg",
)


@pytest.mark.slow
@pytest.mark.long_training
@pytest.mark.parametrize("name", ["quickstart", *(f"digits/{name}" for name in HEALTHY)])
def test_healthy_runs_raise_no_alarm(name, tmp_path):
    assert train(changed(name), tmp_path, console=Console(quiet=True)).alarms == ()


@pytest.mark.slow
def test_batch_statistics_that_leak_are_named_before_the_first_step():
    quickstart = load_config(CONFIGS / "quickstart.py")
    of_all = dataclasses.replace(quickstart.method.encoder, batch_norm_groups=None)
    [notice] = set_up(changed("quickstart", encoder=of_all)).notices
    assert "the encoder's batch statistics are those of the whole batch" in notice
    normed = encoders.simclr_v1_projector(64)
    [notice] = set_up(changed("quickstart", projector=normed)).notices
    assert "the projector's batch statistics are those of the whole batch" in notice
    [notice] = set_up(changed("digits/moco_v2_plus", encoder=of_all)).notices
    assert "set method.encoder.batch_norm_groups" in notice
    [notice] = set_up(changed("quickstart", shuffle=False)).notices
    assert "keys are not shuffled" in notice
    assert set_up(changed("quickstart")).notices == ()


def alarms(rows, *, epoch=None):
    verdict = Verdict()
    for number, (spread, rank) in enumerate(rows):
        row = {"step": 10 * number, "epoch": 1 + number if epoch is None else epoch, "loss": 1.0}
        verdict.log(row | {"embedding_std": spread, "effective_rank": rank})
    return verdict.alarms


def test_embeddings_that_spread_from_a_line_are_not_collapsed():
    """As BYOL's do at first; those that stay on it are, and those in one point."""
    assert alarms([(0.2 + 0.05 * step, 1.4) for step in range(12)]) == []
    assert len(alarms([(0.9 - 0.01 * step, 1.7) for step in range(12)])) == 1
    assert alarms([(0.9 - 0.01 * step, 1.7) for step in range(9)]) == []  # too early to say
    assert alarms([(0.56, 1.99)] * 12) == []  # of two directions, as SwAV's
    assert len(alarms([(0.05, 20.0)] * 5)) == 1
    assert alarms([(0.8, 5.0)] * 12) == []


def test_a_long_first_epoch_is_judged_by_what_the_spread_was():
    start = [(0.8, 5.0)]
    assert len(alarms([*start, *[(0.05, 5.0)] * 15], epoch=0.2)) == 1
    assert alarms([*start, *[(0.05, 5.0)] * 13], epoch=0.2) == []  # too early to say
    assert alarms([(0.05, 5.0)] * 30, epoch=0.2) == []  # as it began
    assert alarms([*start, *[(0.2, 5.0)] * 30], epoch=0.2) == []
