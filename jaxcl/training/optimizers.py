"""Optimizers of the papers, built from optax, and the learning rate over time."""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcl.choices import check_choices

Mask: TypeAlias = Callable[[Any], Any]
"""From parameters to a tree of bools."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The learning rate over time: a linear warm-up from 0, then a decay."""

    warmup_epochs: float = 0.0
    """Epochs over which the learning rate rises linearly from 0."""
    decay: Literal["cosine", "steps", "constant"] = "cosine"
    """After the warm-up: half a cosine, a factor at each milestone, or nothing."""
    final: float = 0.0
    """Where the cosine ends, as a share of the peak."""
    milestones: tuple[float, ...] = (0.6, 0.8)
    """Shares of training after which `steps` multiplies by `factor`."""
    factor: float = 0.1
    """What `steps` multiplies by."""

    def __post_init__(self) -> None:
        check_choices(self)
        if self.warmup_epochs < 0:
            raise ValueError(f"schedule.warmup_epochs must not be negative: {self.warmup_epochs}")

    def build(self, peak: float, *, total_steps: int, steps_per_epoch: int) -> optax.Schedule:
        """The learning rate as a function of the step.

        Raises:
          ValueError: if the warm-up is as long as training.
        """
        warmup = round(self.warmup_epochs * steps_per_epoch)
        if warmup >= total_steps:
            raise ValueError(
                f"schedule.warmup_epochs {self.warmup_epochs} takes {warmup} steps, but training "
                f"has {total_steps}: shorten the warm-up or train longer"
            )
        rest = total_steps - warmup
        if self.decay == "cosine":
            after = optax.cosine_decay_schedule(peak, rest, alpha=self.final)
        elif self.decay == "steps":
            drops = {round(share * total_steps) - warmup: self.factor for share in self.milestones}
            after = optax.piecewise_constant_schedule(peak, drops)
        else:
            after = optax.constant_schedule(peak)
        if not warmup:
            return after
        return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


