"""An experiment as a tree of frozen dataclasses: everything a run needs to know."""

import abc
import dataclasses
from typing import Any, Literal, Protocol

import flax.linen as nn
import numpy as np

from jaxcl.augment import Views
from jaxcl.choices import check_choices
from jaxcl.data import Source, SourceConfig
from jaxcl.methods import Method, MultiModal
from jaxcl.training.devices import Mapping
from jaxcl.training.optimizers import SGD, Optimizer, Schedule


@dataclasses.dataclass(frozen=True)
class Train:
    """How long and in what portions to train: what the numbers of a run depend on."""

    batch_size: int = 256
    """Examples a step, over all devices."""
    epochs: float = 200.0
    """Passes over the data."""
    seed: int = 0
    """Decides parameters, the order of the data, views and all else that is random."""
    accumulate: int = 1
    """Parts that each device's batch is encoded in, one after another, whose gradients are averaged
    for one update. Each part has a loss of its own: negatives and batch statistics are those within
    it, on all devices, so that this changes what is learned. `run.micro_batch` saves as much memory
    and changes nothing, at a third more compute."""

    apart: bool = False
    """Keep examples that share a text out of one batch, so that none is a negative of its like; the
    data have to know which do (`data.Texts`)."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"train.batch_size must be positive, got {self.batch_size}")
        if not self.epochs > 0:
            raise ValueError(f"train.epochs must be positive, got {self.epochs}")
        if self.accumulate < 1:
            raise ValueError(f"train.accumulate must be at least 1, got {self.accumulate}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"train.seed must be from 0 to 2**32 - 1, got {self.seed}")


@dataclasses.dataclass(frozen=True)
class Run:
    """How a run is executed: all of it may change on resuming.

    Nothing here changes the numbers of a run, except that `batch_norm_groups` of an encoder counts
    groups on each device.
    """

    devices: int | None = None
    """Devices to use; None: all there are."""
    mapping: Mapping = "pmap"
    """What maps the step over the devices."""
    micro_batch: int | None = None
    """Examples that a device encodes at a time, in less memory and more time; None: all of its
    batch. Gradients stay those of the whole batch (`jaxcl.methods.cached_loss_and_grad`)."""
    spread_state: bool = False
    """Keep parameters, the optimizer's state, target networks and banks spread over the devices, an
    equal part on each, instead of whole on every one. Takes mapping shard_map."""
    workers: int = 0
    """Processes that read and decode examples; 0: threads of this one."""
    prefetch: int = 2
    """Batches placed on the devices ahead of the step."""
    log_every: int = 10
    """Steps from one row of metrics.jsonl to the next."""
    checkpoint_every: int = 500
    """Steps from one checkpoint to the next; the last step always has one."""
    keep_last: int = 2
    """Newest checkpoints kept."""
    keep_every: int | None = None
    """Keep the checkpoints of steps divisible by this for good, too."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Who gets the rows of metrics.jsonl, too, and what is measured at the end."""

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("prefetch", "log_every", "checkpoint_every", "keep_last"):
            if getattr(self, name) < 1:
                raise ValueError(f"run.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("keep_every", "micro_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"run.{name} must be at least 1 or None, got {value}")
        if self.workers < 0:
            raise ValueError(f"run.workers must not be negative, got {self.workers}")


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Other labelled data that frozen features are measured on."""

    name: str
    """What the report calls them."""
    train: SourceConfig
    """Examples that classifiers are fitted on."""
    test: SourceConfig
    """Examples that they are scored on."""

    def open(self) -> tuple[Source, Source]:
        """Opens both parts.

        Raises:
          FileNotFoundError: where data are missing.
          ValueError: where they cannot be read, or have no labels.
        """
        sources = self.train.open(), self.test.open()
        for part, source in zip(("train", "test"), sources, strict=True):
            if source.labels is None:
                raise ValueError(
                    f"evaluate.transfer {self.name!r}, {part}, has no labels: name them (as in "
                    "label='label', or labels='subfolders')"
                )
        return sources


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """What to measure of the features once trained, beside raw input and an untrained encoder."""

    train: SourceConfig | None = None
    """Examples that classifiers are fitted on; None: the training data."""
    test: SourceConfig | None = None
    """Examples that they are scored on."""
    neighbours: int = 20
    """Neighbours that vote in kNN classification."""
    weights: Literal["distance", "uniform"] = "distance"
    """Whether nearer neighbours have more of a vote."""
    temperature: float = 0.07
    """A neighbour votes with exp(similarity / temperature)."""
    whiten: int | None = None
    """Number of principal directions, fitted on `train`, for kNN and retrieval by whitened features
    too, beside those by features as they are; None: leave these out."""
    labels_per_class: tuple[int, ...] = (1, 5, 10)
    """Numbers of labels a class for label efficiency."""
    paired: bool = False
    """Row i of train and of test show the same thing: measure retrieval from one to the other."""
    transfer: tuple[Transfer, ...] = ()
    """Other data sets to measure the features on."""
    batch_size: int = 256
    """Examples embedded at once."""

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("neighbours", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"evaluate.{name} must be at least 1, got {getattr(self, name)}")
        if self.whiten is not None and self.whiten < 1:
            raise ValueError(f"evaluate.whiten must be at least 1, or None, got {self.whiten}")
        if not self.temperature > 0:
            raise ValueError(f"evaluate.temperature must be positive, got {self.temperature}")
        names = [transfer.name for transfer in self.transfer]
        if len({*names}) < len(names):
            raise ValueError(f"evaluate.transfer gives one name twice: {', '.join(names)}")


@dataclasses.dataclass(frozen=True)
class Probe:
    """A linear classifier and nearest neighbours, scored on each batch while the method trains.

    They learn from the labels of the training data, the method does not: its parameters are the
    very same with and without. Metrics `probe_loss`, `probe_accuracy` and `probe_knn_accuracy` are
    of the first view of each example, before the probes learn from it.
    """

    learning_rate: float = 0.01
    """Of the linear classifier; Adam, constant."""
    memory: int = 4096
    """Past features among which neighbours are looked for; an example's own have no vote."""
    neighbours: int = 20
    """Neighbours that vote."""
    temperature: float = 0.07
    """A neighbour votes with exp(similarity / temperature)."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"probe.{name} must be positive, got {getattr(self, name)}")
        if not 1 <= self.neighbours <= self.memory:
            raise ValueError(
                f"probe.neighbours is {self.neighbours}, expected 1 to probe.memory {self.memory}"
            )


@dataclasses.dataclass(frozen=True)
class Start(abc.ABC):
    """Weights that a network starts from, instead of random ones; `jaxcl.pretrained` has some."""

    network: str = dataclasses.field(default="encoder", kw_only=True)
    """Name of the network, as among the method's."""

    @abc.abstractmethod
    def load(self, network: nn.Module, shapes: Any) -> Any:
        """Reads the weights.

        Args:
          network: the network.
          shapes: the network's variables as shapes and types: `params`, and `batch_stats` where
            it has any.

        Returns:
          The variables, or the parameters among them, as host arrays.

        Raises:
          FileNotFoundError: if there are none.
          ValueError: if they do not fit the network.
        """


