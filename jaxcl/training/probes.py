"""Online probes: what labels say of the features while they are learned, which never learns of it.

A linear classifier and nearest neighbours, both of features that are constants to them. They run as
a program of their own before each step, so that the step is compiled as without them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcl import memory
from jaxcl.augment import Views, batch_views
from jaxcl.methods import Method
from jaxcl.similarity import l2_normalize
from jaxcl.training.experiment import Probe
from jaxcl.training.layout import Layout
from jaxcl.training.state import ProbeState, TrainState
from jaxcl.training.step import HostBatch, step_keys

_EPSILON = 1e-5
Metrics = dict[str, jax.Array]


def init_probe(probe: Probe, width: int, classes: int) -> ProbeState:
    """The probes before the first step, for features [N, width] and labels below `classes`."""
    head = {"kernel": jnp.zeros((width, classes)), "bias": jnp.zeros(classes)}
    return ProbeState(
        head=head,
        optimizer=_optimizer(probe).init(head),
        # Rows that were never written have no label and no vote: any key will do.
        queue=memory.init_queue(jax.random.key(0), probe.memory, width, labels=True, ids=True),
    )


def make_probe_step(
    probe: Probe, method: Method, views: Views, *, layout: Layout
) -> Callable[[TrainState, HostBatch], tuple[TrainState, Metrics]]:
    """A step of the probes on one device, to be mapped over all, before that of the method.

    Features are those of `Method.embed` for the first view that the method's step is about to see,
    by the parameters before it.

    Args:
      probe: the settings.
      method: the method.
      views: how views are made of an image.
      layout: where the state lies; it names the mapped axis of the devices.

    Returns:
      step(state, batch) -> (state, metrics), of which nothing but `state.probe` is new.
    """

    def step(state: TrainState, batch: HostBatch) -> tuple[TrainState, Metrics]:
        if state.probe is None:
            raise ValueError("the state has no probes: start it with start_state(..., classes=...)")
        view_key, _ = step_keys(state)
        view, *_ = batch_views(views, view_key, batch, batch["index"])
        params, method_state = layout.whole_params(state.params), layout.opened(state.method)
        new, metrics = step_probe(
            probe,
            state.probe,
            method.embed(params, method_state, view),
            batch["label"],
            batch["index"],
            axis_name=layout.axis_name,
        )
        return dataclasses.replace(state, probe=new), metrics

    return step


def step_probe(
    probe: Probe,
    state: ProbeState,
    features: jax.Array,
    labels: jax.Array,
    index: jax.Array,
    *,
    axis_name: str | None = None,
) -> tuple[ProbeState, Metrics]:
    """Scores both probes on a batch, then lets them learn from it.

    The linear one sees features standardized over the batch of all devices, so that its learning
    rate suits any encoder.

    Args:
      probe: the settings.
      state: what the probes are.
      features: [N, F] of this device's examples.
      labels: [N] integers.
      index: [N] integers, the numbers of the examples: an example's own old features have no vote.
      axis_name: mapped axis of the devices.

    Returns:
      The new state, and over all devices' examples `probe_loss` in nats, `probe_accuracy` and
      `probe_knn_accuracy`, 0 to 1.
    """

    def mean(tree: Any) -> Any:
        return tree if axis_name is None else jax.lax.pmean(tree, axis_name)

    features = jax.lax.stop_gradient(features)
    centred = features - mean(features.mean(0))
    standard = centred / jnp.sqrt(mean((centred**2).mean(0)) + _EPSILON)

    def classify(head: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        logits = standard @ head["kernel"] + head["bias"]
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), jnp.mean(logits.argmax(1) == labels)

    (loss, accuracy), grads = jax.value_and_grad(classify, has_aux=True)(state.head)
    updates, optimizer = _optimizer(probe).update(mean(grads), state.optimizer, state.head)

    unit = l2_normalize(features)
    found = _vote(probe, state.queue, unit, index, classes=state.head["bias"].size)
    metrics = {
        "probe_loss": loss,
        "probe_accuracy": accuracy,
        "probe_knn_accuracy": jnp.mean(found == labels),
    }
    new = ProbeState(
        head=optax.apply_updates(state.head, updates),
        optimizer=optimizer,
        queue=memory.enqueue(state.queue, unit, labels=labels, ids=index, axis_name=axis_name),
    )
    return new, mean(metrics)


def _vote(
    probe: Probe, queue: memory.Queue, queries: jax.Array, index: jax.Array, *, classes: int
) -> jax.Array:
    """[N] the class that the neighbours' votes exp(similarity / temperature) choose (Wu et al.,
    2018, section 3.4), or -1 where none has a vote."""
    assert queue.labels is not None  # `init_probe` keeps both
    assert queue.ids is not None
    similarities = jnp.matmul(queries, queue.embeddings.T, precision=jax.lax.Precision.HIGHEST)
    votes = (queue.labels >= 0) & (queue.ids != index[:, None])  # [N, K]
    nearest, rows = jax.lax.top_k(jnp.where(votes, similarities, -jnp.inf), probe.neighbours)
    weights = jnp.exp(nearest / probe.temperature)  # [N, neighbours], 0 of those without a vote
    scores = jnp.einsum("nk,nkc->nc", weights, jax.nn.one_hot(queue.labels[rows], classes))
    return jnp.where(scores.max(1) > 0, scores.argmax(1), -1)


def _optimizer(probe: Probe) -> optax.GradientTransformation:
    return optax.adam(probe.learning_rate)


def check_probe(labels: np.ndarray | None) -> None:
    """Raises where the labels of the training data are none that can be learned from.

    Raises:
      ValueError: saying what they are.
    """
    if labels is None:
        raise ValueError(
            "probe needs labels, and the training data have none: name them (as in label='label', "
            "or labels='subfolders'), or set probe=None"
        )
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or lowest == highest:
        raise ValueError(
            f"probe needs labels of two classes or more, counted from 0; those of the training "
            f"data are {lowest} to {highest}: mend them, or set probe=None"
        )
