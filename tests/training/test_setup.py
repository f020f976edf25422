"""What a run starts from: one state, made on the devices, and a step that is traced once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import make_plain_experiment

from jaxcl import data, methods, training
from jaxcl.training import Probe, Run, start_state, state_shapes
from jaxcl.training.state import name_leaves

WAYS = {
    "1, pmap": Run(devices=1),
    "8, pmap": Run(devices=8),
    "8, shard_map": Run(devices=8, mapping="shard_map"),
    "8, spread": Run(devices=8, mapping="shard_map", spread_state=True),
}


@dataclasses.dataclass(frozen=True)
class Scaled(methods.SimCLR):
    """With a parameter as a user would write it."""

    def init(self, key, batch):
        params, state = super().init(key, batch)
        return params | {"scale": {"value": jnp.asarray(1.0)}}, state


def make_probed(run):
    return make_plain_experiment(run=run, probe=Probe(memory=100, neighbours=5))


def batch_of(setup):
    batch = data.batch_at(setup.source, 0, batch_size=64, seed=0)
    return setup.devices.split({name: x for name, x in batch.items() if name != "replaced"})


@pytest.fixture
def traces(monkeypatch):
    """How often a step was traced, one number a setup."""
    counts = []
    make = training.setup.make_step

    def make_counted(*arguments, **options):
        step, own = make(*arguments, **options), len(counts)
        counts.append(0)

        def counted(state, batch):
            counts[own] += 1
            return step(state, batch)

        return counted

    monkeypatch.setattr("jaxcl.training.setup.make_step", make_counted)
    return counts


@pytest.mark.slow
def test_a_state_starts_the_same_anywhere_and_its_step_is_traced_once(traces):
    found = {}
    for way, run in WAYS.items():
        setup = training.set_up(make_probed(run))
        state = setup.start()
        started = name_leaves(setup.fetch(state))
        alone = start_state(setup.experiment, setup.facts.shapes, classes=10)
        for name, leaf in name_leaves(alone).items():
            np.testing.assert_allclose(started[name], leaf, rtol=1e-6, err_msg=f"{way}: {name}")
        batch, losses = batch_of(setup), []
        for _ in range(2):
            state, metrics = setup.advance(state, batch)
            losses.append([float(metrics[name]) for name in ("loss", "probe_loss")])
        found[way] = losses
    assert traces == [1] * len(WAYS)
    for losses in found.values():
        np.testing.assert_allclose(losses, found["1, pmap"], rtol=1e-5)


def test_no_array_of_it_is_weakly_typed():
    """Or the first step would be another program than those after it."""
    experiment = make_plain_experiment(
        method=Scaled(make_plain_experiment().method.encoder), run=Run(devices=1)
    )
    setup = training.set_up(experiment)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(setup.start()))
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(setup.state_shapes))


@pytest.mark.slow
def test_its_shapes_are_known_before_it_is_made():
    experiment = make_probed(Run(devices=1))
    inputs = training.set_up(experiment).facts.shapes
    shapes = name_leaves(state_shapes(experiment, inputs, classes=10))
    state = name_leaves(start_state(experiment, inputs, classes=10))
    assert {name: (x.shape, x.dtype) for name, x in shapes.items()} == {
        name: (x.shape, x.dtype) for name, x in state.items()
    }
