"""Sentences: two dropout masks of one text, or pairs of texts with hard negatives (SimCSE)."""

import dataclasses
from typing import Any

import flax.linen as nn
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
from jaxcl.methods.networks import chain, forward, forward_each, init_networks
from jaxcl.similarity import axis_size, gather_rows, l2_normalize, row_numbers
from jaxcl.similarity.rows import product

_ROUNDING = 1e-5  # of cosines in float32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SimCSEState(EncoderState):
    """State of `SimCSE`."""

    frozen: dict[str, Any]
    """Parameters of the guide, where there is one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimCSE(EncoderMethod):
    """SimCSE (Gao, Yao & Chen, 2021): a text against its positive and all others' positives.

    Without supervision both views are the text itself, and the encoder's dropout makes them differ
    (section 3, eq. 4). With it the second view is a text that follows from the first, and further
    ones are hard negatives, of which a query sees everyone's (section 4, eq. 5). Each view passes
    the network by itself. Every text has to have tokens.

    A `guide` leaves out false negatives: texts that it finds more alike to the query than the
    query's own positive (GISTEmbed: Solatorio, 2024, section 3.2, of queries to candidates). It
    keeps the weights that it starts from, which `Experiment.start` gives, and reads the same
    tokens.
    """

    temperature: float = 0.05
    """Divides similarities; > 0."""
    widths: tuple[int, ...] = ()
    """Also contrast the first so many entries of embeddings, so that they serve alone (Matryoshka
    representations: Kusupati et al., 2022); the loss is the mean over these and the whole width."""
    guide: nn.Module | None = None
    """An encoder that tells false negatives; None: every other text is a negative."""
    guide_margin: float = 0.0
    """Leave out, too, what the guide's cosine finds less alike than the positive by no more than
    this, 0 to 2. Of two views that are one text, which it finds alike by 1, 0 leaves out nothing
    but the same text."""

    def __post_init__(self) -> None:
        check_positive(self, temperature=self.temperature)
        if not 0 <= self.guide_margin <= 2:
            raise ValueError(f"SimCSE: guide_margin must be 0 to 2, got {self.guide_margin}")
        if any(width < 1 for width in self.widths):
            raise ValueError(f"SimCSE: widths must be positive, got {self.widths}")

    def init(self, key: jax.Array, batch: Batch) -> tuple[Params, SimCSEState]:
        view = batch.views[0]
        params, batch_stats, outputs = init_networks(self._learning, key, view)
        if max(self.widths, default=1) >= outputs.shape[-1]:
            raise ValueError(
                f"SimCSE: widths are of parts of embeddings, which are {outputs.shape[-1]} wide, "
                f"got {self.widths}"
            )
        frozen: dict[str, Any] = {}
        if self.guide is not None:
            frozen, own_stats, _ = init_networks({"guide": self.guide}, key, view)
            batch_stats |= own_stats
        return params, SimCSEState(batch_stats, frozen)

    @property
    def _learning(self) -> dict[str, nn.Module]:
        return chain(encoder=self.encoder, projector=self.projector)

    def represent(
        self,
        params: Params,
        state: SimCSEState,
        batch: Batch,
        *,
        key: jax.Array,
        axis_name: str | None = None,
    ) -> tuple[tuple[jax.Array, ...], SimCSEState]:
        """The embeddings of queries, positives and each hard negative, [N, D]; then the guide's."""
        if len(batch.views) < 2:
            raise ValueError(
                "SimCSE takes two views, and one for each hard negative; the batch has one"
            )
        embeddings, batch_stats = forward_each(
            self._learning,
            params,
            state.batch_stats,
            batch.views,
            axis_name=axis_name,
            draws=batch.draws(key, axis_name),
        )
        if self.guide is not None:
            for view in batch.views:
                told, _ = forward({"guide": self.guide}, state.frozen, batch_stats, view)
                embeddings.append(jax.lax.stop_gradient(told))
        return tuple(embeddings), dataclasses.replace(state, batch_stats=batch_stats)

    def objective(
        self,
        params: Params,
        state: SimCSEState,
        embeddings: tuple[jax.Array, ...],
        batch: Batch,
        *,
        progress: jax.Array | float,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, SimCSEState, Metrics]:
        views = len(embeddings) if self.guide is None else len(embeddings) // 2
        embeddings, told = embeddings[:views], embeddings[views:]
        queries, positives, *hard = embeddings
        everyone = len(queries) * axis_size(axis_name)
        candidates = jnp.full(len(queries), everyone * (1 + len(hard)), jnp.float32)
        false = None
        if told:
            false = self._false_negatives(told, axis_name)
            candidates -= false.sum(axis=1)
        metrics = in_batch_health(
            queries, positives, axis_name, left_out=None if false is None else false[:, :everyone]
        )
        metrics["chance_loss"] = jnp.log(candidates).mean()
        if false is not None:
            metrics["false_negatives"] = false.mean()
        each = [
            self._losses(
                *(rows[:, :width] for rows in embeddings), false=false, axis_name=axis_name
            )
            for width in (*self.widths, queries.shape[1])
        ]
        return jnp.stack(each).mean(), state, metrics

    def _false_negatives(self, told: tuple[jax.Array, ...], axis_name: str | None) -> jax.Array:
        """[N, M] bool: candidates that the guide finds as alike to a query as its own positive,
        which is none of them."""
        queries, positives, *hard = map(l2_normalize, told)
        candidates = jnp.concatenate([gather_rows(rows, axis_name) for rows in (positives, *hard)])
        own = row_numbers(len(queries), axis_name)
        # As alike but for rounding is as alike: else it would hang on the number of devices.
        least = jnp.sum(queries * positives, axis=1) - self.guide_margin - _ROUNDING
        alike = product("nd,md->nm", queries, candidates) >= least[:, None]
        return alike & (jnp.arange(len(candidates)) != own[:, None])

    def _losses(
        self,
        queries: jax.Array,
        positives: jax.Array,
        *hard: jax.Array,
        false: jax.Array | None,
        axis_name: str | None,
    ) -> jax.Array:
        """Losses [N] of queries against everyone's positives and hard negatives."""
        if not hard and false is None:
            return info_nce(queries, positives, temperature=self.temperature, axis_name=axis_name)
        candidates = [gather_rows(rows, axis_name) for rows in (positives, *hard)]
        count = len(candidates[0])
        own = row_numbers(len(queries), axis_name)
        whose = jnp.concatenate([jnp.arange(count), jnp.full(count * len(hard), -1)])
        if false is not None:  # what has the query's own number is no negative of it
            whose = jnp.where(false, own[:, None], whose)
        return info_nce(
            queries,
            positives,
            jnp.concatenate(candidates),
            temperature=self.temperature,
            ids=own,
            negative_ids=whose,
        )
