"""Relations to past examples, as a slow network sees them, for a student that sees harder views."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxcl import memory
from jaxcl.methods.health import contrast_health, spread_health
from jaxcl.methods.method import (
    Batch,
    Metrics,
    Params,
    check_positive,
    check_queue,
    two_views,
)
from jaxcl.methods.networks import forward, init_networks
from jaxcl.methods.schedules import Cosine
from jaxcl.methods.target import TargetMethod, TargetState, start_target
from jaxcl.similarity import l2_normalize


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ReSSLState(TargetState):
    """State of ReSSL."""

    queue: memory.Queue


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReSSL(TargetMethod):
    """ReSSL (Zheng et al., 2021): how alike an example is to those of a queue.

    The teacher sees the second view, which should be the weaker; its similarities, sharper, are
    what the student's of the first view are to be.
    """

    temperature: float = 0.1
    """Divides the student's similarities; > 0."""
    target_temperature: float = 0.04
    """Divides the teacher's; > 0."""
    queue_size: int = 131_072
    """The teacher's embeddings of past batches."""
    momentum: float | Cosine = 0.999
    """Share of itself that the teacher keeps at each step, 0 to 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(
            self,
            temperature=self.temperature,
            target_temperature=self.target_temperature,
            queue_size=self.queue_size,
        )

    def init(self, key: jax.Array, batch: Batch) -> tuple[Params, ReSSLState]:
        network_key, queue_key = jax.random.split(key)
        params, batch_stats, outputs = init_networks(self.networks, network_key, batch.views[0])
        return params, ReSSLState(
            batch_stats=batch_stats,
            target_params=start_target(params),
            target_batch_stats=start_target(batch_stats),
            queue=memory.init_queue(queue_key, self.queue_size, outputs.shape[-1]),
        )

    def represent(
        self,
        params: Params,
        state: ReSSLState,
        batch: Batch,
        *,
        key: jax.Array,
        axis_name: str | None = None,
    ) -> tuple[tuple[jax.Array, jax.Array], ReSSLState]:
        """The student's embeddings of the first view and the teacher's of the second, [N, D]."""
        strong, weak = two_views(batch, self)
        student, batch_stats = forward(
            self.networks,
            params,
            state.batch_stats,
            strong,
            train=True,
            axis_name=axis_name,
            draws=batch.draws(key, axis_name),
        )
        teacher, target_batch_stats = forward(
            self.networks,
            state.target_params,
            state.target_batch_stats,
            weak,
            train=True,
            axis_name=axis_name,
        )
        teacher = jax.lax.stop_gradient(l2_normalize(teacher))
        state = dataclasses.replace(
            state, batch_stats=batch_stats, target_batch_stats=target_batch_stats
        )
        return (student, teacher), state

    def objective(
        self,
        params: Params,
        state: ReSSLState,
        embeddings: tuple[jax.Array, jax.Array],
        batch: Batch,
        *,
        progress: jax.Array | float,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, ReSSLState, Metrics]:
        student, teacher = embeddings
        past = state.queue.embeddings
        relations = jax.nn.softmax(teacher @ past.T / self.target_temperature)
        predicted = jax.nn.log_softmax(l2_normalize(student) @ past.T / self.temperature)
        losses = -jnp.sum(relations * predicted, axis=1)
        metrics = contrast_health(student, teacher, past) | spread_health(student, axis_name)
        metrics["chance_loss"] = jnp.log(jnp.float32(len(past)))
        queue = memory.enqueue(state.queue, teacher, axis_name=axis_name)
        return losses.mean(), dataclasses.replace(state, queue=queue), metrics

    def check(self, *, batch_size: int, examples: int) -> list[str]:
        check_queue(self.queue_size, batch_size)
        return []
