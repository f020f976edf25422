"""Experiments that do not fit together: each said in a line, before anything is compiled."""

import dataclasses
import json

import numpy as np
import pytest
from small_runs import make_experiment, make_plain_experiment

from jaxcl import augment, data, encoders, methods, training
from jaxcl.training import Checkpoints, RunDirectory, Train, UserError, train

ENCODER = encoders.SmallCNN((4, 8))
TINY_VIT = {"image_size": 8, "width": 8, "depth": 1, "heads": 2, "in_channels": 1}
CROPS = augment.crops(8).views


def with_labels(tmp_path, labels, **changes):
    path = tmp_path / "data.npz"
    arrays = {"image": np.zeros((120, 8, 8, 1), np.uint8)}
    names = {} if labels is None else {"label": "label"}
    np.savez(path, **arrays, **({} if labels is None else {"label": labels}))
    return make_experiment(
        data=data.Arrays(str(path), **names), method=methods.SupCon(ENCODER), **changes
    )


@dataclasses.dataclass(frozen=True)
class Unregistered:
    batch_stats: dict


class WithoutPytree(methods.SimCLR):
    def init(self, key, batch):
        params, state = super().init(key, batch)
        return params, Unregistered(state.batch_stats)


class Unreduced(methods.SimCLR):
    def objective(self, *arguments, **options):
        loss, state, metrics = super().objective(*arguments, **options)
        return loss + np.zeros(64, np.float32), state, metrics


class WithVector(methods.SimCLR):
    def objective(self, *arguments, **options):
        loss, state, metrics = super().objective(*arguments, **options)
        return loss, state, metrics | {"spectrum": np.zeros(3, np.float32)}


