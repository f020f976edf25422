"""Fine-tuning against what it stands for, subsets of labels, and the commands on real digits."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcl import augment, data, encoders, methods, training
from jaxcl.cli import main
from jaxcl.data import ArraySource
from jaxcl.evaluation import fit_whitening, recall_at_k
from jaxcl.evaluation.fine_tuning import (
    FineTuning,
    class_logits,
    fine_tune,
    layer_depths,
    light_view,
    scale_layers,
    with_head,
)
from jaxcl.evaluation.runs import evaluate_run
from jaxcl.evaluation.semi_supervised import balanced_subset, finetune_run, labels_per_class
from jaxcl.training import Evaluate, Transfer, UserError, train

KEY = jax.random.key(0)
DIGITS = Evaluate(train=data.Digits("train"), test=data.Digits("test"), labels_per_class=(1,))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A perceptron after six steps of SimCLR on digits."""
    from rich.console import Console

    experiment = training.Experiment(
        data=data.Digits(),
        views=augment.crops(8, noise=0.1),
        method=methods.SimCLR(encoders.MLP((32, 16)), temperature=0.2),
        optimizer=training.SGD(learning_rate=0.1),
        train=training.Train(batch_size=64, epochs=6 / 23),
        run=training.Run(devices=1),
        evaluate=dataclasses.replace(DIGITS, transfer=(Transfer("again", *_parts()),)),
    )
    directory = tmp_path_factory.mktemp("run")
    train(experiment, directory, console=Console(quiet=True))
    return directory


def _parts():
    return data.Digits("train"), data.Digits("test")


def depths_of(network, shape):
    params = jax.eval_shape(network.init, KEY, jnp.zeros(shape))["params"]
    depths = layer_depths(
        {"encoder": network}, {"encoder": params, "head": {}}, jax.ShapeDtypeStruct(shape, "f4")
    )["encoder"]
    found = {name: set(jax.tree.leaves(part)) for name, part in depths.items()}
    assert all(len(values) == 1 for values in found.values())
    return {name: values.pop() for name, values in found.items()}


def test_depths_follow_the_layers():
    mlp = depths_of(encoders.MLP((8, 4, 2), batch_norm=True), (1, 6))
    assert mlp == {"dense0": 3, "norm0": 3, "dense1": 2, "norm1": 2, "dense2": 1}
    cnn = depths_of(encoders.SmallCNN((4, 8)), (1, 8, 8, 1))
    assert cnn == {"conv0": 2, "norm0": 2, "conv1": 1, "norm1": 1}
    vit = depths_of(encoders.ViT("tiny", patch=8, depth=3), (1, 16, 16, 3))
    blocks = sorted((name for name in vit if name.startswith("block")), key=lambda n: -vit[n])
    assert [vit[name] for name in blocks] == [3, 2, 1]
    assert vit["patch_embed"] == vit["pos_embed"] == vit["cls_token"] == 4


@pytest.mark.parametrize(
    "network",
    [
        encoders.ResNet(18, stem="cifar", width=8),
        encoders.ConvNeXt("tiny"),
    ],
    ids=["resnet", "convnext"],
)
def test_depths_of_deep_networks_fall_from_the_stem_on(network):
    depths = depths_of(network, (1, 32, 32, 3))
    stem = max(depths.values())
    assert min(depths.values()) == 1
    assert sorted(set(depths.values())) == list(range(1, stem + 1))
    assert any(depth == stem for name, depth in depths.items() if "stem" in name or "conv" in name)


def test_updates_shrink_by_the_decay_a_layer():
    depths = {"low": 2, "high": 1, "head": 0}
    rule = optax.chain(optax.sgd(1.0), scale_layers(depths, 0.5))
    gradients = dict.fromkeys(depths, jnp.ones(()))
    updates, _ = rule.update(gradients, rule.init(gradients), gradients)
    assert {name: float(update) for name, update in updates.items()} == {
        "low": -0.25,
        "high": -0.5,
        "head": -1.0,
    }


def small_problem():
    network = {"encoder": encoders.MLP((12,))}
    images = np.random.default_rng(0).uniform(size=(24, 4, 4, 1)).astype(np.float32)
    labels = np.arange(24) % 3
    shape = jax.ShapeDtypeStruct((1, 4, 4, 1), jnp.float32)
    params = network["encoder"].init(KEY, images)["params"]
    weights = with_head(network, {"encoder": params}, {"encoder": {}}, shape, classes=3)
    return network, weights, images, labels


