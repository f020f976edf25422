"""Fine-tuning: an encoder and a linear classifier on it, trained on labels, lower layers slower."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxcl.augment import (
    Compose,
    Normalize,
    RandomAffine,
    RandomApply,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Views,
    batch_views,
)
from jaxcl.data import Batches, Source
from jaxcl.data.source import image_shape
from jaxcl.evaluation.embedding import flatten
from jaxcl.methods.networks import forward
from jaxcl.training import AdamW, Optimizer, UserError

Networks = Mapping[str, nn.Module]
"""Networks by name, each on the features of the one before."""

_LIGHT = (RandomResizedCrop, RandomAffine, RandomHorizontalFlip, Normalize)
_WARMUP = 0.1  # of the steps


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """How labels are trained on."""

    epochs: float = 30.0
    """Passes over the labelled examples."""
    least_steps: int = 300
    """Steps at least, so that few examples are seen more often."""
    batch_size: int = 128
    """Examples a step; all of them where there are fewer."""
    optimizer: Optimizer = AdamW(learning_rate=2e-3, scaling="none", weight_decay=0.05)
    """Its learning rate rises over the first tenth of the steps, then falls as half a cosine."""
    layer_decay: float = 0.75
    """The learning rate of a layer is this, times that of the layer above it, the classifier's
    being whole (Bao et al., 2022); 1: all the same; 0: nothing but the classifier learns."""

    def __post_init__(self) -> None:
        if not self.epochs >= 0:
            raise ValueError(f"epochs is {self.epochs}, expected at least 0")
        if self.least_steps < 0:
            raise ValueError(f"least_steps is {self.least_steps}, expected at least 0")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}, expected at least 1")
        if not 0 <= self.layer_decay <= 1:
            raise ValueError(f"layer_decay is {self.layer_decay}, expected 0 to 1")

    def steps(self, examples: int) -> int:
        """Steps for so many labelled examples."""
        rows = min(self.batch_size, examples)
        return max(self.least_steps, round(self.epochs * (examples // rows)))


class Weights(NamedTuple):
    """What is fine-tuned."""

    params: dict[str, Any]
    """By network, and `head`: `kernel` [F, C], `bias` [C]."""
    batch_stats: dict[str, Any]
    """By network."""


def with_head(
    networks: Networks,
    params: Mapping[str, Any],
    batch_stats: Mapping[str, Any],
    inputs: jax.ShapeDtypeStruct,
    *,
    classes: int,
) -> Weights:
    """The networks' weights and a classifier on them that starts at 0.

    Args:
      networks: what makes features.
      params: their parameters, and perhaps others'.
      batch_stats: their statistics, likewise.
      inputs: shape [N, H, W, C] and type of views.
      classes: how many.
    """
    start = {name: params[name] for name in networks}
    stats = {name: batch_stats[name] for name in networks}
    width = jax.eval_shape(lambda x: forward(networks, start, stats, x)[0], inputs).shape[-1]
    head = {"kernel": jnp.zeros((width, classes)), "bias": jnp.zeros(classes)}
    return Weights({**start, "head": head}, stats)


def class_logits(
    networks: Networks, weights: Weights, images: jax.Array, *, train: bool = False
) -> tuple[jax.Array, dict[str, Any]]:
    """[N, C] logits of prepared images [N, H, W, C], and batch statistics, new where `train`."""
    params, head = weights.params, weights.params["head"]
    features, stats = forward(networks, params, weights.batch_stats, images, train=train)
    return features @ head["kernel"] + head["bias"], stats


def light_view(views: Views) -> Compose:
    """The first view without what changes colour, sharpness or noise: crops, turns, flips and the
    normalization stay."""
    kept = []
    for step in flatten(views.views[0]):
        inner = step.transform if isinstance(step, RandomApply) else step
        if isinstance(inner, _LIGHT):
            kept.append(step)
    return Compose(tuple(kept))


def layer_depths(
    networks: Networks, params: Mapping[str, Any], inputs: jax.ShapeDtypeStruct
) -> dict[str, Any]:
    """How far below the classifier each parameter is: 1 for those of the uppermost layer.

    A layer is a direct part of a network that holds a matrix or a kernel (a block, a convolution),
    in the order in which parts are called, with the norms that follow it. What a network holds by
    itself, as the positions of a ViT, is of its lowest layer. For ViT these are the layers of BEiT
    (Bao et al., 2022), but for the last norm, which there counts to the classifier.

    Args:
      networks: networks in a row.
      params: their parameters by name, and perhaps `head`'s.
      inputs: shape [N, ...] and type of what the first takes.

    Returns:
      As `params`, an integer a parameter; 0 for `head`.
    """
    numbered: dict[str, dict[str, int]] = {}
    count = 0
    for name, parts in _call_orders(networks, inputs).items():
        numbered[name] = {}
        below = count
        for part in parts:
            if part not in params[name]:
                continue  # it has no parameters
            if any(jnp.ndim(leaf) > 1 for leaf in jax.tree.leaves(params[name][part])):
                count += 1
            numbered[name][part] = max(count, below + 1)
        count = max(count, below + 1)
        numbered[name] = {part: numbered[name].get(part, below + 1) for part in params[name]}
    depths = {
        name: {
            part: jax.tree.map(lambda _, n=numbered[name][part]: count + 1 - n, leaves)
            for part, leaves in params[name].items()
        }
        for name in networks
    }
    if "head" in params:
        depths["head"] = jax.tree.map(lambda _: 0, params["head"])
    return depths


def _call_orders(networks: Networks, inputs: jax.ShapeDtypeStruct) -> dict[str, list[str]]:
    """The direct parts of each network in the order of their first calls. Nothing is computed."""
    orders: dict[str, list[str]] = {}
    for name, network in networks.items():
        order: list[str] = []

        def note(
            call: Callable[..., Any],
            arguments: tuple,
            options: dict[str, Any],
            context: nn.module.InterceptorContext,
            order: list[str] = order,
        ) -> Any:
            path = context.module.path
            if path and path[0] not in order:
                order.append(path[0])
            return call(*arguments, **options)

        with nn.intercept_methods(note):
            inputs, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), inputs)
        orders[name] = order
    return orders


def scale_layers(depths: Any, decay: float) -> optax.GradientTransformation:
    """Multiplies the update of a parameter by decay ** its depth; of depth 0 by 1."""

    def scale(updates: Any, params: Any) -> Any:
        return jax.tree.map(lambda update, depth: update * decay**depth, updates, depths)

    return optax.stateless(scale)


def fine_tune(
    networks: Networks,
    start: Weights,
    source: Source,
    view: Compose,
    settings: FineTuning,
    *,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> Weights:
    """Minimizes the mean cross-entropy of the classes, all weights moving.

    Norms use and update batch statistics, of the whole batch. Paths are not dropped.

    Args:
      networks: what makes features.
      start: where to start, from `with_head`.
      source: labelled examples, all of which are trained on.
      view: how an image is drawn at each step.
      settings: how long and how fast.
      seed: of the order and the views.
      progress: called after each step.

    Returns:
      The weights at the end; `start` after 0 steps.

    Raises:
      UserError: if the loss is not a number any more.
    """
    steps = settings.steps(len(source))
    if steps == 0:
        return start
    plan = _Plan(tuple(networks.items()), view, settings, steps)
    shape = view_shape(view, source)
    optimizer = plan.optimizer(layer_depths(networks, start.params, shape))
    # Donated: the start must outlive the first step.
    weights, state = jax.tree.map(jnp.copy, (start, optimizer.init(start.params)))
    loss = jnp.zeros(())
    rows = min(settings.batch_size, len(source))
    for number, batch in enumerate(Batches(source, batch_size=rows, seed=seed, steps=steps)):
        arrays = {name: batch[name] for name in ("image", "label", "index")}
        key = jax.random.fold_in(jax.random.key(seed), number)
        weights, state, loss = _step(plan, weights, state, arrays, key)
        progress()
    if not math.isfinite(loss):
        raise UserError(
            f"fine-tuning diverged: its loss is {float(loss)} after {steps} steps. Lower "
            "--learning-rate"
        )
    return weights


def view_shape(view: Compose, source: Source) -> jax.ShapeDtypeStruct:
    """Shape [1, H, W, C] and type of a view of a source's images."""
    image = jax.ShapeDtypeStruct(image_shape(source), jnp.float32)
    drawn = jax.eval_shape(view, jax.random.key(0), image)
    return jax.ShapeDtypeStruct((1, *drawn.shape), drawn.dtype)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What a step is compiled for."""

    networks: tuple[tuple[str, nn.Module], ...]
    view: Compose
    settings: FineTuning
    steps: int

    def optimizer(self, depths: Any) -> optax.GradientTransformation:
        peak = self.settings.optimizer.peak(self.settings.batch_size)
        rate = optax.warmup_cosine_decay_schedule(
            0.0, peak, round(_WARMUP * self.steps), self.steps
        )
        rule = self.settings.optimizer.build(rate, peak=peak, total_steps=self.steps)
        return optax.chain(rule, scale_layers(depths, self.settings.layer_decay))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
def _step(
    plan: _Plan,
    weights: Weights,
    state: optax.OptState,
    batch: dict[str, jax.Array],
    key: jax.Array,
) -> tuple[Weights, optax.OptState, jax.Array]:
    networks = dict(plan.networks)
    (images,) = batch_views(Views((plan.view,)), key, batch, batch["index"])
    shape = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
    optimizer = plan.optimizer(layer_depths(networks, weights.params, shape))

    def mean_loss(params: dict[str, Any]) -> tuple[jax.Array, dict[str, Any]]:
        trained = Weights(params, weights.batch_stats)
        logits, stats = class_logits(networks, trained, images, train=True)
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return losses.mean(), stats

    (loss, stats), grads = jax.value_and_grad(mean_loss, has_aux=True)(weights.params)
    updates, state = optimizer.update(grads, state, weights.params)
    return Weights(optax.apply_updates(weights.params, updates), stats), state, loss