@dataclasses.dataclass(frozen=True)
class Optimizer(abc.ABC):
    """What all optimizers share."""

    learning_rate: float = 0.03
    """Peak learning rate, for a batch of 256 unless `scaling` is none."""
    scaling: Literal["linear", "sqrt", "none"] = "linear"
    """How the learning rate grows with the batch: x batch/256, x sqrt(batch/256), or not."""
    weight_decay: float = 1e-4
    """Factor of the decay of parameters towards 0."""
    clip_norm: float | None = None
    """Scale gradients down to this norm; None: leave them."""
    clip: Literal["all", "each"] = "all"
    """Whose norm that is: all gradients' together, or each parameter's own (DINO)."""
    constant: tuple[str, ...] = ()
    """Networks whose learning rate stays at its peak, such as ("predictor",) of SimSiam."""

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.learning_rate > 0:
            raise ValueError(f"optimizer.learning_rate must be positive, got {self.learning_rate}")
        if self.weight_decay < 0:
            raise ValueError(f"optimizer.weight_decay must not be negative: {self.weight_decay}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"optimizer.clip_norm must be positive or None, got {self.clip_norm}")

    def peak(self, batch_size: int) -> float:
        """The peak learning rate at this batch size (Goyal et al., 2017, for the linear rule)."""
        ratio = batch_size / 256
        factor = {"linear": ratio, "sqrt": ratio**0.5, "none": 1.0}[self.scaling]
        return self.learning_rate * factor

    def build(
        self,
        learning_rate: optax.Schedule,
        *,
        peak: float = 1.0,
        total_steps: int = 1,
        undecayed: Sequence[str] = (),
        axis_name: str | None = None,
    ) -> optax.GradientTransformation:
        """The optax transformation.

        Args:
          learning_rate: by the step.
          peak: what networks with a constant learning rate have.
          total_steps: length of the run, for what else changes with its progress.
          undecayed: paths of parameters, or of parts that hold some, that do not decay beside those
            of the optimizer's own choice, such as `encoder/pos_embed` (`Method.undecayed`).
          axis_name: mapped axis whose devices have a part of each array; norms are of the whole.

        Returns:
          A transformation of parameters by network. Its state has the same structure whatever
          these are.
        """
        clip = [] if self.clip_norm is None else [self._clipping(self.clip_norm, axis_name)]
        steady = [self._steady(learning_rate, peak)] if self.constant else []
        decays = _but(undecayed, self._decays)
        rule = self._update_rule(learning_rate, total_steps, decays, axis_name)
        return optax.chain(*clip, rule, *steady)

    def _clipping(self, most: float, axis_name: str | None) -> optax.GradientTransformation:
        def scaled_down(gradient: jax.Array, norm: jax.Array) -> jax.Array:
            return gradient * jnp.minimum(1, most / (norm + 1e-6))

        def clipped(gradients: Any, _: Any) -> Any:
            norms = leaf_norms(gradients, axis_name)
            if self.clip == "all":
                together = optax.tree.norm(norms)
                norms = jax.tree.map(lambda _: together, norms)
            return jax.tree.map(scaled_down, gradients, norms)

        return optax.stateless(clipped)

    def _steady(self, learning_rate: optax.Schedule, peak: float) -> optax.GradientTransformation:
        """Undoes the schedule for the networks that are constant."""

        def ratio(step: jax.Array) -> jax.Array:
            rate = jnp.asarray(learning_rate(step))
            return jnp.where(rate > 0, peak / jnp.where(rate > 0, rate, 1), 0)

        def is_constant(params: Any) -> Any:
            unknown = set(self.constant) - set(params)
            if unknown:
                raise ValueError(
                    f"optimizer.constant names {sorted(unknown)[0]!r}, expected some of the "
                    f"method's networks: {', '.join(params)}"
                )
            return {
                name: jax.tree.map(lambda _, name=name: name in self.constant, network)
                for name, network in params.items()
            }

        return optax.masked(optax.scale_by_schedule(ratio), is_constant)

    def _decays(self, params: Any) -> Any:
        """Which parameters decay."""
        return is_matrix(params)

    @abc.abstractmethod
    def _update_rule(
        self, learning_rate: optax.Schedule, total_steps: int, decays: Mask, axis_name: str | None
    ) -> optax.GradientTransformation:
        """What turns gradients into updates, clipping and constant networks aside."""


@dataclasses.dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum; decay enters the gradient, as in PyTorch."""

    momentum: float = 0.9
    """Share of the velocity kept at each step."""
    nesterov: bool = False
    """Look ahead along the velocity."""
    decay: Literal["all", "matrices"] = "all"
    """What decays: every parameter (MoCo), or none of biases and norms. Neither holds of what a
    network keeps from decay, such as a ViT its positions."""

    def _decays(self, params: Any) -> Any:
        return _NAMED_MASKS[self.decay](params)

    def _update_rule(
        self, learning_rate: optax.Schedule, total_steps: int, decays: Mask, axis_name: str | None
    ) -> optax.GradientTransformation:
        return optax.chain(
            optax.add_decayed_weights(self.weight_decay, decays),
            optax.trace(self.momentum, nesterov=self.nesterov),
            optax.scale_by_learning_rate(learning_rate),
        )


@dataclasses.dataclass(frozen=True)
class LARS(Optimizer):
    """Layer-wise adaptive rates (You et al., 2017); what does not decay does not adapt either.

    With `decay="all"` it is SwAV's LARC without clipping. There are two kinds, which differ
    whenever the learning rate changes: velocity of gradients, multiplied by the learning rate after
    (BYOL, MoCo v3, Barlow Twins, VICReg), or velocity of updates, with each step's learning rate
    inside (SimCLR's code).
    """

    weight_decay: float = 1e-6
    """Factor of the decay of matrices towards 0."""
    decay: Literal["all", "matrices"] = "matrices"
    """What decays and adapts: every parameter (SwAV), or none of biases and norms."""
    momentum: float = 0.9
    """Share of the velocity kept at each step."""
    velocity: Literal["gradients", "updates"] = "gradients"
    """What the velocity averages: gradients (BYOL's LARS) or updates (SimCLR's)."""
    trust_coefficient: float = 0.001
    """Learning rate of a layer relative to the ratio of its norm to its gradient's."""
    vector_rate: float = 1.0
    """Learning rate of biases and norms relative to that of matrices; Barlow Twins: 0.024."""

    def _decays(self, params: Any) -> Any:
        return _NAMED_MASKS[self.decay](params)

    def _update_rule(
        self, learning_rate: optax.Schedule, total_steps: int, decays: Mask, axis_name: str | None
    ) -> optax.GradientTransformation:
        adapt = optax.chain(
            optax.add_decayed_weights(self.weight_decay),
            _scale_by_trust_ratio(self.trust_coefficient, axis_name),
        )
        velocity = optax.trace(self.momentum)
        rate = optax.scale_by_learning_rate(learning_rate)
        order = (velocity, rate) if self.velocity == "gradients" else (rate, velocity)
        vectors = optax.masked(optax.scale(self.vector_rate), is_vector)
        return optax.chain(optax.masked(adapt, decays), vectors, *order)


@dataclasses.dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019), on matrices only."""

    learning_rate: float = 1.5e-4
    """Peak learning rate, for a batch of 256 unless `scaling` is none."""
    weight_decay: float = 0.1
    """Factor of the decay of matrices towards 0."""
    b1: float = 0.9
    """Share of the mean of gradients kept at each step."""
    b2: float = 0.999
    """Share of the mean of squared gradients kept at each step."""
    eps: float = 1e-8
    """Added to the denominator."""
    final_weight_decay: float | None = None
    """Where the decay ends along half a cosine (DINO: from 0.04 to 0.4); None: it stays."""

    def _update_rule(
        self, learning_rate: optax.Schedule, total_steps: int, decays: Mask, axis_name: str | None
    ) -> optax.GradientTransformation:
        decay: float | optax.Schedule = self.weight_decay
        if self.final_weight_decay is not None:
            decay = self._rising(self.final_weight_decay, total_steps)
        return optax.chain(
            optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps),
            optax.add_decayed_weights(decay, decays),
            optax.scale_by_learning_rate(learning_rate),
        )

    def _rising(self, final: float, total_steps: int) -> optax.Schedule:
        def decay(step: jax.Array) -> jax.Array:
            share = (1 - jnp.cos(jnp.pi * jnp.minimum(step / total_steps, 1))) / 2
            return self.weight_decay + (final - self.weight_decay) * share

        return decay


def leaf_norms(tree: Any, axis_name: str | None = None) -> Any:
    """The norm of each array.

    Args:
      tree: arrays.
      axis_name: mapped axis whose devices have a part of each, and scalars whole; None: all is
        here.
    """
    leaves, structure = jax.tree.flatten(tree)
    if not leaves:
        return tree
    squares = jnp.stack([jnp.sum(jnp.square(leaf)) for leaf in leaves])
    if axis_name is not None:
        is_whole = np.array([jnp.ndim(leaf) == 0 for leaf in leaves])
        squares = jnp.where(is_whole, squares, jax.lax.psum(squares, axis_name))
    return jax.tree.unflatten(structure, list(jnp.sqrt(squares)))


def _scale_by_trust_ratio(
    coefficient: float, axis_name: str | None
) -> optax.GradientTransformation:
    """`optax.scale_by_trust_ratio` for arrays of which devices may have parts."""

    def scaled(update: jax.Array, own: jax.Array, of_update: jax.Array) -> jax.Array:
        moves = (own > 0) & (of_update > 0)
        return update * jnp.where(moves, coefficient * own / jnp.where(moves, of_update, 1), 1)

    def scale(updates: Any, params: Any) -> Any:
        norms, of_updates = leaf_norms((params, updates), axis_name)
        return jax.tree.map(scaled, updates, norms, of_updates)

    return optax.stateless(scale)


def _but(undecayed: Sequence[str], decays: Mask) -> Mask:
    """`decays`, but for the parameters below some paths."""

    def mask(params: Any) -> Any:
        def below(path: tuple[Any, ...]) -> bool:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return any(f"{name}/".startswith(f"{part}/") for part in undecayed)

        return jax.tree_util.tree_map_with_path(
            lambda path, decayed: decayed and not below(path), decays(params)
        )

    return mask


def is_matrix(params: Any) -> Any:
    """True for each parameter with two axes or more: not for biases, nor a norm's scale."""
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)


def is_any(params: Any) -> Any:
    """True for each parameter."""
    return jax.tree.map(lambda _: True, params)


def is_vector(params: Any) -> Any:
    """Those that are no matrices."""
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) <= 1, params)


_NAMED_MASKS: dict[str, Mask] = {"all": is_any, "matrices": is_matrix}