def evaluated_on(tmp_path, shape, **settings):
    np.savez(tmp_path / "test.npz", image=np.zeros(shape, np.uint8))
    test = data.Arrays(str(tmp_path / "test.npz"))
    plain = np.zeros((120, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "train.npz", image=plain)
    own = data.Arrays(str(tmp_path / "train.npz"))
    return make_experiment(data=own, evaluate=training.Evaluate(test=test, **settings))


CASES = {
    "tested on images of another size": (
        lambda path: evaluated_on(path, (120, 16, 16, 1)),
        r"evaluate.test has images of 16x16x1, and evaluate.train .* of 8x8x1: set the size",
    ),
    "pairs that do not pair up": (
        lambda path: evaluated_on(path, (100, 8, 8, 1), paired=True),
        "evaluate.train has 120 examples and evaluate.test 100",
    ),
    "a state that is no pytree": (
        lambda _: make_experiment(method=WithoutPytree(ENCODER)),
        "WithoutPytree.init returned a state with Unregistered in it, expected arrays: have a",
    ),
    "a loss for each example": (
        lambda _: make_experiment(method=Unreduced(ENCODER)),
        r"Unreduced.objective returned the loss of shape \(64,\), expected a scalar: take its mean",
    ),
    "a metric that is no scalar": (
        lambda _: make_experiment(method=WithVector(ENCODER)),
        r"WithVector.objective returned spectrum of shape \(3,\), expected a scalar",
    ),
    "SupCon without labels": (
        lambda path: with_labels(path, None),
        "SupCon needs labels, and the data have none: name them",
    ),
    "SupCon with one class": (
        lambda path: with_labels(path, np.full(120, 3)),
        "SupCon: all 120 examples have the label 3, so there are no negatives: give data of two",
    ),
    "SupCon with batches of one": (
        lambda path: with_labels(path, np.arange(120) % 2, train=Train(batch_size=1, epochs=1)),
        "SupCon: a batch of 1 has no negatives",
    ),
    "SupCon with many batches of one class": (
        lambda path: with_labels(path, np.arange(120) % 2, train=Train(batch_size=4, epochs=1)),
        "SupCon: about 12% of the batches of 4 are of one class, which have no negatives",
    ),
    "SwAV with larger crops last": (
        lambda _: make_experiment(
            views=augment.Views((*CROPS, *augment.crops(12).views)),
            method=methods.SwAV(ENCODER, prototypes=10),
        ),
        "SwAV: views of full size come first, but later ones are larger",
    ),
    "DINO with larger crops last": (
        lambda _: make_experiment(
            views=augment.Views((*CROPS, *augment.crops(12).views)),
            method=methods.DINO(ENCODER, prototypes=10),
        ),
        "DINO: views of full size come first, but later ones are larger",
    ),
    "a patch that does not divide the view": (
        lambda _: make_experiment(
            method=methods.SimCLR(encoders.ViT(patch=3, positions="sincos", **TINY_VIT))
        ),
        "ViT patch 3 does not divide images of height 8: resize to 6 or 9",
    ),
    "a bank smaller than the data": (
        lambda _: make_experiment(method=methods.InstanceDiscrimination(ENCODER, bank_size=100)),
        r"bank_size 100 is smaller than the data set \(\d+ examples\), each of which has its row",
    ),
    "a memory of own entries smaller than the data": (
        lambda _: make_experiment(
            method=methods.PlainMemory(ENCODER, memory_size=500, positive="memory")
        ),
        r"memory_size 500 is smaller than the data set",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit_is_said_in_one_line(case, tmp_path):
    make, message = CASES[case]
    with pytest.raises(UserError, match=message) as caught:
        training.set_up(make(tmp_path))
    assert "\n" not in str(caught.value)


def test_local_crops_larger_than_global_ones_make_no_recipe():
    with pytest.raises(ValueError, match="small is 8, expected below the full size 8"):
        augment.multi_crop(augment.crops(8), 8)


@pytest.mark.slow
def test_fewer_examples_than_prototypes_are_said(quiet):
    experiment = make_experiment(method=methods.SwAV(ENCODER, prototypes=100))
    (notice,) = training.set_up(experiment).notices
    assert "100 prototypes share 64 examples (batch), so most get none in a step" in notice


@pytest.mark.slow
def test_batches_that_are_likely_of_one_class_are_said(tmp_path):
    """Of 120 examples 6 are of another class: 0.95 ** 64 is 3.8 %, 0.5 ** 64 nothing."""
    rare = np.arange(120) % 20 == 0
    (notice,) = training.set_up(with_labels(tmp_path, rare.astype(int))).notices
    assert "about 3.8% of the batches of 64 are of one class" in notice
    assert training.set_up(with_labels(tmp_path, np.arange(120) % 2)).notices == ()


@pytest.mark.slow
def test_a_checkpoint_of_another_state_is_refused_by_name(tmp_path, experiment, quiet):
    """As where a class of the user's own has changed, which the config does not show."""
    files = RunDirectory(tmp_path)
    checkpoints = Checkpoints(files.checkpoints)
    setup = training.set_up(experiment)
    checkpoints.save(4, setup.fetch(setup.start()))
    checkpoints.close()
    other = dataclasses.replace(
        experiment, method=dataclasses.replace(experiment.method, queue_size=100)
    )
    with pytest.raises(UserError) as caught:
        train(other, tmp_path, console=quiet)
    assert "the checkpoint of step 4 is of another experiment" in str(caught.value)
    assert "method/queue/embeddings is float32[200, 16], expected float32[100, 16]" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Train(batch_size=0), "train.batch_size must be positive, got 0"),
        (lambda: Train(epochs=0.0), "train.epochs must be positive, got 0"),
        (lambda: Train(accumulate=0), "train.accumulate must be at least 1, got 0"),
        (lambda: training.Run(prefetch=0), "run.prefetch must be at least 1, got 0"),
        (lambda: training.Run(workers=-1), "run.workers must not be negative, got -1"),
        (lambda: training.Evaluate(neighbours=0), "evaluate.neighbours must be at least 1"),
        (lambda: training.Evaluate(temperature=0.0), "evaluate.temperature must be positive"),
        (lambda: training.Schedule(warmup_epochs=-1.0), "warmup_epochs must not be negative"),
    ],
)
def test_numbers_that_cannot_be_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.slow
def test_parts_of_a_batch_have_losses_of_their_own(tmp_path, quiet):
    """Accumulated: the loss is the mean of those of each part, and so it is said."""
    experiment = make_plain_experiment(train=Train(batch_size=64, epochs=2 / 23, accumulate=4))
    (notice,) = training.set_up(experiment).notices
    assert "contrasted, and batch statistics taken, within 16 of the 64" in notice
    train(experiment, tmp_path / "run", console=quiet)
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[0])["negatives"] == 2 * (16 - 1)
    uneven = dataclasses.replace(experiment, train=Train(batch_size=66, accumulate=4))
    with pytest.raises(UserError, match=r"accumulate 4 does not divide a device's batch of 66"):
        training.set_up(uneven)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", "{", "config.json is damaged"),
        ("config.json", "[]", "it holds no JSON object"),
        ("facts.json", "{}", "facts.json is missing or damaged"),
        ("facts.json", None, "facts.json is missing or damaged"),
    ],
)
def test_a_damaged_run_directory_is_named(tmp_path, name, content, words):
    experiment = make_plain_experiment()
    files = RunDirectory(tmp_path)
    files.prepare(experiment, training.set_up(experiment).facts)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=words):
        training.restore_run(tmp_path)


def test_a_run_without_a_checkpoint_says_so(tmp_path):
    experiment = make_plain_experiment()
    RunDirectory(tmp_path).prepare(experiment, training.set_up(experiment).facts)
    with pytest.raises(UserError, match="has no checkpoint yet; run: jaxcl train"):
        training.restore_run(tmp_path)
