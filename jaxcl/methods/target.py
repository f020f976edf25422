"""Target networks: slow averages of the online ones, and what methods with them share."""

import dataclasses
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl.choices import check_choices
from jaxcl.methods.method import (
    Batch,
    EncoderMethod,
    EncoderState,
    Params,
    check_momentum,
    two_views,
)
from jaxcl.methods.networks import chain, forward_each, init_networks
from jaxcl.methods.schedules import Cosine, value_at


def start_target(params: Any) -> Any:
    """The online parameters, in buffers of their own (a donated step may not see one twice)."""
    return jax.tree.map(jnp.copy, params)


def move_target(target: Any, online: Any, momentum: jax.Array | float) -> Any:
    """momentum * target + (1 - momentum) * online, leaf by leaf (MoCo, He et al., 2020, eq. 2), of
    the target's types."""

    def moved(old: jax.Array, new: jax.Array) -> jax.Array:
        return (momentum * old + (1 - momentum) * new).astype(old.dtype)

    return jax.tree.map(moved, target, online)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TargetState(EncoderState):
    """State of a method with a target network."""

    target_params: dict[str, Any]
    target_batch_stats: dict[str, Any]


State = TypeVar("State", bound=TargetState)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetMethod(EncoderMethod):
    """A method with a target network, which follows the online one step by step."""

    momentum: float | Cosine = Cosine(0.99, 1.0)
    """Share of itself that the target keeps at each step, 0 to 1."""

    def __post_init__(self) -> None:
        check_choices(self)
        check_momentum(self, self.momentum)

    @property
    def averages(self) -> tuple[str, ...]:
        return ("target_params",)

    def end_step(self, params: Params, state: State, *, progress: jax.Array | float) -> State:
        online = {name: params[name] for name in state.target_params}
        moved = move_target(state.target_params, online, value_at(self.momentum, progress))
        return dataclasses.replace(state, target_params=moved)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictingMethod(TargetMethod):
    """A method whose predictions of each view meet what a target network makes of the other.

    The online network is encoder, projector and predictor; the target has the first two.
    """

    predictor: nn.Module | None = dataclasses.field(default=None, kw_only=False)
    """Maps the online network's embeddings to predictions; None: they are the predictions."""

    def init(self, key: jax.Array, batch: Batch) -> tuple[Params, TargetState]:
        params, batch_stats, _ = init_networks(self.networks, key, batch.views[0])
        return params, TargetState(
            batch_stats=batch_stats,
            target_params=self._start_target(params),
            target_batch_stats=self._start_target(batch_stats),
        )

    def represent(
        self,
        params: Params,
        state: TargetState,
        batch: Batch,
        *,
        key: jax.Array,
        axis_name: str | None = None,
    ) -> tuple[tuple[jax.Array, ...], TargetState]:
        """The predictions of both views, then the target's embeddings of both, [N, D] each."""
        views = two_views(batch, self)
        predictions, batch_stats = forward_each(
            self.networks,
            params,
            state.batch_stats,
            views,
            axis_name=axis_name,
            draws=batch.draws(key, axis_name),
        )
        targets, target_batch_stats = forward_each(
            self._target, state.target_params, state.target_batch_stats, views, axis_name=axis_name
        )
        state = dataclasses.replace(
            state, batch_stats=batch_stats, target_batch_stats=target_batch_stats
        )
        return (*predictions, *jax.lax.stop_gradient(targets)), state

    def missing_predictor(self) -> list[str]:
        """Says so where there is none, of a method whose paper has one."""
        if self.predictor is not None:
            return []
        return [f"{type(self).__name__} has no predictor, and its paper does: set method.predictor"]

    @property
    def _target(self) -> dict[str, nn.Module]:
        return chain(encoder=self.encoder, projector=self.projector)

    def _start_target(self, by_network: dict[str, Any]) -> dict[str, Any]:
        return start_target({name: by_network[name] for name in self._target})
