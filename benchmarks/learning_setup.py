"""What both sides of learning.py share: data, views, networks, budget, and how features are scored.

Every method has its published losses and heads, at widths that suit the small encoder.
"""

import dataclasses
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

from jaxcl import augment, data, encoders, evaluation, methods, training

DIM, HIDDEN, WIDE = 64, 128, 256  # embeddings, hidden layers, wide projectors
TEMPERATURE, MOMENTUM, QUEUE, PROTOTYPES = 0.2, 0.99, 2048, 128
SCORED = 10_000  # examples, of each part, that features are scored on


@dataclasses.dataclass(frozen=True)
class Task:
    """Data, views and a budget."""

    data: data.SourceConfig
    views: augment.Views
    train: data.SourceConfig
    """Examples that classifiers are fitted on."""
    test: data.SourceConfig
    """Examples that they are scored on."""
    epochs: float
    batch_size: int = 256
    paired: bool = False
    """Row i of train and test show the same thing."""


STUDIOS = ("google", "twitter")


def make_task(name: str, file: str, *, size: int, epochs: float) -> Task:
    """A task of an .npz file as `../README.md` tells of: "fashion" or "emoji"."""
    if name == "fashion":
        return Task(
            data=data.Arrays(file, size=size),
            views=augment.crops(size, (0.3, 1.0), brightness=0.4),
            train=data.Arrays(file, label="label", size=size),
            test=data.Arrays(file, image="test_image", label="test_label", size=size),
            epochs=epochs,
        )
    train, test = (
        data.Arrays(file, image=studio, label="subcategory", size=size) for studio in STUDIOS
    )
    return Task(
        data=data.Arrays(file, image=STUDIOS, size=size),
        views=augment.simclr(size, strength=0.5, blur=False, mean=None),
        train=train,
        test=test,
        epochs=epochs,
        paired=True,
    )


def make_encoder(**options: object) -> encoders.SmallCNN:
    """The encoder of all runs."""
    return encoders.SmallCNN((16, 32, 64), **options)


def make_method(name: str) -> methods.Method:
    """jaxcl's side of a method."""
    encoder = make_encoder()
    wide = encoders.barlow_twins_projector(WIDE, hidden=WIDE)
    byol = encoders.byol_projector(DIM, hidden=HIDDEN)
    return {
        "moco_v2": lambda: methods.MoCo(
            make_encoder(batch_norm_groups=8),
            projector=encoders.moco_v2_projector(DIM),
            temperature=TEMPERATURE,
            queue_size=QUEUE,
            momentum=MOMENTUM,
        ),
        "simclr": lambda: methods.SimCLR(
            encoder, projector=encoders.simclr_v1_projector(DIM), temperature=TEMPERATURE
        ),
        "dcl": lambda: methods.SimCLR(
            encoder,
            projector=encoders.simclr_v1_projector(DIM),
            temperature=TEMPERATURE,
            contrast="dcl",
        ),
        "byol": lambda: methods.BYOL(
            encoder, projector=byol, predictor=byol, momentum=methods.Cosine(MOMENTUM, 1.0)
        ),
        "simsiam": lambda: methods.SimSiam(
            encoder,
            projector=encoders.simsiam_projector(HIDDEN, hidden=HIDDEN),
            predictor=encoders.simsiam_predictor(HIDDEN, hidden=HIDDEN // 4),
        ),
        "nnclr": lambda: methods.NNCLR(
            encoder,
            projector=encoders.nnclr_projector(DIM, hidden=HIDDEN),
            predictor=byol,
            temperature=TEMPERATURE,
            queue_size=QUEUE,
            contrast="nt_xent",  # lightly's
        ),
        "barlow_twins": lambda: methods.JointEmbedding(
            encoder, projector=wide, criterion=methods.criteria.BarlowTwins()
        ),
        "vicreg": lambda: methods.JointEmbedding(
            encoder, projector=wide, criterion=methods.criteria.VICReg()
        ),
        "swav": lambda: methods.SwAV(
            encoder,
            projector=encoders.swav_projector(DIM, hidden=HIDDEN),
            prototypes=PROTOTYPES,
        ),
        "dino": lambda: methods.DINO(
            encoder,
            projector=encoders.dino_projector(DIM, hidden=HIDDEN),
            prototypes=PROTOTYPES,
            momentum=methods.Cosine(MOMENTUM, 1.0),
        ),
    }[name]()


def make_experiment(method: str, task: Task, *, seed: int) -> training.Experiment:
    """One run of jaxcl; lightly's takes its data, views, first encoder and optimizer."""
    optimizer: training.Optimizer = training.SGD(
        learning_rate={"barlow_twins": 0.01, "vicreg": 0.03}.get(method, 0.06), weight_decay=5e-4
    )
    if method == "dino":
        optimizer = training.AdamW(learning_rate=1e-3, weight_decay=0.04)
    return training.Experiment(
        data=task.data,
        views=task.views,
        method=make_method(method),
        optimizer=optimizer,
        train=training.Train(batch_size=task.batch_size, epochs=task.epochs, seed=seed),
        run=training.Run(devices=1, log_every=1, checkpoint_every=1_000_000),
    )


def train(name: str, task: Task, seed: int) -> tuple[Callable[[np.ndarray], np.ndarray], list]:
    """Trains one run of jaxcl.

    Returns:
      What maps pictures [N, H, W, C] to features, and the loss of each step.
    """
    experiment = make_experiment(name, task, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        outcome = training.train(experiment, Path(folder), console=Console(quiet=True))
        for alarm in outcome.alarms:  # of a healthy run there is none
            print(f"{name}, seed {seed}: {alarm}", file=sys.stderr)
        state = training.restore_run(Path(folder)).state
        history = [row["loss"] for row in training.read_metrics(Path(folder) / "metrics.jsonl")]
    program = jax.jit(lambda x: experiment.method.embed(state.params, state.method, x))
    return lambda pictures: np.asarray(program(pictures)), history


def score(task: Task, embed: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
    """What features are worth, in %.

    Args:
      task: the task.
      embed: maps pictures [N, H, W, C] in [0, 1] to features [N, F].

    Returns:
      By name: on pairs "R@1" and "5-NN", else "20-NN" and "linear".
    """
    sources = [task.train.open(), task.test.open()]
    chosen = [np.arange(min(SCORED, len(source))) for source in sources]
    pictures = [
        source.images[rows].astype(np.float32) / 255
        for source, rows in zip(sources, chosen, strict=True)
    ]
    train, test = (
        np.concatenate([embed(part) for part in np.array_split(x, -(-len(x) // 500))])
        for x in pictures
    )
    labels, truths = (source.labels[rows] for source, rows in zip(sources, chosen, strict=True))
    parts = (train, labels, test, truths)
    if task.paired:
        found = {
            "R@1": evaluation.recall_at_k(train, test, ks=(1,), centre="columns")[1],
            "5-NN": evaluation.knn_accuracy(*parts, k=5, weights="uniform"),
        }
    else:
        found = {
            "20-NN": evaluation.knn_accuracy(*parts, k=20),
            "linear": evaluation.linear_probe(*parts).accuracy,
        }
    return {name: 100 * float(value) for name, value in found.items()}
