"""From an experiment to what a run needs, every check made before anything is compiled."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jax
import numpy as np
import optax

from jaxcl.data import Source, records_apart_at, steps_per_epoch
from jaxcl.data.source import THERE, image_shape, inputs_of, opened_once
from jaxcl.extras import MissingExtra
from jaxcl.methods import MultiModal
from jaxcl.methods.gradient_cache import check_micro_batch
from jaxcl.training.devices import AXIS, DeviceMap, check_batch_size, choose_devices
from jaxcl.training.errors import UserError
from jaxcl.training.experiment import Experiment, networks_of_fields
from jaxcl.training.layout import Layout, SpreadState, WholeState
from jaxcl.training.probes import check_probe, make_probe_step
from jaxcl.training.restoring import given_weights, state_maker, state_shapes
from jaxcl.training.run_directory import RunFacts
from jaxcl.training.state import TrainState
from jaxcl.training.step import make_step


@dataclasses.dataclass(frozen=True)
class Setup:
    """What `set_up` makes of an experiment."""

    experiment: Experiment
    source: Source
    devices: DeviceMap
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    steps_per_epoch: int
    total_steps: int
    notices: tuple[str, ...]
    """What is allowed but probably not meant, in words."""

    @cached_property
    def facts(self) -> RunFacts:
        """What the run directory keeps about data and machine."""
        labels = self.source.labels
        return RunFacts(
            {name: (x.shape, x.dtype.name) for name, x in inputs_of(self.source[0]).items()},
            len(self.source),
            len(self.devices.devices),
            None if labels is None else int(labels.max()) + 1,
        )

    @cached_property
    def state_shapes(self) -> TrainState:
        """Shapes and types of a whole state, nothing computed."""
        return state_shapes(self.experiment, self.facts.shapes, classes=self.facts.classes)

    @cached_property
    def layout(self) -> Layout:
        """Where the state lies on the devices."""
        count = len(self.devices.devices)
        if not self.experiment.run.spread_state or count == 1:
            return WholeState(AXIS)
        method = self.experiment.method
        return SpreadState(AXIS, count, self.state_shapes, method.averages, method.banks)

    def start(self) -> Any:
        """The state before the first step, made on the devices: of what is spread each makes its
        part."""
        make = state_maker(self.experiment, self.facts.shapes, classes=self.facts.classes)
        given = given_weights(self.experiment, self.state_shapes)
        return self.devices.make(
            lambda arguments: self.layout.packed(make(*arguments)),
            (np.uint32(self.experiment.train.seed), given),
            self.layout.specs(),
        )

    def place(self, state: TrainState) -> Any:
        """A host's state on the devices, as `step` takes it."""
        return self.devices.place(self.layout.packed(state), self.layout.specs())

    def fetch(self, state: Any) -> TrainState:
        """What is on the devices, as host arrays; all processes have to ask for it."""
        fetched: TrainState = self.layout.unpacked(state, self.devices.fetch)
        return fetched

    def placed_shapes(self) -> Any:
        """As `place`, of shapes and types, with the places."""
        packed = jax.eval_shape(self.layout.packed, self.state_shapes)
        return self.devices.placed_shapes(packed, self.layout.specs())

    @cached_property
    def step(self) -> Any:
        """The step over all devices: (placed state, split batch) -> (state, metrics).

        A jitted function, compiled when first called; it has `.lower`.
        """
        return self.devices.compile(
            make_step(
                self.experiment.method,
                self.experiment.views,
                self.optimizer,
                total_steps=self.total_steps,
                layout=self.layout,
                accumulate=self.experiment.train.accumulate,
                micro_batch=self.experiment.run.micro_batch,
            ),
            self.layout.specs(),
        )

    @cached_property
    def probe_step(self) -> Any:
        """As `step`, of the online probes alone; None without any."""
        experiment = self.experiment
        if experiment.probe is None:
            return None
        return self.devices.compile(
            make_probe_step(
                experiment.probe, experiment.method, experiment.views, layout=self.layout
            ),
            self.layout.specs(),
        )

    def advance(self, state: Any, batch: Any) -> tuple[Any, Any]:
        """A step of the probes, where there are any, and one of the method."""
        if self.probe_step is None:
            return self.step(state, batch)
        state, probed = self.probe_step(state, batch)
        state, metrics = self.step(state, batch)
        return state, metrics | probed

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of a whole batch, that of all processes, before it is split."""
        size = self.experiment.train.batch_size
        number = jax.ShapeDtypeStruct((size,), np.int32)
        batch = {
            name: jax.ShapeDtypeStruct((size, *one.shape), one.dtype)
            for name, one in self.facts.shapes.items()
        }
        some = jax.ShapeDtypeStruct((size,), np.bool_)
        batch |= {name: some for name in self.source[0] if name.endswith(THERE)}
        batch["index"] = number
        return batch | ({} if self.source.labels is None else {"label": number})


def set_up(experiment: Experiment, devices: Sequence[jax.Device] | None = None) -> Setup:
    """Opens the data, chooses devices, builds the optimizer, and checks that all fit together.

    Args:
      experiment: what to train.
      devices: what to train on; None: those here, as many as the experiment says. Others need not
        exist: their step can be compiled all the same.

    Raises:
      UserError: naming what does not fit, what was expected and what to do.
      FileNotFoundError: where the data are missing.
    """
    try:
        return _set_up(experiment, devices)
    except (ValueError, MissingExtra) as error:
        raise UserError(str(error)) from error


def _set_up(experiment: Experiment, given: Sequence[jax.Device] | None) -> Setup:
    train, run = experiment.train, experiment.run
    devices = choose_devices(run.devices) if given is None else tuple(given)
    check_batch_size(train.batch_size, len(devices))
    rows = train.batch_size // len(devices)
    if rows % train.accumulate:
        raise ValueError(
            f"train.accumulate {train.accumulate} does not divide a device's batch of {rows} "
            f"examples ({train.batch_size} over {len(devices)} devices)"
        )
    if run.micro_batch is not None:
        check_micro_batch(run.micro_batch, rows // train.accumulate, name="run.micro_batch")
    if run.spread_state and run.mapping != "shard_map":
        raise ValueError(
            f"run.spread_state spreads the state by shard_map, and run.mapping is {run.mapping}: "
            "add --run.mapping shard_map"
        )
    source = experiment.data.open()
    epoch = steps_per_epoch(len(source), train.batch_size)
    total_steps = max(1, round(train.epochs * epoch))
    _check_evaluation(experiment, source)
    with opened_once():
        for task in experiment.tasks:
            try:
                task.check(experiment)
            except ValueError as error:
                raise ValueError(f"task {task.name!r}: {error}") from error
    if experiment.probe is not None:
        check_probe(source.labels)
    method = experiment.method
    notices = [
        *method.check(batch_size=train.batch_size, examples=len(source)),
        *method.check_labels(source.labels, batch_size=train.batch_size),
        *getattr(source, "notices", ()),
    ]
    _check_fields(source, experiment)
    if train.apart:
        groups = getattr(source, "groups", None)
        if groups is None:
            raise ValueError(
                "train.apart keeps examples that share a text apart, and the data do not say which "
                "do: leave it out, or give texts (data.Texts)"
            )
        records_apart_at(groups, 0, batch_size=train.batch_size, seed=train.seed)
    if train.accumulate > 1:
        notices.append(
            f"train.accumulate {train.accumulate}: examples are contrasted, and batch statistics "
            f"taken, within {train.batch_size // train.accumulate} of the {train.batch_size} "
            "examples of a step (run.micro_batch keeps all of them)"
        )
    peak = experiment.optimizer.peak(train.batch_size)
    learning_rate = experiment.schedule.build(peak, total_steps=total_steps, steps_per_epoch=epoch)
    setup = Setup(
        experiment=experiment,
        source=source,
        devices=DeviceMap(devices, run.mapping),
        optimizer=experiment.optimizer.build(
            learning_rate,
            peak=peak,
            total_steps=total_steps,
            undecayed=experiment.method.undecayed,
            axis_name=AXIS if run.spread_state and len(devices) > 1 else None,
        ),
        learning_rate=jax.jit(learning_rate),  # for the log: one program, not one an operation
        steps_per_epoch=epoch,
        total_steps=total_steps,
        notices=tuple(notices),
    )
    kept = getattr(setup.state_shapes.method, "frozen", {})
    random = sorted({*kept} - {start.network for start in experiment.start})
    if random:
        setup = dataclasses.replace(setup, notices=(*notices, _keeps_random(random)))
    # Traces views, networks and loss: what does not fit is said now, and the trace serves later
    # where it can.
    state, batch = setup.placed_shapes(), setup.devices.split_shapes(setup.batch_shapes())
    for program in (setup.probe_step, setup.step):
        if program is not None:
            setup.devices.trace(program, state, batch)
    return setup


def _check_fields(source: Source, experiment: Experiment) -> None:
    """Raises where tokens of the data are unknown to a network (out of its table, they would be
    nothing at all), or where a method counts records that lack a field, or texts that have no
    tokens."""
    tokens, method = getattr(source, "vocabulary", None) or {}, experiment.method
    takes = networks_of_fields(experiment)
    if not isinstance(method, MultiModal):
        of_each = dict.fromkeys(experiment.views.of_each)
        takes = [(field, *named) for field in of_each for named in method.networks.items()]
    for field, name, network in takes:
        known = getattr(network, "vocabulary", None)
        if field in tokens and known is not None and tokens[field] > known:
            raise ValueError(
                f"the data's tokenizer has {tokens[field]} tokens and method.{name} knows {known}: "
                f"set method.{name}.vocabulary to {tokens[field]}, or give the tokenizer that it "
                "was made for"
            )
    if isinstance(method, MultiModal) and not method.queue_size:
        return
    for field in experiment.views.of_each:
        if f"{field}{THERE}" in source[0]:
            raise ValueError(
                f"some records have no {field!r}, and {type(method).__name__} counts every one: "
                "leave them out of the data"
            )
    for field, lengths in (getattr(source, "lengths", None) or {}).items():
        empty = int(np.sum(lengths == 0))
        if empty and field in experiment.views.of_each:
            raise ValueError(
                f"{empty} of {len(lengths)} records have no text in {field!r}, and "
                f"{type(method).__name__} counts every one: leave them out of the data (texts by "
                "themselves: empty='skip')"
                + (", or set method.queue_size to 0" if isinstance(method, MultiModal) else "")
            )


def _check_evaluation(experiment: Experiment, source: Source) -> None:
    """Opens what the trained features will be measured on, so that what is wrong is said first."""
    settings = experiment.evaluate
    if settings is None:
        return
    if settings.test is None:
        raise ValueError("evaluate names no test examples: set evaluate.test, or evaluate=None")
    fitted = source if settings.train is None else settings.train.open()
    test = settings.test.open()
    if image_shape(fitted) != image_shape(test):
        raise ValueError(
            f"evaluate.test has images of {_sides(test)}, and evaluate.train (the training data, "
            f"where it is not set) of {_sides(fitted)}: set the size of both alike"
        )
    if settings.paired and len(fitted) != len(test):
        raise ValueError(
            f"evaluate.paired takes row i of both as one thing, but evaluate.train has "
            f"{len(fitted)} examples and evaluate.test {len(test)}"
        )
    if (fitted.labels is None) != (test.labels is None):
        without, given = ("train", "test") if fitted.labels is None else ("test", "train")
        raise ValueError(
            f"evaluate.{given} has labels and evaluate.{without} has none: name the labels of both "
            "(as in label='label', or labels='subfolders'), or of neither"
        )


def _sides(source: Source) -> str:
    return "x".join(map(str, image_shape(source)))


def _keeps_random(networks: Sequence[str]) -> str:
    return (
        f"{', '.join(networks)} keeps the weights that it starts from, and these are random: "
        "give it others by start"
    )
