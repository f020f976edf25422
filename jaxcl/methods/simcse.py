"""Sentences: two dropout masks of one text, or pairs of texts with hard negatives (SimCSE)."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxcl.losses import info_nce
from jaxcl.methods.health import in_batch_health
from jaxcl.methods.method import (
    Batch,
    EncoderMethod,
    EncoderState,
    Metrics,
    Params,
    check_positive,
)
from jaxcl.methods.networks import forward_each, init_networks
from jaxcl.similarity import axis_size, gather_rows, row_numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimCSE(EncoderMethod):
    """SimCSE (Gao, Yao & Chen, 2021): a text against its positive and all others' positives.

    Without supervision both views are the text itself, and the encoder's dropout makes them differ
    (section 3, eq. 4). With it the second view is a text that follows from the first, and further
    ones are hard negatives, of which a query sees everyone's (section 4, eq. 5). Each view passes
    the network by itself. Every text has to have tokens.
    """

    temperature: float = 0.05
    """Divides similarities; > 0."""
    widths: tuple[int, ...] = ()
    """Also contrast the first so many entries of embeddings, so that they serve alone (Matryoshka
    representations: Kusupati et al., 2022); the loss is the mean over these and the whole width."""

    def __post_init__(self) -> None:
        check_positive(self, temperature=self.temperature)
        if any(width < 1 for width in self.widths):
            raise ValueError(f"SimCSE: widths must be positive, got {self.widths}")

    def init(self, key: jax.Array, batch: Batch) -> tuple[Params, EncoderState]:
        params, batch_stats, outputs = init_networks(self.networks, key, batch.views[0])
        if max(self.widths, default=1) >= outputs.shape[-1]:
            raise ValueError(
                f"SimCSE: widths are of parts of embeddings, which are {outputs.shape[-1]} wide, "
                f"got {self.widths}"
            )
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
        """The embeddings of queries, positives and each hard negative, [N, D]."""
        if len(batch.views) < 2:
            raise ValueError(
                "SimCSE takes two views, and one for each hard negative; the batch has one"
            )
        embeddings, batch_stats = forward_each(
            self.networks,
            params,
            state.batch_stats,
            batch.views,
            axis_name=axis_name,
            draws=batch.draws(key, axis_name),
        )
        return tuple(embeddings), dataclasses.replace(state, batch_stats=batch_stats)

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
        queries, positives, *hard = embeddings
        metrics = in_batch_health(queries, positives, axis_name)
        candidates = len(queries) * axis_size(axis_name) * (1 + len(hard))
        metrics["chance_loss"] = jnp.log(jnp.float32(candidates))
        each = [
            self._losses(*(rows[:, :width] for rows in embeddings), axis_name=axis_name)
            for width in (*self.widths, queries.shape[1])
        ]
        return jnp.stack(each).mean(), state, metrics

    def _losses(
        self,
        queries: jax.Array,
        positives: jax.Array,
        *hard: jax.Array,
        axis_name: str | None,
    ) -> jax.Array:
        """Losses [N] of queries against everyone's positives and hard negatives."""
        if not hard:
            return info_nce(queries, positives, temperature=self.temperature, axis_name=axis_name)
        candidates = [gather_rows(rows, axis_name) for rows in (positives, *hard)]
        count = len(candidates[0])
        nobodys = jnp.full(count * len(hard), -1)
        return info_nce(
            queries,
            positives,
            jnp.concatenate(candidates),
            temperature=self.temperature,
            ids=row_numbers(len(queries), axis_name),
            negative_ids=jnp.concatenate([jnp.arange(count), nobodys]),
        )
