"""Online probes: they score features, and leave what is learned as it would be without them."""

import dataclasses
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import make_experiment

from jaxcl import data, encoders, methods, training
from jaxcl.memory import Queue
from jaxcl.training import (
    Checkpoints,
    Population,
    Probe,
    Run,
    RunDirectory,
    UserError,
    read_metrics,
    restore_run,
    train,
    train_population,
)
from jaxcl.training.probes import init_probe, step_probe
from jaxcl.training.state import name_leaves

PROBED = Probe(memory=300, neighbours=5)
NAMES = ("probe_loss", "probe_accuracy", "probe_knn_accuracy")


def arrays(directory, experiment):
    setup = training.set_up(dataclasses.replace(experiment, run=Run(devices=1)))
    restored = Checkpoints(RunDirectory(directory).checkpoints).restore(setup.state_shapes)
    return name_leaves(restored.state)


def rows(directory, *names):
    found = read_metrics(RunDirectory(directory).metrics)
    return np.array([[row[name] for name in names] for row in found])


def assert_learned_the_same(probed, plain):
    """Every array but the probes'."""
    assert probed.keys() > plain.keys()
    assert all(name.startswith("probe/") for name in probed.keys() - plain.keys())
    for name, array in plain.items():
        np.testing.assert_array_equal(probed[name], array, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "mapping"),
    [
        (1, "pmap"),
        (8, "pmap"),
        (8, "shard_map"),
    ],
)
def test_what_is_learned_is_the_very_same_with_and_without(tmp_path, quiet, devices, mapping):
    plain = make_experiment(run=Run(devices=devices, mapping=mapping, log_every=1))
    probed = dataclasses.replace(plain, probe=PROBED)
    train(plain, tmp_path / "plain", console=quiet)
    train(probed, tmp_path / "probed", console=quiet)
    assert_learned_the_same(arrays(tmp_path / "probed", probed), arrays(tmp_path / "plain", plain))
    for name in ("loss", "gradient_norm", "accuracy"):
        np.testing.assert_array_equal(
            rows(tmp_path / "probed", name), rows(tmp_path / "plain", name)
        )
    losses = rows(tmp_path / "probed", "probe_loss")
    np.testing.assert_allclose(losses[0], np.log(10), rtol=1e-6)  # the head starts at zero
    assert losses[-1] < losses[0] - 0.1


