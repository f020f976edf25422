"""SimCLR: two views, one network, in-batch negatives."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl.encoders import MLP
from jaxcl.losses import nt_xent
from jaxcl.methods.health import contrast_health, spread_health
from jaxcl.methods.method import Batch, Method, Metrics, Params, check_positive, two_views
from jaxcl.methods.networks import chain, forward, init_networks
from jaxcl.similarity import gather_rows, row_numbers


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SimCLRState:
    """State of SimCLR."""

    batch_stats: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class SimCLR(Method):
    """SimCLR v1 (Chen, Kornblith et al., 2020, algorithm 1) and v2 (2020).

    The two differ in projector: `simclr_v1_projector`, and `simclr_v2_projector`, of whose layers
    v2 keeps the first for fine-tuning (`embed_layers=1`). Both views pass the network as one batch,
    so they share batch statistics.
    """

    encoder: nn.Module
    """Maps a view to features."""
    projector: MLP | None = None
    """Maps features to embeddings; None: the features are the embeddings."""
    temperature: float = 0.1
    """Divides similarities; > 0."""
    embed_layers: int = 0
    """Layers of the projector that `embed` applies after the encoder."""

    def __post_init__(self) -> None:
        check_positive(self, temperature=self.temperature)
        if self.embed_layers and self.projector is None:
            raise ValueError("SimCLR: embed_layers counts the projector's layers; there is none")

    def init(self, key: jax.Array, batch: Batch) -> tuple[Params, SimCLRState]:
        params, batch_stats, _ = init_networks(self._networks, key, batch.views[0])
        return params, SimCLRState(batch_stats=batch_stats)

    def represent(
        self,
        params: Params,
        state: SimCLRState,
        batch: Batch,
        *,
        key: jax.Array,
        axis_name: str | None = None,
    ) -> tuple[tuple[jax.Array, jax.Array], SimCLRState]:
        views = jnp.concatenate(two_views(batch, self))
        embeddings, batch_stats = forward(
            self._networks, params, state.batch_stats, views, train=True, axis_name=axis_name
        )
        first, second = jnp.split(embeddings, 2)
        return (first, second), dataclasses.replace(state, batch_stats=batch_stats)

    def objective(
        self,
        params: Params,
        state: SimCLRState,
        embeddings: tuple[jax.Array, jax.Array],
        batch: Batch,
        *,
        progress: jax.Array | float,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, SimCLRState, Metrics]:
        z0, z1 = embeddings
        losses = nt_xent(z0, z1, temperature=self.temperature, axis_name=axis_name)
        everyone = gather_rows(jnp.stack([z0, z1], axis=1), axis_name)  # [G, 2, D]
        own = row_numbers(z0.shape[0], axis_name)
        is_other = own[:, None] != jnp.arange(everyone.shape[0])  # [N, G]
        metrics = contrast_health(
            z0, z1, everyone.reshape(-1, z0.shape[-1]), jnp.repeat(is_other, 2, axis=1)
        )
        return losses.mean(), state, metrics | spread_health(z0, axis_name)

    def embed(self, params: Params, state: SimCLRState, inputs: jax.Array) -> jax.Array:
        features = super().embed(params, state, inputs)
        if not self.embed_layers or self.projector is None:
            return features
        projector = self.projector.first_layers(self.embed_layers)
        return forward({"projector": projector}, params, state.batch_stats, features)[0]

    @property
    def _networks(self) -> dict[str, nn.Module]:
        return chain(encoder=self.encoder, projector=self.projector)
