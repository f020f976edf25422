"""What a run has learned so far, read back without its training data."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxcl.augment import Views, batch_views
from jaxcl.methods import Batch
from jaxcl.training.checkpoints import Checkpoints
from jaxcl.training.devices import RUNS_ONCE
from jaxcl.training.errors import UserError
from jaxcl.training.experiment import Experiment
from jaxcl.training.probes import init_probe
from jaxcl.training.run_directory import RunDirectory
from jaxcl.training.state import TrainState, init_state


@dataclasses.dataclass(frozen=True)
class RestoredRun:
    """A run's experiment and the state of its newest checkpoint."""

    experiment: Experiment
    image: jax.ShapeDtypeStruct
    """Shape [H, W, C] and type of the images that it was trained on."""
    step: int
    state: TrainState
    """As host arrays."""
    passed_over: tuple[str, ...]
    """Newer checkpoints that did not hold, and why."""


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
    image = facts.image
    restored = Checkpoints(files.checkpoints).restore(
        state_shapes(experiment, image, classes=facts.classes)
    )
    if restored is None:
        raise UserError(f"{directory} has no checkpoint yet; run: jaxcl train {directory}")
    return RestoredRun(experiment, image, restored.step, restored.state, restored.passed_over)


def start_state(
    experiment: Experiment, image: jax.ShapeDtypeStruct, *, classes: int | None = None
) -> TrainState:
    """The state before the first step of an experiment on images of that shape and type.

    It compiles a program of its own, so it cannot be traced: `state_shapes` gives the shapes.

    Args:
      experiment: the experiment.
      image: shape [H, W, C] and type of the images.
      classes: one more than the largest label; None leaves the probes out.
    """
    make = jax.jit(state_maker(experiment, image, classes=classes), compiler_options=RUNS_ONCE)
    state: TrainState = make(np.uint32(experiment.train.seed))
    return state


def state_shapes(
    experiment: Experiment, image: jax.ShapeDtypeStruct, *, classes: int | None = None
) -> TrainState:
    """`start_state` as shapes and types, nothing computed."""
    make = state_maker(experiment, image, classes=classes)
    shapes: TrainState = jax.eval_shape(make, jax.ShapeDtypeStruct((), np.uint32))
    return shapes


def state_maker(
    experiment: Experiment, image: jax.ShapeDtypeStruct, *, classes: int | None
) -> Callable[[jax.Array], TrainState]:
    """As `start_state`, a function of the seed, to be jitted.

    Op by op it would be some fifty programs; and were the seed a constant, the compiler would draw
    the numbers while it compiles.
    """
    shapes = view_shapes(experiment.views, image)
    # The state of an optimizer has the same structure at any learning rate.
    optimizer = experiment.optimizer.build(lambda step: jnp.zeros(()))
    method, probe = experiment.method, experiment.probe

    def make(seed: jax.Array) -> TrainState:
        views = tuple(jnp.zeros(view.shape, view.dtype) for view in shapes)
        state = init_state(method, optimizer, Batch(views=views), seed=seed)
        if probe is not None and classes is not None:
            features = jax.eval_shape(method.embed, state.params, state.method, views[0])
            own = init_probe(probe, features.shape[-1], classes)
            state = dataclasses.replace(state, probe=own)
        # None weakly typed: a method's `jnp.asarray(1.0)` would be, until the first checkpoint.
        strong: TrainState = jax.tree.map(lambda x: jnp.asarray(x, x.dtype), state)
        return strong

    return make


def view_shapes(views: Views, image: jax.ShapeDtypeStruct) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Shapes [1, H, W, C] and types of the views of one image."""
    return jax.eval_shape(
        lambda key, images: batch_views(views, key, images, jnp.arange(1)),
        jax.random.key(0),
        jax.ShapeDtypeStruct((1, *image.shape), image.dtype),
    )
