"""COLA: two windows of one sound, against those of others, by a learned product."""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl.choices import check_choices
from jaxcl.losses import bilinear_nce, info_nce
from jaxcl.methods.health import in_batch_health, spread_health
from jaxcl.methods.method import (
    Batch,
    EncoderMethod,
    EncoderState,
    Metrics,
    Params,
    check_positive,
    two_views,
)
from jaxcl.methods.networks import forward, init_networks
from jaxcl.similarity.rows import product


@dataclasses.dataclass(frozen=True, kw_only=True)
class COLA(EncoderMethod):
    """COLA (Saeed et al., 2020, section 2): the first window finds the second among all others'.

    Views are windows of one sound, as samples or spectrograms. Likeness is x W y with a learned W,
    or the cosine over a temperature; the log's accuracy is by the cosine of x W and y. The authors'
    projector is `encoders.TanhProjector`.
    """

    likeness: Literal["bilinear", "cosine"] = "bilinear"
    """What is large for two windows of one sound."""
    temperature: float = 0.2
    """Divides cosines; > 0."""

    def __post_init__(self) -> None:
        check_choices(self)
        check_positive(self, temperature=self.temperature)

    def init(self, key: jax.Array, batch: Batch) -> tuple[Params, EncoderState]:
        params, batch_stats, outputs = init_networks(self.networks, key, batch.views[0])
        if self.likeness == "bilinear":
            width = outputs.shape[-1]
            product_key = jax.random.fold_in(key, len(self.networks))  # those before are theirs
            glorot = nn.initializers.glorot_uniform()
            params["bilinear"] = {"kernel": glorot(product_key, (width, width))}
        return params, EncoderState(batch_stats)

    def represent(
        self,
        params: Params,
        state: EncoderState,
        batch: Batch,
        *,
        key: jax.Array,
        axis_name: str | None = None,
    ) -> tuple[tuple[jax.Array, ...], EncoderState]:
        """The embeddings of both windows, [N, D] each; both pass the network as one batch."""
        embeddings, batch_stats = forward(
            self.networks,
            params,
            state.batch_stats,
            jnp.concatenate(two_views(batch, self)),
            train=True,
            axis_name=axis_name,
            draws=batch.draws(key, axis_name),
        )
        return tuple(jnp.split(embeddings, 2)), dataclasses.replace(state, batch_stats=batch_stats)

    def objective(
        self,
        params: Params,
        state: EncoderState,
        embeddings: tuple[jax.Array, ...],
        batch: Batch,
        *,
        progress: jax.Array | float,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, EncoderState, Metrics]:
        anchors, positives = embeddings
        if self.likeness == "bilinear":
            weights = params["bilinear"]["kernel"]
            losses = bilinear_nce(anchors, positives, weights, axis_name=axis_name)
            anchors = product("nd,de->ne", anchors, weights)
        else:
            losses = info_nce(anchors, positives, temperature=self.temperature, axis_name=axis_name)
        metrics = in_batch_health(anchors, positives, axis_name)
        return losses.mean(), state, metrics | spread_health(embeddings[0], axis_name)
