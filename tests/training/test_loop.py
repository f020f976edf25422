"""Runs: the same on any devices, the same when stopped and resumed, and clear when they fail."""

import dataclasses
import os
import signal

import flax.linen as nn
import jax
import numpy as np
import pytest
from small_runs import make_experiment, stop_after

from jaxcl import augment, data, encoders, methods, training
from jaxcl.encoders.norm import BatchNorm
from jaxcl.training import Run, RunDirectory, Train, UserError, loop, read_metrics, train
from jaxcl.training.checkpoints import Checkpoints
from jaxcl.training.run_directory import RunLock
from jaxcl.training.state import name_leaves

STEPS = 12


class OwnEncoder(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False, axis_name=None):
        return nn.Dense(8)(x.reshape(len(x), -1))


class SmoothCNN(nn.Module):
    """A small CNN with tanh for ReLU.

    Where a pre-activation lies within rounding of ReLU's kink, two sums of the same numbers in
    another order choose another gradient, and training goes apart from there on.
    """

    batch_norm_groups: int | None = None

    @nn.compact
    def __call__(self, x, *, train=False, axis_name=None):
        for layer, width in enumerate((4, 8)):
            x = nn.Conv(width, (3, 3), strides=1 + layer, use_bias=False)(x)
            x = BatchNorm(groups=self.batch_norm_groups)(x, train=train, axis_name=axis_name)
            x = nn.tanh(x)
        return x.mean((1, 2))


def losses(directory):
    return np.array([row["loss"] for row in read_metrics(RunDirectory(directory).metrics)])


def final_arrays(directory, experiment):
    setup = training.set_up(dataclasses.replace(experiment, run=Run(devices=1)))
    restored = Checkpoints(RunDirectory(directory).checkpoints).restore(setup.state_shapes)
    return restored.step, name_leaves(restored.state)


def test_a_run_leaves_what_it_promises(tmp_path, experiment, quiet):
    outcome = train(experiment, tmp_path / "run", console=quiet)
    assert outcome.finished
    assert outcome.step == STEPS
    files = RunDirectory(tmp_path / "run")
    assert files.read_experiment() == experiment
    rows = read_metrics(files.metrics)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert set(rows[0]) >= {
        "loss",
        "chance_loss",
        "accuracy",
        "positive_similarity",
        "negative_similarity",
        "negatives",
        "embedding_std",
        "effective_rank",
        "gradient_norm",
        "learning_rate",
        "examples_per_second",
        "waiting_share",
    }
    assert all(0 <= row["waiting_share"] <= 1.01 for row in rows)
    np.testing.assert_allclose(rows[0]["chance_loss"], np.log(201), rtol=1e-5)
    assert Checkpoints(files.checkpoints).steps() == [STEPS]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["moco", "moco, groups", "moco_v3", "simclr", "memory"])
def test_first_20_losses_agree_on_any_devices_under_both_mappings(tmp_path, quiet, method):
    # All smooth, and SimCLR at a mild temperature: what is left between them is rounding.
    encoder = SmoothCNN()

    def smooth(mlp):
        return mlp.clone(activation="gelu")

    moco = methods.MoCo(encoder, smooth(encoders.moco_v2_projector(16)), queue_size=200)
    chosen = {
        "moco": moco,
        "moco, groups": moco,
        "moco_v3": methods.MoCoV3(
            encoder,
            smooth(encoders.moco_v3_projector(16, hidden=32)),
            smooth(encoders.moco_v3_predictor(16, hidden=32)),
        ),
        "simclr": methods.SimCLR(
            encoder, smooth(encoders.simclr_v1_projector(16)), temperature=0.5, queue_size=200
        ),
        "memory": methods.PlainMemory(encoder, memory_size=200, negatives=16),
    }[method]
    base = make_experiment(method=chosen, train=Train(batch_size=64, epochs=20 / 23))
    found = {}
    ways = [(1, "pmap"), (2, "pmap"), (4, "pmap"), (8, "pmap"), (1, "shard_map"), (8, "shard_map")]
    for devices, mapping in ways:
        if method == "moco, groups":  # as many groups in all, whatever the devices
            grouped = SmoothCNN(batch_norm_groups=8 // devices)
            base = dataclasses.replace(base, method=dataclasses.replace(chosen, encoder=grouped))
        run = Run(devices=devices, mapping=mapping, log_every=1)
        directory = tmp_path / f"{devices}-{mapping}"
        train(dataclasses.replace(base, run=run), directory, console=quiet)
        found[devices, mapping] = losses(directory)
    reference = found.pop((1, "pmap"))
    assert len(reference) == 20
    for which, ours in found.items():
        np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-5, err_msg=str(which))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [methods.SwAV, methods.DINO])
