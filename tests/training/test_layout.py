"""A state that is spread over devices: the same numbers, in less memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_runs import make_experiment, make_plain_experiment

from jaxcl import data, encoders, methods, planning, training
from jaxcl.training import Run, RunDirectory, UserError, read_metrics, restore_run, train
from jaxcl.training.state import name_leaves

NETWORKS = (encoders.SmallCNN((4, 8)), encoders.moco_v2_projector(16))
BANK = 1500  # more than there are digits to train on; 8 does not divide it
EXPERIMENTS = {
    "moco": {},
    "lars": {
        "method": methods.SimCLR(*NETWORKS, queue_size=256),
        "optimizer": training.LARS(learning_rate=0.3, trust_coefficient=0.1),
    },
    "adamw": {
        "method": methods.BYOL(*NETWORKS, predictor=NETWORKS[1]),
        "optimizer": training.AdamW(learning_rate=1e-3, clip_norm=0.5),
    },
    "dino": {
        "method": methods.DINO(*NETWORKS, prototypes=20),
        "optimizer": training.SGD(learning_rate=0.05, clip_norm=0.1, clip="each"),
    },
    "swav": {"method": methods.SwAV(*NETWORKS, prototypes=20, frozen=0.3)},
    "probed": {"probe": training.Probe(memory=128)},
    "tico": {
        "method": methods.JointEmbedding(
            *NETWORKS, criterion=methods.criteria.TiCo(), momentum=0.99
        )
    },
    "bank": {"method": methods.InstanceDiscrimination(*NETWORKS, bank_size=BANK)},
    "drawn": {
        "method": methods.InstanceDiscrimination(
            *NETWORKS, bank_size=BANK, negatives=50, contrast="nce", temperature=0.5
        )
    },
}


def on(devices, spread, **changes):
    run = Run(devices=devices, mapping="shard_map", log_every=1, spread_state=spread)
    return make_experiment(**changes, run=run)


def trained(experiment, directory, console):
    """The losses of a run, and its last state by name."""
    train(experiment, directory, console=console)
    rows = read_metrics(RunDirectory(directory).metrics)
    clocks = ("_share", "_second", "seconds")
    names = [name for name in rows[0] if not name.endswith(clocks)]
    found = {name: [row[name] for row in rows] for name in names}
    return found, name_leaves(restore_run(directory).state)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_spread_state_changes_no_number(tmp_path, quiet, name):
    whole = trained(on(8, False, **EXPERIMENTS[name]), tmp_path / "whole", quiet)
    spread = trained(on(8, True, **EXPERIMENTS[name]), tmp_path / "spread", quiet)
    for name, wanted in whole[0].items():
        close = {"rtol": 1e-5} if name == "loss" else {"rtol": 1e-4, "atol": 1e-5}
        if name == "accuracy":  # two of 64 queries may be as near another to the last bit
            close = {"atol": 2 / 64}
        np.testing.assert_allclose(spread[0][name], wanted, err_msg=name, **close)
    assert spread[1].keys() == whole[1].keys()
    for leaf in whole[1]:
        np.testing.assert_allclose(
            spread[1][leaf], whole[1][leaf], rtol=1e-4, atol=1e-5, err_msg=leaf
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["moco", "lars", "bank"])
def test_only_the_rest_of_the_state_is_on_every_device(name):
    """Of what is spread a device has an eighth, each array rounded up, and the step no more."""
    experiment = on(8, True, **EXPERIMENTS[name])
    setup = training.set_up(experiment)
    state = name_leaves(setup.state_shapes)
    spread = (
        "params/",
        "optimizer/",
        "method/target_params",
        "method/memory/params",
        "method/target/params",
    )
    held = 0
    for leaf, x in state.items():
        if leaf == "method/bank/embeddings":
            held += -(-len(x) // 8) * x.shape[1] * 4
        elif leaf.startswith(spread) and x.ndim:
            held += -(-x.size // 8) * 4
        else:
            held += x.size * x.dtype.itemsize
    batch = setup.devices.split_shapes(setup.batch_shapes())
    compiled = setup.step.lower(setup.placed_shapes(), batch).compile()
    found = compiled.memory_analysis()
    rows = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(batch)) // 8
    unread = 2 * 8 * 4  # index and label, which the compiler leaves out where a step reads none
    assert held + rows - unread <= found.argument_size_in_bytes <= held + rows
    assert found.alias_size_in_bytes >= held  # donated: the new state takes the place of the old


def exchanges(method):
    """What a step sends by reduce-scatters and by all-gathers, in bytes."""
    setup = training.set_up(on(8, True, method=method))
    batch = setup.devices.split_shapes(setup.batch_shapes())
    text = setup.step.lower(setup.placed_shapes(), batch).compile().as_text()
    found = planning.find_collectives(text)
    sizes = [-(-x.size // 8) * 4 for x in jax.tree.leaves(setup.state_shapes.params)]
    whole = -(-sum(sizes) // 4096) * 4096  # in tiles of 1024 numbers
    scatters, gathers = (
        sorted(each.bytes for each in found if each.kind == kind)
        for kind in ("reduce-scatter", "all-gather")
    )
    return whole, scatters, gathers


@pytest.mark.slow
def test_gradients_are_exchanged_once_and_parameters_once():
    whole, scatters, gathers = exchanges(methods.MoCo(*NETWORKS, shuffle=False))
    assert scatters == [whole]
    # Of MoCo's keys, its parameters, and its target network.
    assert gathers == sorted([64 * 16 * 4, 8 * whole, 8 * whole])


@pytest.mark.slow
def test_what_is_put_right_after_the_update_is_all_that_is_exchanged_for_it():
    """SwAV normalizes its prototypes, which takes all of each; the rest stays in parts."""
    whole, scatters, gathers = exchanges(methods.SwAV(*NETWORKS, prototypes=500))
    assert whole > 4096 > 500 * 16 / 8 * 4  # a device's prototypes fit a tile, its parameters don't
    assert scatters == [whole]
    # Of embeddings for the log, of prototypes, and of all parameters.
    assert gathers == sorted([64 * 16 * 4, 8 * 4096, 8 * whole])


@dataclasses.dataclass(frozen=True)
class Corrected(methods.SimCLR):
    """With a scalar among the parameters, and all that `constrain` may do to one."""

    def init(self, key, batch):
        params, state = super().init(key, batch)
        return params | {"scale": {"value": jnp.asarray(1.0)}}, state

    def constrain(self, params, before, *, progress):
        first, second = params["encoder"]["dense0"], params["encoder"]["dense1"]
        first = first | {"kernel": first["kernel"] / jnp.linalg.norm(first["kernel"], axis=0)}
        second = second | {"bias": before["encoder"]["dense1"]["bias"]}
        scale = {"value": jnp.maximum(params["scale"]["value"], 0.985)}
        encoder = params["encoder"] | {"dense0": first, "dense1": second}
        return params | {"encoder": encoder, "scale": scale}


@dataclasses.dataclass(frozen=True)
class Signs(training.SGD):
    """Moves a number whose gradient is 0, as the zeros behind an array's last number have it."""

    def build(self, learning_rate, **_):
        def update(grads, state, params=None):
            return jax.tree.map(lambda g: jnp.where(g >= 0, -0.01, 0.01), grads), state

        return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


