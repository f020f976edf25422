"""Speakers told by their voice: utterances against the centroids of speakers."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxcl.choices import check_choices
from jaxcl.encoders import SigmoidScaleAndBias
from jaxcl.losses import ge2e
from jaxcl.methods.health import in_batch_health, spread_health
from jaxcl.methods.means import mean_where
from jaxcl.methods.method import Batch, EncoderMethod, EncoderState, Metrics, Params
from jaxcl.methods.networks import forward, init_networks
from jaxcl.similarity import gather_rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class GE2E(EncoderMethod):
    """Generalized end-to-end speaker verification (Wan et al., 2018).

    The data need labels, the speakers. Each view of a record, such as a window of its own, is an
    utterance; those of all records of a speaker, on all devices, make its centroid. Scale and bias
    are learned.
    """

    contrast: Literal["softmax", "contrast"] = "softmax"
    """Of the paper's two losses, eq. 6 or 7."""
    scale: float = 10.0
    """That similarities are multiplied by to begin with; > 0."""
    bias: float = -5.0
    """That is added to begin with."""

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.scale > 0:
            raise ValueError(f"GE2E: scale must be positive, got {self.scale}")

    def init(self, key: jax.Array, batch: Batch) -> tuple[Params, EncoderState]:
        params, batch_stats, _ = init_networks(self.networks, key, batch.views[0])
        return params | {"scale": self._scale.init(key)["params"]}, EncoderState(batch_stats)

    def represent(
        self,
        params: Params,
        state: EncoderState,
        batch: Batch,
        *,
        key: jax.Array,
        axis_name: str | None = None,
    ) -> tuple[tuple[jax.Array, ...], EncoderState]:
        """The embeddings of each view, [N, D]; all pass the network as one batch."""
        embeddings, batch_stats = forward(
            self.networks, params, state.batch_stats, jnp.concatenate(batch.views),
            train=True, axis_name=axis_name, draws=batch.draws(key, axis_name),
        )  # fmt: skip
        split = jnp.split(embeddings, len(batch.views))
        return tuple(split), dataclasses.replace(state, batch_stats=batch_stats)

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
        if batch.label is None:
            raise ValueError("GE2E needs Batch.label, the speakers: name the labels of the data")
        learned: Any = self._scale.apply({"params": params["scale"]})
        labels = jnp.tile(batch.label, len(embeddings))
        everyones = gather_rows(labels, axis_name)
        has_mate = (labels[:, None] == everyones).sum(1) > 1
        losses = ge2e(
            jnp.concatenate(embeddings),
            labels,
            scale=jnp.exp(learned.logit_scale),
            bias=learned.logit_bias,
            contrast=self.contrast,
            axis_name=axis_name,
        )
        if len(embeddings) > 1:
            metrics = in_batch_health(embeddings[0], embeddings[1], axis_name)
            del metrics["chance_loss"]  # hangs on the speakers of the batch
        else:
            metrics = spread_health(embeddings[0], axis_name)
        metrics["scale"] = jnp.exp(learned.logit_scale)
        return mean_where(losses, has_mate, axis_name), state, metrics

    @property
    def undecayed(self) -> tuple[str, ...]:
        return (*super().undecayed, "scale")

    def check_labels(self, labels: np.ndarray | None, *, batch_size: int) -> list[str]:
        if labels is None:
            raise ValueError(
                "GE2E needs labels, the speakers, and the data have none: name them (as in "
                "label='speaker', or labels='subfolders')"
            )
        if len(np.unique(labels)) == 1:
            raise ValueError(
                "GE2E: all examples are of one speaker, so there is nothing to tell apart: give "
                "data of two or more"
            )
        _, numbers, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        mates = 1 - (1 - (sizes[numbers] - 1) / max(len(labels) - 1, 1)) ** (batch_size - 1)
        if mates.mean() < 0.5:
            return [
                f"with one view only {mates.mean():.0%} of the examples meet another of their "
                f"speaker in a batch of {batch_size}, and the others count for nothing: take two "
                "views, or larger batches"
            ]
        return []

    @property
    def _scale(self) -> SigmoidScaleAndBias:
        return SigmoidScaleAndBias(self.scale, self.bias)