def test_small_crops_train_in_the_same_step_on_any_devices(tmp_path, quiet, kind):
    projector = encoders.MLP((16, 8), activation="gelu")
    experiment = make_experiment(
        views=augment.multi_crop(augment.crops(8), 4, crops=2, small_scale=(0.1, 0.4)),
        method=kind(SmoothCNN(), projector, prototypes=10),
        train=Train(batch_size=64, epochs=5 / 23),
    )
    found = {}
    for devices in (1, 4):
        directory = tmp_path / str(devices)
        run = Run(devices=devices, log_every=1)
        train(dataclasses.replace(experiment, run=run), directory, console=quiet)
        found[devices] = losses(directory)
    assert len(found[1]) == 5
    np.testing.assert_allclose(found[4], found[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("stop", [pytest.param(1, marks=pytest.mark.slow), 7])
def test_stopped_and_resumed_ends_with_the_very_same_arrays(
    tmp_path, experiment, quiet, monkeypatch, stop
):
    train(experiment, tmp_path / "whole", console=quiet)
    with monkeypatch.context() as patch:
        if stop > 1:
            stop_after(patch, stop)
            outcome = train(experiment, tmp_path / "parts", console=quiet)
            assert outcome.stopped_by == signal.SIGTERM
            assert outcome.step == stop
            assert not outcome.finished
        else:  # killed before any checkpoint: starts anew
            (tmp_path / "parts").mkdir()
            RunDirectory(tmp_path / "parts").prepare(experiment, training.set_up(experiment).facts)
    assert train(experiment, tmp_path / "parts", console=quiet).finished
    step, whole = final_arrays(tmp_path / "whole", experiment)
    _, parts = final_arrays(tmp_path / "parts", experiment)
    assert step == STEPS
    assert whole.keys() == parts.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(parts[name], array, err_msg=name)
    np.testing.assert_array_equal(losses(tmp_path / "parts"), losses(tmp_path / "whole"))


RESUMED = {
    "moco_v3, LARS, shard_map on 4": make_experiment(
        method=methods.MoCoV3(
            encoders.SmallCNN((4, 8)),
            encoders.moco_v3_projector(16, hidden=32),
            encoders.moco_v3_predictor(16, hidden=32),
        ),
        optimizer=training.LARS(learning_rate=0.3),
        run=Run(devices=4, mapping="shard_map", log_every=1),
    ),
    "simclr with its memory, AdamW, pmap on 8, 2 workers": make_experiment(
        method=methods.SimCLR(
            encoders.SmallCNN((4, 8)), encoders.simclr_v2_projector(16), queue_size=300
        ),
        optimizer=training.AdamW(learning_rate=1e-3),
        run=Run(devices=8, log_every=1, workers=2),
    ),
    "a bank, clipped SGD, 1 worker": make_experiment(
        method=methods.PlainMemory(
            encoders.SmallCNN((4, 8)), memory_size=1500, negatives=16, positive="memory"
        ),
        optimizer=training.SGD(learning_rate=0.1, clip_norm=1.0),
        run=Run(devices=2, log_every=1, workers=1, prefetch=3),
    ),
    "bfloat16, groups, momentum on a cosine": make_experiment(
        method=methods.MoCo(
            encoders.SmallCNN((4, 8), batch_norm_groups=2, dtype="bfloat16"),
            encoders.moco_v2_projector(16),
            queue_size=200,
            momentum=methods.Cosine(0.9, 1.0),
        ),
        run=Run(devices=2, log_every=1),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", RESUMED)
def test_any_run_resumes_with_the_very_same_arrays(tmp_path, quiet, monkeypatch, case):
    """Stopped twice, at steps drawn at random."""
    experiment = RESUMED[case]
    train(experiment, tmp_path / "whole", console=quiet)
    for stop in sorted(np.random.default_rng(len(case)).choice(np.arange(2, STEPS), 2, False)):
        with monkeypatch.context() as patch:
            stop_after(patch, stop)
            assert train(experiment, tmp_path / "parts", console=quiet).step == stop
    assert train(experiment, tmp_path / "parts", console=quiet).finished
    step, whole = final_arrays(tmp_path / "whole", experiment)
    _, parts = final_arrays(tmp_path / "parts", experiment)
    assert step == STEPS
    for name, array in whole.items():
        np.testing.assert_array_equal(parts[name], array, err_msg=name)
    np.testing.assert_array_equal(losses(tmp_path / "parts"), losses(tmp_path / "whole"))


@pytest.mark.slow
def test_stopped_on_8_devices_goes_on_on_2_under_the_other_mapping(
    tmp_path, experiment, quiet, monkeypatch
):
    train(experiment, tmp_path / "whole", console=quiet)
    on_8 = dataclasses.replace(experiment, run=Run(devices=8, log_every=1))
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        assert train(on_8, tmp_path / "parts", console=quiet).step == 5
    on_2 = dataclasses.replace(
        experiment, run=Run(devices=2, mapping="shard_map", log_every=1, workers=0)
    )
    assert train(on_2, tmp_path / "parts", console=quiet).finished
    np.testing.assert_allclose(
        losses(tmp_path / "parts"), losses(tmp_path / "whole"), rtol=0, atol=1e-5
    )


@pytest.mark.slow
def test_a_checkpoint_that_does_not_hold_is_passed_over_and_named(tmp_path, plain, quiet):
    often = dataclasses.replace(plain, run=Run(devices=1, log_every=1, checkpoint_every=4))
    train(often, tmp_path / "run", console=quiet)
    expected = losses(tmp_path / "run")
    folder = RunDirectory(tmp_path / "run").checkpoints
    for path in (folder / f"{STEPS:08d}" / "arrays-0").rglob("d/*"):
        path.write_bytes(b"")
    train(often, tmp_path / "run", console=quiet)
    said = quiet.export_text()
    assert "passed over a checkpoint: step 12" in said
    assert "resuming after step 8" in said
    np.testing.assert_array_equal(losses(tmp_path / "run"), expected)  # rows past 8 were cut


@pytest.mark.slow
def test_the_state_is_donated(experiment):
    setup = training.set_up(experiment)
    state = setup.start()
    program = setup.step
    zeros = {name: np.zeros(x.shape, x.dtype) for name, x in setup.batch_shapes().items()}
    batch = setup.devices.split(zeros)
    memory = program.lower(state, batch).compile().memory_analysis()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert memory.alias_size_in_bytes >= size
    new_state, _ = program(state, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert int(new_state.step) == 1


@pytest.mark.slow
def test_two_runs_cannot_share_a_directory(tmp_path, plain, quiet):
    with (
        RunLock(tmp_path),
        pytest.raises(UserError, match=f"in use by process {os.getpid()} on"),
    ):
        train(plain, tmp_path, console=quiet)
    assert not RunDirectory(tmp_path).config.exists()  # nothing was written
    (tmp_path / "lock.json").write_text("left by a killed process")
    assert train(plain, tmp_path, console=quiet).finished


@pytest.mark.slow
def test_other_data_on_resuming_are_named(tmp_path, plain, quiet):
    np.savez(tmp_path / "data.npz", image=np.zeros((100, 8, 8), np.uint8))
    arrays = dataclasses.replace(
        plain,
        data=data.Arrays(str(tmp_path / "data.npz")),
        train=Train(batch_size=32, epochs=1),
    )
    train(arrays, tmp_path / "run", console=quiet)
    np.savez(tmp_path / "data.npz", image=np.zeros((101, 8, 8), np.uint8))
    with pytest.raises(UserError, match="examples: 100 there, 101 here"):
        train(arrays, tmp_path / "run", console=quiet)


@pytest.mark.slow
def test_a_run_with_the_users_own_classes_resumes_with_its_config(
    tmp_path, experiment, quiet, monkeypatch
):
    own = dataclasses.replace(experiment, method=methods.SimCLR(OwnEncoder()))
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        assert train(own, tmp_path, console=quiet).step == 5
    assert train(own, tmp_path, console=quiet).finished
    assert training.restore_run(tmp_path, own).step == STEPS
    with pytest.raises(UserError, match="OwnEncoder, which is not a class of jaxcl"):
        training.restore_run(tmp_path)


@pytest.mark.slow
def test_what_could_not_be_read_loses_no_step(tmp_path, plain, quiet, monkeypatch):
    from jaxcl.data import batches

    make = batches.batch_at

    def failing(source, step, **options):
        if step == 8:
            raise OSError("the disk is gone")
        return make(source, step, **options)

    with monkeypatch.context() as patch:
        patch.setattr(batches, "batch_at", failing)
        with pytest.raises(training.UserError, match="reading the data: the disk is gone"):
            train(plain, tmp_path, console=quiet)
    assert Checkpoints(RunDirectory(tmp_path).checkpoints).steps() == [8]
    assert train(plain, tmp_path, console=quiet).finished


@pytest.mark.slow
def test_another_experiment_is_refused_by_name(tmp_path, plain, quiet):
    train(plain, tmp_path, console=quiet)
    other = dataclasses.replace(plain, method=dataclasses.replace(plain.method, temperature=0.5))
    with pytest.raises(UserError, match=r"method.temperature: 0.2 there, 0.5 here"):
        train(other, tmp_path, console=quiet)


@pytest.mark.slow
def test_a_diverged_run_stops_and_keeps_what_it_had(tmp_path, experiment, quiet):
    wild = dataclasses.replace(
        experiment,
        method=methods.SimCLR(encoders.MLP((8,)), temperature=0.1),
        optimizer=training.SGD(learning_rate=4e3, scaling="none", weight_decay=1.0),
        run=Run(devices=1, log_every=5, checkpoint_every=1),
    )
    with pytest.raises(training.DivergedError, match=r"training diverged. Lower"):
        train(wild, tmp_path, console=quiet)
    _, arrays = final_arrays(tmp_path, wild)
    assert all(np.isfinite(np.asarray(array, np.float64)).all() for array in arrays.values())


@pytest.mark.slow
def test_a_collapsed_run_is_told_so(tmp_path, experiment, quiet):
    """Such decay leaves biases alone: every digit ends at one point. The same run without it."""
    healthy = dataclasses.replace(
        experiment,
        method=methods.SimCLR(encoders.MLP((64, 32)), temperature=0.2),
        optimizer=training.SGD(learning_rate=0.2, weight_decay=0.0, decay="matrices"),
        train=Train(batch_size=64, epochs=2),
    )
    assert train(healthy, tmp_path / "healthy", console=quiet).alarms == ()
    collapsing = dataclasses.replace(
        healthy,
        optimizer=dataclasses.replace(healthy.optimizer, weight_decay=10.0),
    )
    (alarm,) = train(collapsing, tmp_path / "collapsing", console=quiet).alarms
    assert "embeddings have collapsed" in alarm
    assert alarm in " ".join(quiet.export_text().split())


@pytest.mark.slow
def test_a_run_at_chance_is_told_so(tmp_path, experiment, quiet):
    frozen = dataclasses.replace(
        experiment,
        method=methods.SimCLR(encoders.MLP((64, 32)), temperature=100.0),
        train=Train(batch_size=64, epochs=2),
    )
    (alarm,) = train(frozen, tmp_path, console=quiet).alarms
    assert "the loss stays at chance" in alarm


def folder_of_pictures(folder, count, damaged):
    from PIL import Image

    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        pixels = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    for number in damaged:
        (folder / f"{number:02d}.png").write_bytes(b"not a picture")


def on_pictures(experiment, folder):
    return dataclasses.replace(
        experiment,
        data=data.Folder(str(folder)),
        views=augment.simclr(8),
        method=methods.SimCLR(encoders.SmallCNN((4,))),
        train=Train(batch_size=16, epochs=4),
    )


@pytest.mark.slow
def test_images_that_do_not_decode_are_named_and_counted(tmp_path, experiment, quiet, monkeypatch):
    folder_of_pictures(tmp_path / "pictures", 16, damaged=[3])
    pictures = on_pictures(experiment, tmp_path / "pictures")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        train(pictures, tmp_path / "run", console=quiet)
    assert quiet.export_text().count("03.png cannot be read") == 1
    train(pictures, tmp_path / "run", console=quiet)
    rows = read_metrics(RunDirectory(tmp_path / "run").metrics)
    assert [row["replaced_examples"] for row in rows] == [1, 2, 3, 4]  # resumed after 2


@pytest.mark.slow
def test_of_many_images_that_do_not_decode_a_few_are_named(tmp_path, experiment, quiet):
    folder_of_pictures(tmp_path / "pictures", 16, damaged=range(8))
    train(on_pictures(experiment, tmp_path / "pictures"), tmp_path / "run", console=quiet)
    said = quiet.export_text()
    assert said.count("cannot be read: the next") == 5
    assert said.count("more examples cannot be read") == 1
    assert read_metrics(RunDirectory(tmp_path / "run").metrics)[-1]["replaced_examples"] == 4 * 8


@pytest.mark.slow
def test_a_state_that_cannot_fit_is_refused_with_its_size(tmp_path, experiment, quiet, monkeypatch):
    monkeypatch.setattr(loop, "device_memory", lambda device: 1000.0)
    with pytest.raises(UserError, match=r"the state takes 0.0 GB of each device, which has 0.0: "):
        train(experiment, tmp_path / "run", console=quiet)
    method = dataclasses.replace(experiment.method, queue_size=4_000_000_000)
    with pytest.raises(UserError, match="size is 4000000000, but rows are counted in int32"):
        training.set_up(dataclasses.replace(experiment, method=method))


@pytest.mark.slow
def test_a_device_without_memory_is_said_with_what_takes_less(experiment):
    setup = training.set_up(experiment)
    said = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 3.41GiB.\nAnd more lines"
    with (
        pytest.raises(
            UserError, match=r"batch 64 over 1 devices does not fit .*\(Out of memory .*"
        ),
        loop.what_does_not_fit(setup),
    ):
        raise jax.errors.JaxRuntimeError(said)
    with pytest.raises(jax.errors.JaxRuntimeError), loop.what_does_not_fit(setup):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


@pytest.mark.slow
def test_the_log_says_where_the_time_went(tmp_path, plain, quiet):
    often = dataclasses.replace(plain.run, checkpoint_every=3)
    train(dataclasses.replace(plain, run=often), tmp_path / "run", console=quiet)
    rows = read_metrics(RunDirectory(tmp_path / "run").metrics)
    shares = [[row[f"{part}_share"] for part in ("computing", "waiting", "saving")] for row in rows]
    np.testing.assert_allclose(np.sum(shares, axis=1), 1)
    saving = {row["step"]: row["saving_share"] for row in rows}
    assert saving[4] > 0  # after the checkpoint of step 3
    assert saving[3] == 0