class FieldFeatures(Protocol):
    """Features of a field of all records of a source."""

    def __call__(self, source: Source, field: str, *, frames: bool = False) -> np.ndarray:
        """[N, F]; of several texts a record [N, C, F], 0 where there is none; with `frames`
        [N, T, F], of each frame that an encoder makes of a record."""
        ...


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """Something to measure of the features of fields; `jaxcl.evaluation.tasks` has some."""

    name: str
    """What the report calls it."""

    @abc.abstractmethod
    def check(self, experiment: "Experiment") -> None:
        """Opens the data, and looks whether they fit, before anything is trained.

        Args:
          experiment: whose features are to be measured.

        Raises:
          FileNotFoundError: where they are missing.
          ValueError: where they cannot be read, or do not fit the task.
        """

    @abc.abstractmethod
    def measure(self, features: FieldFeatures) -> dict[str, float]:
        """The figures, by name.

        Raises:
          FileNotFoundError: where data are missing.
          ValueError: where they cannot be read, or do not fit.
        """


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A contrastive training run."""

    data: SourceConfig
    """Where the training examples come from."""
    views: Views
    """How an image becomes views, on the device."""
    method: Method
    """What is learned, and how."""
    optimizer: Optimizer = SGD()
    """How parameters move."""
    schedule: Schedule = Schedule()
    """The learning rate over time."""
    train: Train = Train()
    """How long and in what portions to train."""
    run: Run = Run()
    """How the run is executed."""
    evaluate: Evaluate | None = None
    """What to measure of an image's features by labels, once trained; None: nothing."""
    tasks: tuple[Task, ...] = ()
    """What else to measure once trained."""
    start: tuple[Start, ...] = ()
    """Weights that networks start from; the others' are random."""
    probe: Probe | None = None
    """What to measure while training, by labels of the training data; None: nothing."""


def networks_of_fields(experiment: Experiment) -> list[tuple[str, str, nn.Module]]:
    """Of each view its field, and name and module of the encoder that takes it."""
    method, fields = experiment.method, experiment.views.of_each
    if not isinstance(method, MultiModal):
        first = next(iter(method.networks.items()), None)
        return [] if first is None else [(field, *first) for field in fields]
    found = []
    for field, tower in zip(fields, method.towers, strict=False):
        name = f"{tower.encoder_of or tower.name}_encoder"
        found.append((field, name, method.networks[name]))
    return found
