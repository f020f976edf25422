"""SimCLR: two views, one network, in-batch negatives."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl import memory
from jaxcl.choices import check_choices
from jaxcl.encoders import MLP
from jaxcl.losses import dcl, dclw, hard_nt_xent, nt_xent
from jaxcl.methods.health import contrast_health, spread_health
from jaxcl.methods.method import (
    Batch,
    EncoderMethod,
    EncoderState,
    Metrics,
    Params,
    check_momentum,
    check_positive,
    two_views,
)
from jaxcl.methods.networks import chain, forward, init_networks
from jaxcl.methods.schedules import Cosine, value_at
from jaxcl.methods.target import move_target, start_target
from jaxcl.similarity import gather_rows, l2_normalize, row_numbers


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SlowMemory:
    """A slowly moving network, and the embeddings that it made of past batches."""

    params: dict[str, Any]
    batch_stats: dict[str, Any]
    queue: memory.Queue


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SimCLRState(EncoderState):
    """State of SimCLR."""

    memory: SlowMemory | None = None
    """With a queue only."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimCLR(EncoderMethod):
    """SimCLR v1 (Chen, Kornblith et al., 2020, algorithm 1) and v2 (2020).

    The two differ in projector: `simclr_v1_projector`, and `simclr_v2_projector`, of whose layers
    v2 keeps the first for fine-tuning (`embed_layers=1`). Both views pass the network as one batch,
    so they share batch statistics.

    v2 may add MoCo's memory (its section 2): a moving average of the network, whose embeddings of
    past batches, both views of each, are further negatives (`queue_size=65536`).
    """

    projector: MLP | None = dataclasses.field(default=None, kw_only=False)
    """Maps features to embeddings; None: the features are the embeddings."""
    temperature: float = 0.1
    """Divides similarities; > 0."""
    embed_layers: int = 0
    """Layers of the projector that `embed` applies after the encoder."""
    contrast: Literal["nt_xent", "dcl", "dclw", "hard_nt_xent"] = "nt_xent"
    """The loss: NT-Xent; decoupled (DCL), with weighted positives (DCLW: Yeh et al., 2022);
    debiased and hard negatives (Chuang et al., 2020; Robinson et al., 2021)."""
    sigma: float = 0.5
    """Of "dclw": width of the weights of positives; > 0."""
    tau_plus: float = 0.1
    """Of "hard_nt_xent": share of the data that is of a query's own class, 0 to
    below 1."""
    beta: float = 1.0
    """Of "hard_nt_xent": how much hard negatives weigh; 0 only debiases."""
    queue_size: int = 0
    """Embeddings of past views that serve as negatives too; 0: those of the batch alone."""
    momentum: float | Cosine = 0.999
    """Share of itself that the network behind the queue keeps at each step, 0 to 1."""

    def __post_init__(self) -> None:
        check_choices(self)
        check_positive(self, temperature=self.temperature, sigma=self.sigma)
        check_momentum(self, self.momentum)
        if self.queue_size < 0:
            raise ValueError(f"SimCLR: queue_size must be 0 (none) or more, got {self.queue_size}")
        if self.queue_size and self.contrast != "nt_xent":
            raise ValueError(
                f"SimCLR: a queue goes with contrast 'nt_xent' only, got {self.contrast!r}; set "
                "queue_size to 0"
            )
        if self.embed_layers and self.projector is None:
            raise ValueError("SimCLR: embed_layers counts the projector's layers; there is none")

    def init(self, key: jax.Array, batch: Batch) -> tuple[Params, SimCLRState]:
        params, batch_stats, outputs = init_networks(self.networks, key, batch.views[0])
        if not self.queue_size:
            return params, SimCLRState(batch_stats)
        queue_key = jax.random.fold_in(key, len(self.networks))  # those before it are theirs
        slow = SlowMemory(
            params=start_target(params),
            batch_stats=start_target(batch_stats),
            queue=memory.init_queue(queue_key, self.queue_size, outputs.shape[-1]),
        )
        return params, SimCLRState(batch_stats, slow)

    def represent(
        self,
        params: Params,
        state: SimCLRState,
        batch: Batch,
        *,
        key: jax.Array,
        axis_name: str | None = None,
    ) -> tuple[tuple[jax.Array, ...], SimCLRState]:
        views = jnp.concatenate(two_views(batch, self))
        embeddings, batch_stats = forward(
            self.networks,
            params,
            state.batch_stats,
            views,
            train=True,
            axis_name=axis_name,
            draws=batch.draws(key, axis_name),
        )
        state = dataclasses.replace(state, batch_stats=batch_stats)
        both = tuple(jnp.split(embeddings, 2))
        if state.memory is None:
            return both, state
        keys, slow_stats = forward(
            self.networks,
            state.memory.params,
            state.memory.batch_stats,
            views,
            train=True,
            axis_name=axis_name,
        )
        keys = jnp.stack(jnp.split(keys, 2), axis=1)  # [N, 2, D]
        keys = jax.lax.stop_gradient(l2_normalize(keys))
        slow = dataclasses.replace(state.memory, batch_stats=slow_stats)
        return (*both, keys), dataclasses.replace(state, memory=slow)

    def objective(
        self,
        params: Params,
        state: SimCLRState,
        embeddings: tuple[jax.Array, ...],
        batch: Batch,
        *,
        progress: jax.Array | float,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, SimCLRState, Metrics]:
        z0, z1, *keys = embeddings
        slow = state.memory
        past = None if slow is None else slow.queue.embeddings
        losses = self._contrast(z0, z1, past, axis_name)
        everyone = gather_rows(jnp.stack([z0, z1], axis=1), axis_name)  # [G, 2, D]
        own = row_numbers(z0.shape[0], axis_name)
        is_other = own[:, None] != jnp.arange(everyone.shape[0])  # [N, G]
        candidates = everyone.reshape(-1, z0.shape[-1])
        is_negative = jnp.repeat(is_other, 2, axis=1)
        if slow is not None and past is not None:
            candidates = jnp.concatenate([candidates, past])
            is_negative = jnp.pad(is_negative, [(0, 0), (0, len(past))], constant_values=True)
            # Example by example: an order that is the same on any number of devices.
            entering = keys[0].reshape(-1, z0.shape[-1])
            queue = memory.enqueue(slow.queue, entering, axis_name=axis_name)
            slow = dataclasses.replace(slow, queue=queue)
        metrics = contrast_health(z0, z1, candidates, is_negative) | spread_health(z0, axis_name)
        return losses.mean(), dataclasses.replace(state, memory=slow), metrics

    def _contrast(
        self, z0: jax.Array, z1: jax.Array, past: jax.Array | None, axis_name: str | None
    ) -> jax.Array:
        options: dict[str, Any] = {"temperature": self.temperature, "axis_name": axis_name}
        if self.contrast == "dcl":
            return dcl(z0, z1, **options)
        if self.contrast == "dclw":
            return dclw(z0, z1, sigma=self.sigma, **options)
        if self.contrast == "hard_nt_xent":
            return hard_nt_xent(z0, z1, tau_plus=self.tau_plus, beta=self.beta, **options)
        return nt_xent(z0, z1, past, **options)

    @property
    def averages(self) -> tuple[str, ...]:
        return ("memory/params",)

    def end_step(
        self, params: Params, state: SimCLRState, *, progress: jax.Array | float
    ) -> SimCLRState:
        if state.memory is None:
            return state
        momentum = value_at(self.momentum, progress)
        slow = dataclasses.replace(
            state.memory, params=move_target(state.memory.params, params, momentum)
        )
        return dataclasses.replace(state, memory=slow)

    def check(self, *, batch_size: int, examples: int) -> list[str]:
        if not self.queue_size:
            return []
        if self.queue_size < 2 * batch_size:
            raise ValueError(
                f"queue_size {self.queue_size} is smaller than the {2 * batch_size} views of a "
                f"batch, which all enter it. Set method.queue_size to at least {2 * batch_size}, "
                "or 0 for none"
            )
        if self.queue_size > 2 * examples:
            return [
                f"queue_size {self.queue_size} is larger than the data set ({examples} examples, "
                "two views of each): a picture's own old embeddings are among its negatives"
            ]
        return []

    @property
    def feature_networks(self) -> dict[str, nn.Module]:
        layers = self.embed_layers
        projector = self.projector.first_layers(layers) if layers and self.projector else None
        return chain(encoder=self.encoder, projector=projector)
