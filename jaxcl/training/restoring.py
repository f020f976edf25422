"""What a run has learned so far, read back without its training data."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcl.augment import Views, batch_views
from jaxcl.extras import MissingExtra
from jaxcl.methods import Batch, Method
from jaxcl.training.checkpoints import Checkpoints
from jaxcl.training.devices import RUNS_ONCE
from jaxcl.training.errors import UserError
from jaxcl.training.experiment import Experiment
from jaxcl.training.probes import init_probe
from jaxcl.training.run_directory import Inputs, RunDirectory
from jaxcl.training.state import TrainState, init_state, name_leaves, path_name


@dataclasses.dataclass(frozen=True)
class RestoredRun:
    """A run's experiment and the state of its newest checkpoint."""

    directory: Path
    experiment: Experiment
    inputs: Inputs
    """Shapes and types of the fields of the examples that it was trained on."""
    step: int
    state: TrainState
    """As host arrays."""
    passed_over: tuple[str, ...]
    """Newer checkpoints that did not hold, and why."""

    @property
    def image(self) -> jax.ShapeDtypeStruct:
        """Shape [H, W, C] and type of the images that it was trained on.

        Raises:
          UserError: if there were none.
        """
        return self.inputs[self.image_field]

    @property
    def image_field(self) -> str:
        """The field of these images; of several, the first that a view is of.

        Raises:
          UserError: if there were none.
        """
        for name in self.experiment.views.of_each:
            if len(self.inputs[name].shape) == 3:
                return name
        raise UserError(f"the run was trained on {', '.join(self.inputs)}, and this is for images")


def restore_run(directory: Path, experiment: Experiment | None = None) -> RestoredRun:
    """Reads a run's newest checkpoint that holds.

    Args:
      directory: the run directory.
      experiment: its experiment, where that has classes that are not jaxcl's; None: as written
        there.

    Raises:
      UserError: if there is none, or the directory is damaged.
      FileNotFoundError: if the directory holds no run.
    """
    files = RunDirectory(directory)
    experiment = files.read_experiment() if experiment is None else experiment
    facts = files.read_facts()
    restored = Checkpoints(files.checkpoints).restore(
        state_shapes(experiment, facts.shapes, classes=facts.classes)
    )
    if restored is None:
        raise UserError(f"{directory} has no checkpoint yet; run: jaxcl train {directory}")
    return RestoredRun(
        directory, experiment, facts.shapes, restored.step, restored.state, restored.passed_over
    )


def start_state(
    experiment: Experiment, inputs: Inputs, *, classes: int | None = None
) -> TrainState:
    """The state before the first step of an experiment on examples of such fields.

    It compiles a program of its own, so it cannot be traced: `state_shapes` gives the shapes.

    Args:
      experiment: the experiment.
      inputs: shapes and types of an example's fields, such as `image` [H, W, C].
      classes: one more than the largest label; None leaves the probes out.
    """
    make = jax.jit(state_maker(experiment, inputs, classes=classes), compiler_options=RUNS_ONCE)
    given = given_weights(experiment, state_shapes(experiment, inputs, classes=classes))
    state: TrainState = make(np.uint32(experiment.train.seed), given)
    return state


def state_shapes(
    experiment: Experiment, inputs: Inputs, *, classes: int | None = None
) -> TrainState:
    """`start_state` as shapes and types, nothing computed."""
    make = state_maker(experiment, inputs, classes=classes)
    shapes: TrainState = jax.eval_shape(make, jax.ShapeDtypeStruct((), np.uint32), {})
    return shapes


def given_weights(experiment: Experiment, shapes: TrainState) -> dict[str, np.ndarray]:
    """What networks start from that do not start at random (`Experiment.start`).

    Args:
      experiment: the experiment.
      shapes: of its whole state.

    Returns:
      Arrays by their path in the state: parameters and batch statistics of the network itself, and
      of target networks that start as its copies.

    Raises:
      UserError: for a network that is none of the method's, or weights that do not fit.
    """
    given: dict[str, np.ndarray] = {}
    leaves = name_leaves(shapes)
    for start in experiment.start:
        places = [
            f"{whole}/{start.network}/"
            for whole in ("params", "method/frozen", *_copies(experiment.method))
        ]
        places = [place for place in places if any(name.startswith(place) for name in leaves)]
        if not places:
            known = ", ".join(experiment.method.networks)
            raise UserError(
                f"start names the network {start.network!r}, expected one of the method's: {known}"
            )
        variables = {"params": _at(shapes, places[0])}
        kept = sorted(
            {
                name[: match.end()]
                for name in leaves
                if (match := re.match(rf"method/.*batch_stats/{re.escape(start.network)}/", name))
            }
        )
        if kept:
            variables["batch_stats"] = _at(shapes, kept[0])
        try:
            network = experiment.method.networks[start.network]
            loaded = start.load(network, variables)
        except (ValueError, MissingExtra) as error:
            raise UserError(f"start of {start.network}: {error}") from error
        for collection, where in (("params", places), ("batch_stats", kept)):
            arrays = name_leaves(loaded.get(collection, {}))
            given |= {f"{place}{name}": array for place in where for name, array in arrays.items()}
    return given


def _copies(method: Method) -> list[str]:
    return [f"method/{path}" for path in method.averages]


def _at(shapes: TrainState, place: str) -> Any:
    """The part of a state below a path."""
    found: Any = shapes
    for name in place.strip("/").split("/"):
        found = found[name] if isinstance(found, Mapping) else getattr(found, name)
    return found


def state_maker(
    experiment: Experiment, inputs: Inputs, *, classes: int | None
) -> Callable[[jax.Array, dict[str, np.ndarray]], TrainState]:
    """As `start_state`, a function of the seed and of `given_weights`, to be jitted.

    Op by op it would be some fifty programs; and were the seed a constant, the compiler would draw
    the numbers while it compiles.
    """
    shapes = view_shapes(experiment.views, inputs)
    # The state of an optimizer has the same structure at any learning rate.
    optimizer = experiment.optimizer.build(lambda step: jnp.zeros(()))
    method, probe = experiment.method, experiment.probe

    def make(seed: jax.Array, given: dict[str, np.ndarray]) -> TrainState:
        views = tuple(jnp.zeros(view.shape, view.dtype) for view in shapes)
        state = init_state(method, optimizer, Batch(views=views), seed=seed)
        state = jax.tree_util.tree_map_with_path(
            lambda path, leaf: given.get(path_name(path), leaf), state
        )
        if probe is not None and classes is not None:
            features = jax.eval_shape(method.embed, state.params, state.method, views[0])
            own = init_probe(probe, features.shape[-1], classes)
            state = dataclasses.replace(state, probe=own)
        # None weakly typed: a method's `jnp.asarray(1.0)` would be, until the first checkpoint.
        strong: TrainState = jax.tree.map(lambda x: jnp.asarray(x, x.dtype), state)
        return strong

    return make


def view_shapes(views: Views, inputs: Inputs) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Shapes, such as [1, H, W, C], and types of the views of one example."""
    batch = {
        name: jax.ShapeDtypeStruct((1, *value.shape), value.dtype) for name, value in inputs.items()
    }
    return jax.eval_shape(
        lambda key, examples: batch_views(views, key, examples, jnp.arange(1)),
        jax.random.key(0),
        batch,
    )
