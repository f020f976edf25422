"""Populations: one experiment in many values of one field, trained in a single program."""

import ast
import copy
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcl.training.config_json import config_fields
from jaxcl.training.devices import choose_devices
from jaxcl.training.errors import UserError
from jaxcl.training.experiment import Experiment
from jaxcl.training.layout import WholeState
from jaxcl.training.probes import make_probe_step
from jaxcl.training.restoring import start_state
from jaxcl.training.setup import Setup, set_up
from jaxcl.training.state import TrainState
from jaxcl.training.step import HostBatch, make_step

_SEED = "train.seed"
_EXAMPLE = "such as 'method.temperature=[0.05,0.1,0.2]'"
_NOT_TRACEABLE = (
    jax.errors.ConcretizationTypeError,  # of `if`, `float` and the like
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


@dataclasses.dataclass(frozen=True)
class Population:
    """Experiments that differ in one number: a float of method or optimizer, or the seed.

    All members see the same batches and the same views of them. With `train.seed` every member has
    an order of the data, views and first parameters of its own, as a run of that seed has.

    Example:
      >>> from jaxcl import augment, data, encoders, methods, training
      >>> experiment = training.Experiment(
      ...     data.Digits(), augment.crops(8), methods.SimCLR(encoders.MLP((16,)))
      ... )
      >>> population = Population(experiment, "method.temperature", (0.1, 0.2))
      >>> [member.method.temperature for member in population.members]
      [0.1, 0.2]
    """

    experiment: Experiment
    """What the members have in common."""
    field: str
    """Dotted path of the field, one of `variable_fields`."""
    values: tuple[float, ...]
    """The field's value in each member; two or more, all different."""

    def __post_init__(self) -> None:
        _check_field(self.experiment, self.field)
        for value in self.values:
            _check_number(self.field, value)
        if len(self.values) < 2:
            raise UserError(
                f"--population {self.field} has {len(self.values)} value(s), expected two or more: "
                f"a single one is set by --{self.field} VALUE"
            )
        if len(set(self.values)) < len(self.values):
            raise UserError(
                f"--population {self.field}={list(self.values)} has a value twice: leave one out"
            )
        _ = self.members  # each makes the checks of its classes

    @classmethod
    def parse(cls, experiment: Experiment, text: str) -> "Population":
        """A population from what stands on the command line.

        Args:
          experiment: what the members have in common.
          text: `FIELD=[VALUE, VALUE, ...]`.

        Raises:
          UserError: if there is no such field, it cannot vary, or the values are not a list of two
            or more different numbers that the field takes.
        """
        field, equals, listed = (part.strip() for part in text.partition("="))
        if not equals:
            raise UserError(f"--population is {text!r}, expected FIELD=[VALUE,VALUE], {_EXAMPLE}")
        _check_field(experiment, field)
        try:
            values = ast.literal_eval(listed)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            values = None
        if not isinstance(values, list | tuple):
            raise UserError(
                f"--population {field} is {listed!r}, expected a list of numbers, {_EXAMPLE}"
            )
        return cls(experiment, field, tuple(values))

    @property
    def own_data(self) -> bool:
        """Whether members differ in their batches and views, for they differ in their seed."""
        return self.field == _SEED

    @cached_property
    def members(self) -> tuple[Experiment, ...]:
        """The experiment of each member.

        Raises:
          UserError: for a value that the field's class refuses.
        """
        path, kind = self.field.split("."), int if self.own_data else float
        try:
            return tuple(_replace(self.experiment, path, kind(value)) for value in self.values)
        except ValueError as error:
            raise UserError(f"--population {self.field}: {error}") from error

    def with_value(self, value: jax.Array) -> Experiment:
        """The experiment of a member whose value is being traced, so that no check can see it."""
        return _substitute(self.experiment, self.field.split("."), value)


def variable_fields(experiment: Experiment) -> list[str]:
    """Dotted paths of the fields that may vary within one program.

    Those are the floats of method and optimizer, but for networks, and the seed.
    """
    parts = {"method": experiment.method, "optimizer": experiment.optimizer}
    floats = [path for name, part in parts.items() for path in _float_fields(part, name)]
    return [*floats, _SEED]


class PopulationSetup:
    """What `set_up` makes of the first member, and the program that steps all of them."""

    def __init__(self, population: Population) -> None:
        """Opens the data and checks all that can be before anything is compiled.

        Raises:
          UserError: naming what does not fit, what was expected and what to do.
          FileNotFoundError: where the data are missing.
        """
        _check_devices(population.experiment.run.devices)
        self.population = population
        self.setup: Setup = set_up(population.members[0])
        """Of the first member: data, sizes, device."""
        batch_size = population.experiment.train.batch_size
        self._peaks = [member.optimizer.peak(batch_size) for member in population.members]
        self._schedules = {
            member.optimizer.peak(batch_size): jax.jit(self._schedule(member))
            for member in population.members
        }
        try:
            for member in population.members[1:]:
                member.method.check(batch_size=batch_size, examples=len(self.setup.source))
            jax.eval_shape(self.step, self._state_shapes(), self._batch_shapes())
        except _NOT_TRACEABLE as error:
            raise UserError(
                f"{population.field} cannot vary within a population: what is compiled hangs on "
                "its value. Train its values one by one"
            ) from error
        except ValueError as error:
            raise UserError(f"--population {population.field}: {error}") from error

    def learning_rates(self, step: int) -> list[float]:
        """Each member's learning rate at a step, counted from 0."""
        rates = {peak: float(schedule(step)) for peak, schedule in self._schedules.items()}
        return [rates[peak] for peak in self._peaks]

    def start(self) -> TrainState:
        """The state before the first step, of all members, on the device."""
        facts = self.setup.facts
        return self.stack(
            [
                start_state(member, facts.shapes, classes=facts.classes)
                for member in self.population.members
            ]
        )

    def stack(self, states: Sequence[TrainState]) -> TrainState:
        """Members' states as one with an axis of members, on the device, in buffers of its own.

        What all have in common has no such axis: the step, and the key unless seeds differ.
        """
        first = jax.device_get(states[0])
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *states)
        key = stacked.key if self.population.own_data else first.key
        joined = dataclasses.replace(stacked, step=first.step, key=key)
        return self.setup.devices.place(joined)

    def unstack(self, state: TrainState) -> Iterator[TrainState]:
        """Each member's state, as host arrays."""
        host = jax.device_get(state)
        for number in range(len(self.population.values)):
            own = jax.tree.map(lambda leaf, number=number: leaf[number], self._of_members(host))
            yield dataclasses.replace(host, **own)

    def place(self, batch: dict[str, np.ndarray]) -> Any:
        """Places a host batch on the device; its arrays have an axis of members if seeds differ."""
        return jax.device_put(batch, self.setup.devices.devices[0])

    @cached_property
    def step(self) -> Any:
        """The step of all members: (state, batch) -> (state, metrics [members]), jitted.

        Views are made once where all members see the same.
        """
        population, setup = self.population, self.setup

        def member_step(
            value: jax.Array, state: TrainState, batch: HostBatch
        ) -> tuple[TrainState, dict[str, jax.Array]]:
            layout = WholeState(None)
            own = setup.experiment if population.own_data else population.with_value(value)
            step = make_step(
                own.method,
                own.views,
                own.optimizer.build(
                    self._schedule(own),
                    peak=own.optimizer.peak(own.train.batch_size),
                    total_steps=setup.total_steps,
                    undecayed=own.method.undecayed,
                ),
                total_steps=setup.total_steps,
                layout=layout,
                accumulate=own.train.accumulate,
                micro_batch=own.run.micro_batch,
            )
            probed: dict[str, jax.Array] = {}
            if own.probe is not None:
                probe_step = make_probe_step(own.probe, own.method, own.views, layout=layout)
                state, probed = probe_step(state, batch)
            state, metrics = step(state, batch)
            return state, metrics | probed

        shared = None if not population.own_data else 0
        axes = TrainState(step=None, key=shared, params=0, method=0, optimizer=0, probe=0)  # type: ignore[arg-type]
        mapped = jax.vmap(member_step, in_axes=(0, axes, shared), out_axes=(axes, 0))
        values = jnp.asarray(population.values, jnp.float32)
        return jax.jit(lambda state, batch: mapped(values, state, batch), donate_argnums=0)

    def _schedule(self, member: Experiment) -> optax.Schedule:
        return member.schedule.build(
            member.optimizer.peak(member.train.batch_size),
            total_steps=self.setup.total_steps,
            steps_per_epoch=self.setup.steps_per_epoch,
        )

    def _of_members(self, state: TrainState) -> dict[str, Any]:
        """The parts of a stacked state that have an axis of members."""
        names = ["params", "method", "optimizer", "probe"]
        if self.population.own_data:
            names.append("key")
        return {name: getattr(state, name) for name in names}

    def _state_shapes(self) -> TrainState:
        one, count = self.setup.state_shapes, len(self.population.values)
        stacked = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype),
            self._of_members(one),
        )
        return dataclasses.replace(one, **stacked)

    def _batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        batch, count = self.setup.batch_shapes(), len(self.population.values)
        if not self.population.own_data:
            return batch
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), batch)