@pytest.mark.slow
def test_a_users_own_method_and_optimizer_see_what_they_see_on_one_device():
    found = []
    for devices, spread in ((1, False), (8, True)):
        method = Corrected(encoders.MLP((7, 5)), temperature=0.2)
        setup = training.set_up(
            make_plain_experiment(method=method, optimizer=Signs(), run=on(devices, spread).run)
        )
        state = setup.start()
        for step in range(3):
            batch = data.batch_at(setup.source, step, batch_size=64, seed=0)
            batch.pop("replaced")
            state, metrics = setup.step(state, setup.devices.split(batch))
        found.append((name_leaves(setup.fetch(state)), jax.device_get(metrics)))
    (whole, wanted), (spread, metrics) = found
    assert float(spread["params/scale/value"]) == pytest.approx(0.985)
    for name in whole:
        np.testing.assert_allclose(spread[name], whole[name], rtol=1e-5, atol=1e-6, err_msg=name)
    for name in ("loss", "parameter_norm", "gradient_norm"):
        np.testing.assert_allclose(metrics[name], wanted[name], rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_a_step_takes_less_memory():
    """What the compiler says of the whole step: its large arrays are never together whole twice."""
    method = methods.SimCLR(encoders.MLP((1024, 1024, 1024)), encoders.MLP((16,)))
    peaks = []
    for spread in (False, True):
        setup = training.set_up(on(8, spread, method=method))
        batch = setup.devices.split_shapes(setup.batch_shapes())
        found = setup.step.lower(setup.placed_shapes(), batch).compile().memory_analysis()
        kept = found.argument_size_in_bytes + found.output_size_in_bytes
        peaks.append(kept - found.alias_size_in_bytes + found.temp_size_in_bytes)
    assert peaks[1] < 0.5 * peaks[0]


@pytest.mark.slow
def test_a_run_goes_on_with_another_layout_on_other_devices(tmp_path, quiet):
    """A checkpoint holds whole arrays, wherever they lay."""
    straight, _ = trained(on(8, False), tmp_path / "straight", quiet)
    half = dataclasses.replace(on(8, True), train=training.Train(batch_size=64, epochs=12 / 23))
    stopped = dataclasses.replace(half, run=dataclasses.replace(half.run, checkpoint_every=4))
    train(stopped, tmp_path / "run", console=quiet)
    for step in (8, 12):
        folder = RunDirectory(tmp_path / "run").checkpoints / f"{step:08d}"
        assert folder.exists()
    (folder / "manifest.json").unlink()  # as if it had been killed before the last checkpoint
    losses, _ = trained(on(2, True), tmp_path / "run", quiet)
    np.testing.assert_allclose(losses["loss"], straight["loss"], rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: make_experiment(run=Run(devices=2, spread_state=True)),
            "run.spread_state spreads the state by shard_map, and run.mapping is pmap: add "
            "--run.mapping shard_map",
        ),
        (
            lambda: make_experiment(
                run=Run(devices=4), train=training.Train(batch_size=64, accumulate=3)
            ),
            r"train.accumulate 3 does not divide a device's batch of 16 examples \(64 over 4 ",
        ),
    ],
)
def test_what_does_not_fit_is_said(make, message):
    with pytest.raises(UserError, match=message):
        training.set_up(make())
