"""The memory method that introductions teach: a difference of distances, and nothing else."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from jaxcl import memory
from jaxcl.choices import check_choices
from jaxcl.losses import distance_difference, triplet
from jaxcl.methods.health import contrast_health, spread_health
from jaxcl.methods.method import (
    Batch,
    EncoderMethod,
    EncoderState,
    Metrics,
    Params,
    check_positive,
    example_numbers,
    two_views,
)
from jaxcl.methods.networks import forward, init_networks
from jaxcl.similarity import l2_normalize


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PlainMemoryState(EncoderState):
    """State of the plain memory method."""

    memory: memory.Queue | memory.Bank
    key: jax.Array
    """Raw key of the next draw."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlainMemory(EncoderMethod):
    """L(query, positive) - L(query, negatives) over a memory of past embeddings.

    A query is encoded and enters the memory. Its positive is its other view, or its own earlier
    entry in the memory; its negatives are drawn from the memory, at random or the ones most alike.
    Embeddings are unit vectors. Without a margin the difference is not clipped, so the loss lies
    between -2 and 2.
    """

    memory_size: int = 10_000
    """Embeddings remembered. For positives from the memory: at least one for each example."""
    negatives: int = 128
    """Negatives of each query."""
    positive: Literal["view", "memory"] = "view"
    """Where the positive comes from: the other view, or the example's own earlier entry."""
    choose: Literal["random", "hardest"] = "random"
    """How negatives are chosen from the memory."""
    distance: Literal["cosine", "euclidean"] = "cosine"
    """The distance L."""
    margin: float | None = None
    """Clip the loss of a pair at 0 after adding this; None: unclipped."""
    momentum: float = 0.0
    """Share of its old entry that an example's new one keeps (positives from the memory only)."""

    def __post_init__(self) -> None:
        check_choices(self)
        check_positive(self, memory_size=self.memory_size, negatives=self.negatives)
        if self.negatives > self.memory_size:
            raise ValueError(
                f"PlainMemory: {self.negatives} negatives cannot come from a memory of "
                f"{self.memory_size}"
            )

    def init(self, key: jax.Array, batch: Batch) -> tuple[Params, PlainMemoryState]:
        network_key, memory_key, draw_key = jax.random.split(key, 3)
        params, batch_stats, outputs = init_networks(self.networks, network_key, batch.views[0])
        start = memory.init_bank if self.positive == "memory" else memory.init_queue
        return params, PlainMemoryState(
            batch_stats=batch_stats,
            memory=start(memory_key, self.memory_size, outputs.shape[-1]),
            key=jax.random.key_data(draw_key),
        )

    def represent(
        self,
        params: Params,
        state: PlainMemoryState,
        batch: Batch,
        *,
        key: jax.Array,
        axis_name: str | None = None,
    ) -> tuple[tuple[jax.Array, jax.Array], PlainMemoryState]:
        query_view, positive_view = two_views(batch, self)
        views = [query_view] if self.positive == "memory" else [query_view, positive_view]
        embeddings, batch_stats = forward(
            self.networks,
            params,
            state.batch_stats,
            jnp.concatenate(views),
            train=True,
            axis_name=axis_name,
            draws=batch.draws(key, axis_name),
        )
        embeddings = l2_normalize(embeddings)
        if isinstance(state.memory, memory.Bank):
            positives = memory.lookup(state.memory, example_numbers(batch, self))
            queries = embeddings
        else:
            queries, positives = jnp.split(embeddings, 2)
        return (queries, positives), dataclasses.replace(state, batch_stats=batch_stats)

    def objective(
        self,
        params: Params,
        state: PlainMemoryState,
        embeddings: tuple[jax.Array, jax.Array],
        batch: Batch,
        *,
        progress: jax.Array | float,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, PlainMemoryState, Metrics]:
        queries, positives = embeddings
        draw_key, next_key = jax.random.split(jax.random.wrap_key_data(state.key))
        negatives = self._negatives(draw_key, state.memory, queries, batch)  # [N, k, D]
        if self.margin is None:
            losses = distance_difference(queries, positives, negatives, distance=self.distance)
        else:
            losses = triplet(
                queries, positives, negatives, margin=self.margin, distance=self.distance
            )
        is_negative = None
        entries = state.memory.embeddings
        if self.positive == "memory":
            is_negative = example_numbers(batch, self)[:, None] != jnp.arange(self.memory_size)
        metrics = contrast_health(queries, positives, entries, is_negative)
        metrics["chance_loss"] = jnp.asarray(self.margin or 0.0, jnp.float32)
        state = dataclasses.replace(
            state,
            memory=self._remember(state.memory, queries, batch, axis_name),
            key=jax.random.key_data(next_key),
        )
        return losses.mean(), state, metrics | spread_health(queries, axis_name)

    def check(self, *, batch_size: int, examples: int) -> list[str]:
        if self.positive == "memory":
            if self.memory_size < examples:
                raise ValueError(
                    f"memory_size {self.memory_size} is smaller than the data set ({examples} "
                    "examples), and each example's positive is its own entry. Set "
                    f"method.memory_size to {examples}"
                )
            if self.memory_size > examples:
                return [
                    f"memory_size {self.memory_size} is larger than the data set ({examples} "
                    "examples): entries of no example stay random among the negatives"
                ]
            return []
        if self.memory_size < batch_size:
            raise ValueError(
                f"memory_size {self.memory_size} is smaller than batch_size {batch_size}. Set "
                f"method.memory_size to at least {batch_size}"
            )
        if self.memory_size > examples:
            return [
                f"memory_size {self.memory_size} is larger than the data set ({examples} "
                "examples): a picture's own old embeddings are among its negatives"
            ]
        return []

    def _negatives(
        self,
        key: jax.Array,
        entries: memory.Queue | memory.Bank,
        queries: jax.Array,
        batch: Batch,
    ) -> jax.Array:
        own = example_numbers(batch, self) if self.positive == "memory" else None
        if self.choose == "hardest":
            return memory.hardest(entries, queries, self.negatives, exclude=own).embeddings
        drawn = memory.draw(key, entries, self.negatives)  # the same for all queries
        shape = (queries.shape[0], self.negatives)
        if own is None:
            return jnp.broadcast_to(drawn.embeddings, (*shape, queries.shape[-1]))
        # A query that drew its own entry takes the next one instead.
        indices = jnp.broadcast_to(drawn.indices, shape)
        indices = jnp.where(indices == own[:, None], (indices + 1) % self.memory_size, indices)
        return entries.embeddings[indices]

    def _remember(
        self,
        entries: memory.Queue | memory.Bank,
        queries: jax.Array,
        batch: Batch,
        axis_name: str | None,
    ) -> memory.Queue | memory.Bank:
        queries = jax.lax.stop_gradient(queries)
        if isinstance(entries, memory.Queue):
            return memory.enqueue(entries, queries, axis_name=axis_name)
        return memory.refresh(
            entries,
            example_numbers(batch, self),
            queries,
            momentum=self.momentum,
            axis_name=axis_name,
        )