def _check_devices(count: int | None) -> None:
    try:
        devices = choose_devices(count)
    except ValueError as error:
        raise UserError(str(error)) from error
    if len(devices) > 1:
        raise UserError(
            f"a population trains on one device, got {len(devices)}: set run.devices to 1, as in "
            "--run.devices 1"
        )


def _check_field(experiment: Experiment, field: str) -> None:
    """Raises, naming what can vary, where a field is not there or cannot."""
    variable = variable_fields(experiment)
    if field in variable:
        return
    can = f"a population can vary {', '.join(variable)}"
    if _exists(experiment, field):
        raise UserError(f"{field} cannot vary within one compiled program: {can}")
    nearest = difflib.get_close_matches(field, variable, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else can
    raise UserError(f"--population names {field!r}, which the experiment does not have: {hint}")


def _check_number(field: str, value: object) -> None:
    wanted = int if field == _SEED else int | float
    if isinstance(value, bool) or not isinstance(value, wanted) or not math.isfinite(value):
        what = "an integer" if field == _SEED else "a number"
        raise UserError(f"--population {field} has the value {value!r}, expected {what}")


def _exists(part: object, field: str) -> bool:
    name, _, rest = field.partition(".")
    if not dataclasses.is_dataclass(part) or name not in config_fields(part):
        return False
    return not rest or _exists(getattr(part, name), rest)


def _float_fields(part: Any, path: str) -> Iterator[str]:
    hints = typing.get_type_hints(type(part))
    for name in config_fields(part):
        value = getattr(part, name)
        if _takes_float(hints[name]):
            yield f"{path}.{name}"
        if dataclasses.is_dataclass(value) and not isinstance(value, nn.Module):
            yield from _float_fields(value, f"{path}.{name}")


def _takes_float(annotation: Any) -> bool:
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return annotation is float or (is_union and float in typing.get_args(annotation))


def _replace(part: Any, path: Sequence[str], value: float) -> Any:
    name, *rest = path
    inner = _replace(getattr(part, name), rest, value) if rest else value
    return dataclasses.replace(part, **{name: inner})


def _substitute(part: Any, path: Sequence[str], value: jax.Array) -> Any:
    """As `_replace`, but without the checks of the classes, which cannot look at a traced value."""
    name, *rest = path
    changed = copy.copy(part)
    inner = _substitute(getattr(part, name), rest, value) if rest else value
    object.__setattr__(changed, name, inner)
    return changed
