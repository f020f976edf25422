"""One training step, from pictures to updated parameters, as one device sees it."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial

import jax
import optax

from jaxcl.augment import Views, batch_views
from jaxcl.data.source import THERE
from jaxcl.methods import Batch, Method, accumulated_loss_and_grad, cached_loss_and_grad
from jaxcl.training.layout import Layout
from jaxcl.training.state import TrainState

HostBatch = Mapping[str, jax.Array]
"""Fields of the examples, such as `image` [N, H, W, C]; `index` [N]; `label` [N] where there are
labels."""


def step_keys(state: TrainState) -> tuple[jax.Array, jax.Array]:
    """The keys of the step at hand, of its views and of the method."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    view_key, method_key = jax.random.split(key)
    return view_key, method_key


def make_step(
    method: Method,
    views: Views,
    optimizer: optax.GradientTransformation,
    *,
    total_steps: int,
    layout: Layout,
    accumulate: int = 1,
    micro_batch: int | None = None,
) -> Callable[[TrainState, HostBatch], tuple[TrainState, dict[str, jax.Array]]]:
    """The step of one device, to be mapped over all.

    Randomness hangs on the run's key, the step and each example's index, never on the device.

    Args:
      method: the method.
      views: how views are made of an image.
      optimizer: an optax transformation.
      total_steps: length of the run, for what changes with its progress.
      layout: where the state lies; it names the mapped axis of the devices.
      accumulate: parts of a batch, each with a loss of its own.
      micro_batch: examples of a part that a device encodes at a time; None: all.

    Returns:
      step(state, batch) -> (state, metrics); metrics are means over the devices.
    """

    loss_and_grad = cached_loss_and_grad(method, micro_batch=micro_batch)
    if accumulate > 1:
        loss_and_grad = accumulated_loss_and_grad(loss_and_grad, parts=accumulate)

    def step(state: TrainState, batch: HostBatch) -> tuple[TrainState, dict[str, jax.Array]]:
        progress = state.step / total_steps
        view_key, method_key = step_keys(state)
        examples = Batch(
            views=batch_views(views, view_key, batch, batch["index"]),
            index=batch["index"],
            label=batch.get("label"),
            there=_there(views, batch),
        )
        params = layout.whole_params(state.params)
        (loss, (method_state, metrics)), grads = loss_and_grad(
            params,
            layout.opened(state.method),
            examples,
            key=method_key,
            progress=progress,
            axis_name=layout.axis_name,
        )
        method_state = layout.closed(method_state, state.method)
        grads, metrics = layout.mean(grads, {"loss": loss, **metrics})

        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
        moved = layout.constrained(
            partial(method.constrain, progress=progress),
            optax.apply_updates(state.params, updates),
            params,
        )
        new_state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=moved,
            method=method.end_step(moved, method_state, progress=progress),
            optimizer=optimizer_state,
        )
        metrics["gradient_norm"] = layout.norm(grads)
        metrics["parameter_norm"] = layout.norm(moved)
        return new_state, metrics

    return step


def _there(views: Views, batch: HostBatch) -> tuple[jax.Array | None, ...] | None:
    """Of each view, which examples have its field, where the data say so."""
    found = tuple(batch.get(f"{field}{THERE}") for field in views.of_each)
    return None if all(where is None for where in found) else found