METHODS = {
    "a ViT that drops paths": methods.SimCLR(
        encoders.ViT(
            patch=2, image_size=8, in_channels=1, width=16, depth=2, heads=2, drop_path=0.2
        ),
        encoders.MLP((16, 8)),
    ),
    "no norm": methods.BYOL(encoders.MLP((32, 16)), encoders.MLP((8,)), encoders.MLP((8,))),
    "bfloat16": methods.SimSiam(
        encoders.SmallCNN((4, 8), dtype="bfloat16"),
        encoders.simsiam_projector(16),
        encoders.simsiam_predictor(16),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("devices", [1, 8])
def test_so_it_is_for_any_method(tmp_path, quiet, method, devices):
    plain = make_experiment(method=METHODS[method], run=Run(devices=devices))
    probed = dataclasses.replace(plain, probe=PROBED)
    train(plain, tmp_path / "plain", console=quiet)
    train(probed, tmp_path / "probed", console=quiet)
    assert_learned_the_same(arrays(tmp_path / "probed", probed), arrays(tmp_path / "plain", plain))


@pytest.mark.slow
def test_devices_change_no_score(tmp_path, quiet):
    found = {}
    for devices in (1, 2, 8):
        experiment = make_experiment(probe=PROBED, run=Run(devices=devices, log_every=1))
        train(experiment, tmp_path / str(devices), console=quiet)
        found[devices] = rows(tmp_path / str(devices), *NAMES)
    for devices in (2, 8):
        np.testing.assert_allclose(found[devices][:, 0], found[1][:, 0], atol=1e-5)
        # Of 64 examples one may lie between two classes to the last bit.
        np.testing.assert_allclose(found[devices], found[1], atol=1 / 64 + 1e-6)


@pytest.mark.slow
def test_stopped_and_resumed_probes_end_with_the_very_same_arrays(tmp_path, quiet, monkeypatch):
    from jaxcl.training.observers import ProgressBar

    experiment = make_experiment(probe=PROBED)
    train(experiment, tmp_path / "whole", console=quiet)
    advance = ProgressBar.advance

    def advance_and_stop(bar, done):
        advance(bar, done)
        if done == 6:  # the step under way when the signal comes is still done
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(ProgressBar, "advance", advance_and_stop)
        assert train(experiment, tmp_path / "parts", console=quiet).step == 7
    assert train(experiment, tmp_path / "parts", console=quiet).finished
    whole, parts = (arrays(tmp_path / name, experiment) for name in ("whole", "parts"))
    assert {"probe/head/kernel", "probe/queue/labels", "probe/queue/cursor"} <= whole.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(parts[name], array, err_msg=name)
    np.testing.assert_array_equal(
        rows(tmp_path / "parts", *NAMES), rows(tmp_path / "whole", *NAMES)
    )
    assert "probe" in quiet.export_text()  # the progress line
    # What evaluates the run finds it without its training data.
    restored = restore_run(tmp_path / "whole").state
    np.testing.assert_array_equal(restored.probe.head["kernel"], whole["probe/head/kernel"])
    with pytest.raises(UserError, match=r"probe: Probe there, None here"):
        train(dataclasses.replace(experiment, probe=None), tmp_path / "whole", console=quiet)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "values"), [("method.temperature", (0.1, 0.4)), ("train.seed", (0, 1))]
)
def test_each_member_of_a_population_has_its_own(tmp_path, quiet, field, values):
    experiment = make_experiment(probe=PROBED)
    population = Population(experiment, field, values)
    train_population(population, tmp_path / "all", console=quiet)
    for number, member in enumerate(population.members):
        train(member, tmp_path / str(number), console=quiet)
        together = rows(tmp_path / "all" / str(number), *NAMES)
        np.testing.assert_allclose(together, rows(tmp_path / str(number), *NAMES), atol=1e-5)
    assert train_population(population, tmp_path / "all", console=quiet).finished


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.slow
def test_scores_are_those_of_the_definitions():
    """A batch against NumPy: the vote of the five nearest but own ones, the loss, Adam's step."""
    rng = np.random.default_rng(0)
    features, queue = rng.normal(size=(12, 6)), rng.normal(size=(300, 6))
    labels, past = rng.integers(0, 4, 12), rng.integers(0, 4, 300)
    index = np.arange(12)
    ids = np.arange(300) % 100  # the batch's examples were seen thrice
    past[200:] = -1  # never written
    queue /= np.linalg.norm(queue, axis=1, keepdims=True)
    kernel, bias = rng.normal(size=(6, 4)), rng.normal(size=4)
    state = init_probe(PROBED, 6, 4)
    state = dataclasses.replace(
        state,
        head={"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)},
        queue=Queue(
            jnp.asarray(queue, jnp.float32), jnp.int32(290), jnp.asarray(past), jnp.asarray(ids)
        ),
    )
    new, metrics = step_probe(
        PROBED, state, jnp.asarray(features, jnp.float32), jnp.asarray(labels), jnp.asarray(index)
    )

    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    similarities = unit @ queue.T
    correct = []
    for row in range(12):
        order = np.argsort(-similarities[row])
        voters = [r for r in order if past[r] >= 0 and ids[r] != index[row]][:5]
        votes = np.zeros(4)
        for voter in voters:
            votes[past[voter]] += np.exp(similarities[row, voter] / 0.07)
        correct.append(votes.argmax() == labels[row])
    np.testing.assert_allclose(metrics["probe_knn_accuracy"], np.mean(correct))

    standard = (features - features.mean(0)) / np.sqrt(features.var(0) + 1e-5)
    logits = standard @ kernel + bias
    of_class = softmax(logits)
    wanted = -np.log(of_class[np.arange(12), labels]).mean()
    np.testing.assert_allclose(metrics["probe_loss"], wanted, rtol=1e-5)
    np.testing.assert_allclose(metrics["probe_accuracy"], np.mean(logits.argmax(1) == labels))
    gradient = standard.T @ (of_class - np.eye(4)[labels]) / 12
    # Adam's first step is the gradient's sign, times the learning rate.
    np.testing.assert_allclose(
        new.head["kernel"], kernel - 0.01 * np.sign(gradient), rtol=1e-4, atol=1e-5
    )
    written = (290 + np.arange(12)) % 300
    np.testing.assert_array_equal(new.queue.labels[written], labels)
    np.testing.assert_array_equal(new.queue.ids[written], index)
    np.testing.assert_allclose(new.queue.embeddings[written], unit, atol=1e-6)


@pytest.mark.slow
def test_without_neighbours_nothing_is_right():
    state = init_probe(PROBED, 6, 4)
    _, metrics = step_probe(PROBED, state, jnp.ones((3, 6)), jnp.zeros(3, jnp.int32), jnp.arange(3))
    assert metrics["probe_knn_accuracy"] == 0


@pytest.mark.slow
def test_devices_share_one_probe():
    """Rows of a batch on one device and over four, under vmap."""
    features = jax.random.normal(jax.random.key(0), (16, 6))
    batch = (features, jnp.arange(16) % 4, jnp.arange(16))
    state = init_probe(PROBED, 6, 4)
    alone = step_probe(PROBED, state, *batch)
    split = jax.tree.map(lambda x: x.reshape(4, 4, *x.shape[1:]), batch)
    shared = jax.vmap(lambda part: step_probe(PROBED, state, *part, axis_name="d"), axis_name="d")(
        split
    )
    for device in range(4):
        jax.tree.map(
            lambda ours, theirs, device=device: np.testing.assert_allclose(
                ours[device], theirs, atol=1e-6
            ),
            shared,
            alone,
        )


def with_labels(tmp_path, labels):
    path = tmp_path / "data.npz"
    arrays = {"image": np.zeros((120, 8, 8, 1), np.uint8)}
    names = {} if labels is None else {"label": "label"}
    np.savez(path, **arrays, **({} if labels is None else {"label": labels}))
    return make_experiment(data=data.Arrays(str(path), **names), probe=Probe())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "probe needs labels, and the training data have none: name them"),
        (np.full(120, 2), "those of the training data are 2 to 2"),
        (np.arange(120) % 3 - 1, "counted from 0; those of the training data are -1 to 1"),
    ],
)
def test_labels_that_do_not_serve_are_named_before_anything_is_compiled(tmp_path, labels, message):
    with pytest.raises(UserError, match=message) as caught:
        training.set_up(with_labels(tmp_path, labels))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "probe.learning_rate must be positive, got 0"),
        ({"temperature": -1.0}, "probe.temperature must be positive, got -1"),
        ({"neighbours": 0}, "probe.neighbours is 0, expected 1 to probe.memory 4096"),
        ({"memory": 10}, "probe.neighbours is 20, expected 1 to probe.memory 10"),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Probe(**options)