@pytest.mark.slow
def test_with_decay_zero_it_is_softmax_regression_on_frozen_features():
    """One batch, no view: the head follows gradient descent as NumPy does it."""
    network, weights, images, labels = small_problem()
    settings = FineTuning(
        epochs=5,
        least_steps=0,
        batch_size=24,
        optimizer=training.SGD(learning_rate=0.5, momentum=0.0, weight_decay=0.0, scaling="none"),
        layer_decay=0.0,
    )
    tuned = fine_tune(network, weights, ArraySource(images, labels), augment.Compose(()), settings)
    for name, kept in weights.params["encoder"]["dense0"].items():
        np.testing.assert_array_equal(tuned.params["encoder"]["dense0"][name], kept)

    dense = jax.tree.map(np.float64, weights.params["encoder"]["dense0"])
    features = images.reshape(24, -1) @ dense["kernel"] + dense["bias"]
    kernel, bias = np.zeros((12, 3)), np.zeros(3)
    for step in range(5):
        rate = 0.5 * (1 + np.cos(np.pi * step / 5)) / 2  # a tenth of 5 steps: no warm-up
        logits = features @ kernel + bias
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        error = (shares - np.eye(3)[labels]) / 24
        kernel, bias = kernel - rate * features.T @ error, bias - rate * error.sum(0)
    np.testing.assert_allclose(tuned.params["head"]["kernel"], kernel, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(tuned.params["head"]["bias"], bias, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_without_steps_nothing_moves_and_with_some_it_fits():
    network, weights, images, labels = small_problem()
    source, view = ArraySource(images, labels), augment.Compose(())
    assert fine_tune(network, weights, source, view, FineTuning(0, least_steps=0)) is weights
    fast = training.AdamW(learning_rate=0.03, scaling="none", weight_decay=0.0)
    tuned = fine_tune(network, weights, source, view, FineTuning(least_steps=300, optimizer=fast))
    logits, _ = class_logits(network, tuned, jnp.asarray(images))
    assert (np.argmax(logits, 1) == labels).all()
    assert not np.array_equal(
        tuned.params["encoder"]["dense0"]["kernel"], weights.params["encoder"]["dense0"]["kernel"]
    )


def test_light_views_crop_turn_and_flip_only():
    kept = light_view(augment.simclr(32)).transforms
    assert [type(step).__name__ for step in kept] == [
        "RandomResizedCrop",
        "RandomHorizontalFlip",
        "Normalize",
    ]


def test_subsets_are_balanced_and_drawn():
    labels = np.repeat([0, 1, 2], [50, 50, 5])
    assert labels_per_class(labels, 1.0) == 50
    assert labels_per_class(labels, 0.1) == 4  # 12 of 105 are nearest to 10.5, of 9 and 12 alike
    subset = balanced_subset(labels, 10, seed=0)
    assert np.bincount(labels[subset]).tolist() == [10, 10, 5]
    assert len({*subset.tolist()}) == 25
    assert not np.array_equal(subset, balanced_subset(labels, 10, seed=1))
    with pytest.raises(ValueError, match=r"0.001 of 105 labels gives none .* at least 0.029"):
        labels_per_class(labels, 0.001)
    with pytest.raises(ValueError, match="expected more than 0, at most 1"):
        labels_per_class(labels, 1.5)


@pytest.mark.slow
def test_the_command_writes_figures_of_each_share(run, capsys):
    command = ["finetune", str(run), "--labels", "0.1", "1", "--draws", "2", "--epochs", "1"]
    assert main(command) == 0
    assert "10 % (150)" in capsys.readouterr().out
    tenth, whole = json.loads((run / "finetuning.json").read_text())["shares"]
    assert (tenth["labels"], len(tenth["fine_tuned"]), len(tenth["linear"])) == (150, 2, 2)
    assert (whole["labels"], len(whole["from_scratch"])) == (1500, 1)
    scores = whole["fine_tuned"] + whole["linear"]
    assert min(scores) > 0.6  # of ten classes, after 300 steps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels", "0.0001"], "gives none for each of 10 classes"),
        (["--labels", "2"], "expected more than 0, at most 1"),
        (["--draws", "0"], "draws is 0, expected at least 1"),
        (["--layer-decay", "1.5"], "layer_decay is 1.5, expected 0 to 1"),
        (["--batch-size", "0"], "batch_size is 0, expected at least 1"),
    ],
)
def test_what_does_not_fit_is_one_line(run, options, message, capsys):
    assert main(["finetune", str(run), *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_transfer_to_the_same_data_is_the_runs_own_measure(run):
    evaluate_run(run)
    document = json.loads((run / "evaluation.json").read_text())
    for name, found in document["transfer"]["again"].items():
        assert found["knn"] == document["scores"][name]["knn"]
        assert found["linear"] == document["scores"][name]["linear"]["accuracy"]


@pytest.mark.slow
def test_transfer_to_pictures_of_another_size_and_in_colour(run, tmp_path):
    """The run's own, three times as large, grey and as RGB: shrunk again they are much the same."""

    def enlarged(split, channels):
        source = data.Digits(split).open()
        image = np.stack([source[i]["image"] for i in range(len(source))])
        image = (255 * (image / image.max())).astype(np.uint8)
        image = image.repeat(3, axis=1).repeat(3, axis=2).repeat(channels, axis=3)
        np.savez(tmp_path / f"{split}{channels}.npz", image=image, label=source.labels)
        return data.Arrays(str(tmp_path / f"{split}{channels}.npz"), label="label")

    others = tuple(
        Transfer(name, enlarged("train", channels), enlarged("test", channels))
        for name, channels in (("large", 1), ("colour", 3))
    )
    experiment = training.RunDirectory(run).read_experiment()
    text = evaluate_run(
        run,
        dataclasses.replace(experiment, evaluate=dataclasses.replace(DIGITS, transfer=others)),
    )
    assert "| large " in text
    assert "| colour " in text
    document = json.loads((run / "evaluation.json").read_text())
    assert list(document["transfer"]) == ["large", "colour"]
    large, colour = document["transfer"].values()
    for name, scores in document["scores"].items():
        assert colour[name]["knn"] == pytest.approx(large[name]["knn"], abs=0.005)
        if name != "raw input":  # whose features are thrice as many in colour
            assert colour[name]["linear"] == pytest.approx(large[name]["linear"], abs=0.005)
        # Not the very same: what an encoder takes has been shrunk, and so smoothed.
        assert large[name]["knn"] == pytest.approx(scores["knn"], abs=0.05)
    assert large["raw input"]["knn"] == document["scores"]["raw input"]["knn"]  # no size of its own


@pytest.mark.slow
def test_pairs_are_found_by_whitened_pixels_too(run, tmp_path):
    source = data.Digits("test").open()
    image = np.stack([source[i]["image"] for i in range(len(source))])
    noise = 60 * np.random.default_rng(0).standard_normal(image.shape)
    other = np.clip(255.0 * (image / image.max()) + noise, 0, 255).astype(np.uint8)
    image = (255 * (image / image.max())).astype(np.uint8)
    np.savez(tmp_path / "pairs.npz", image=image, other=other, label=source.labels)
    here, there = (
        data.Arrays(str(tmp_path / "pairs.npz"), image=name, label="label")
        for name in ("image", "other")
    )
    experiment = training.RunDirectory(run).read_experiment()
    paired = Evaluate(train=here, test=there, labels_per_class=(1,), paired=True, whiten=12)
    text = evaluate_run(run, dataclasses.replace(experiment, evaluate=paired))
    assert "; whitened " in text
    document = json.loads((run / "evaluation.json").read_text())
    assert document["whiten"] == 12
    pixels = [images.reshape(len(images), -1) / 255 for images in (image, other)]
    whitening = fit_whitening(pixels[0], 12)
    whitened = [whitening(part) for part in pixels]
    recalls = recall_at_k(*whitened, ks=(1, 5), centre="columns")
    found = document["retrieval"]["raw input"]
    assert found["whitened_recall_at_1"] == pytest.approx(recalls[1], abs=0.005)
    assert found["whitened_recall_at_5"] == pytest.approx(recalls[5], abs=0.005)
    assert found["recall_at_1"] - found["whitened_recall_at_1"] > 0.05  # they are not the same


@pytest.mark.slow
def test_robustness_is_of_the_same_classifiers(run):
    text = evaluate_run(run, severities=(1, 5))
    assert "mean, % of clean" in text
    document = json.loads((run / "evaluation.json").read_text())
    for name, kinds in document["corruptions"].items():
        assert kinds["knn"]["clean"] == document["scores"][name]["knn"]
        noise = kinds["linear"]["corrupted"]["gaussian_blur"]
        assert set(noise) == {"1", "5"}
        assert noise["5"] < noise["1"]


def test_severities_and_labels_are_checked(run, capsys):
    assert main(["evaluate", str(run), "--corruptions", "7"]) == 2
    assert "severities are 7: give some of 1 to 5, each once" in capsys.readouterr().err
    unlabelled = Transfer("bare", data.Digits("train"), _Unlabelled())
    experiment = training.RunDirectory(run).read_experiment()
    changed = dataclasses.replace(
        experiment, evaluate=dataclasses.replace(DIGITS, transfer=(unlabelled,))
    )
    with pytest.raises(UserError, match=r"evaluate.transfer 'bare', test, has no labels"):
        evaluate_run(run, changed)
    with pytest.raises(UserError, match="names no test examples"):
        finetune_run(run, dataclasses.replace(experiment, evaluate=None))
    with pytest.raises(ValueError, match="whiten must be at least 1, or None, got 0"):
        Evaluate(whiten=0)
    with pytest.raises(ValueError, match="gives one name twice: a, a"):
        Evaluate(transfer=(Transfer("a", *_parts()), Transfer("a", *_parts())))


@dataclasses.dataclass(frozen=True)
class _Unlabelled(data.SourceConfig):
    def open(self):
        return ArraySource(np.zeros((4, 8, 8, 1), np.uint8))
