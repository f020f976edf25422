"""Methods that are nothing but views, one network and a loss of their embeddings."""

import dataclasses
from typing import Any

import jax

from jaxcl.methods.criteria import Criterion, VICReg
from jaxcl.methods.health import in_batch_health
from jaxcl.methods.method import (
    Batch,
    EncoderMethod,
    EncoderState,
    Metrics,
    Params,
    check_momentum,
)
from jaxcl.methods.networks import forward_each, init_networks
from jaxcl.methods.schedules import Cosine, value_at
from jaxcl.methods.target import move_target, start_target


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Target:
    """A slowly moving network."""

    params: dict[str, Any]
    batch_stats: dict[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class JointEmbeddingState(EncoderState):
    """State of a joint-embedding method."""

    criterion: Any
    """What the criterion keeps from step to step."""
    target: Target | None = None
    """The slow network of the second view, where there is one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class JointEmbedding(EncoderMethod):
    """Encodes each view by itself, and compares: Barlow Twins, VICReg, TiCo, MMCR, W-MSE and more.

    The criterion says which: `jaxcl.methods.criteria`.
    """

    criterion: Criterion = VICReg()
    """The loss of the embeddings."""
    momentum: float | Cosine | None = None
    """Encode all views but the first with a slow average of the network, of which this share is
    kept at each step (TiCo's paper has 0.99); None: with the network itself."""

    def __post_init__(self) -> None:
        check_momentum(self, self.momentum)

    def init(self, key: jax.Array, batch: Batch) -> tuple[Params, JointEmbeddingState]:
        network_key, criterion_key = jax.random.split(key)
        params, batch_stats, outputs = init_networks(self.networks, network_key, batch.views[0])
        kept = self.criterion.init(criterion_key, outputs.shape[-1])
        if self.momentum is None:
            return params, JointEmbeddingState(batch_stats, kept)
        target = Target(start_target(params), start_target(batch_stats))
        return params, JointEmbeddingState(batch_stats, kept, target)

    def represent(
        self,
        params: Params,
        state: JointEmbeddingState,
        batch: Batch,
        *,
        key: jax.Array,
        axis_name: str | None = None,
    ) -> tuple[tuple[jax.Array, ...], JointEmbeddingState]:
        if len(batch.views) < 2:
            raise ValueError("JointEmbedding compares views; the batch has one")
        target = state.target
        learning = batch.views if target is None else batch.views[:1]
        embeddings, batch_stats = forward_each(
            self.networks,
            params,
            state.batch_stats,
            learning,
            axis_name=axis_name,
            draws=batch.draws(key, axis_name),
        )
        if target is not None:
            slow, slow_stats = forward_each(
                self.networks,
                target.params,
                target.batch_stats,
                batch.views[1:],
                axis_name=axis_name,
            )
            embeddings += jax.lax.stop_gradient(slow)
            target = dataclasses.replace(target, batch_stats=slow_stats)
        return tuple(embeddings), dataclasses.replace(state, batch_stats=batch_stats, target=target)

    def objective(
        self,
        params: Params,
        state: JointEmbeddingState,
        embeddings: tuple[jax.Array, ...],
        batch: Batch,
        *,
        progress: jax.Array | float,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, JointEmbeddingState, Metrics]:
        loss, kept = self.criterion(embeddings, state.criterion, axis_name=axis_name)
        metrics = in_batch_health(embeddings[0], embeddings[1], axis_name)
        del metrics["chance_loss"]
        return loss, dataclasses.replace(state, criterion=kept), metrics

    @property
    def averages(self) -> tuple[str, ...]:
        return ("target/params",)

    def end_step(
        self, params: Params, state: JointEmbeddingState, *, progress: jax.Array | float
    ) -> JointEmbeddingState:
        if state.target is None or self.momentum is None:
            return state
        moved = move_target(state.target.params, params, value_at(self.momentum, progress))
        return dataclasses.replace(state, target=dataclasses.replace(state.target, params=moved))
