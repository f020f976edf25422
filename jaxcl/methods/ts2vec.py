"""TS2Vec: a time of a series is the same in two stretches that overlap there, and no other."""

import dataclasses

import jax

from jaxcl.augment.times import window_start
from jaxcl.losses import hierarchical
from jaxcl.methods.health import in_batch_health
from jaxcl.methods.method import Batch, EncoderMethod, EncoderState, Metrics, Params
from jaxcl.methods.networks import forward_each, init_networks


@dataclasses.dataclass(frozen=True, kw_only=True)
class TS2Vec(EncoderMethod):
    """TS2Vec (Yue et al., 2022): two overlapping stretches of a series, contrasted at all scales of
    time.

    A view is [N, T, C]. Of each example two stretches are drawn that overlap by so many times, as
    the paper does but for lengths, which here are the same for all; the encoder hides times of each
    by itself (`encoders.TemporalConvolutions(causal=False, mask_share=0.5, pool="none")`).
    """

    stretch: int
    """Times of each stretch."""
    overlap: int
    """Times that both have; the loss is over these."""
    alpha: float = 0.5
    """Weight of the contrast between series, 0 to 1; that between times has the rest."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"TS2Vec: alpha must be 0 to 1, got {self.alpha}")
        if not 1 <= self.overlap <= self.stretch:
            raise ValueError(
                f"TS2Vec: overlap {self.overlap} must be at least 1 and at most stretch "
                f"{self.stretch}"
            )
        if self.projector is not None:
            raise ValueError("TS2Vec contrasts what the encoder says of each time: no projector")

    def init(self, key: jax.Array, batch: Batch) -> tuple[Params, EncoderState]:
        view = self._view(batch)
        params, batch_stats, outputs = init_networks(self.networks, key, view)
        if outputs.ndim != 3 or outputs.shape[1] != view.shape[1]:
            raise ValueError(
                f"TS2Vec needs features of each time, [N, T, D], and the encoder makes "
                f"{outputs.shape} of {view[:1].shape}: give it pool='none'"
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
        """What both stretches say of the times of their overlap, [N, overlap, D] each."""
        view, draws = self._view(batch), batch.draws(key, axis_name)
        both = 2 * self.stretch - self.overlap

        def cut(number: jax.Array, series: jax.Array) -> tuple[jax.Array, jax.Array]:
            start = window_start(jax.random.fold_in(draws.key, number), len(series), both)
            window = jax.lax.dynamic_slice_in_dim(series, start, both)
            return window[: self.stretch], window[both - self.stretch :]

        stretches = jax.vmap(cut)(draws.index, view)
        (first, second), batch_stats = forward_each(
            self.networks, params, state.batch_stats, stretches, axis_name=axis_name, draws=draws
        )
        state = dataclasses.replace(state, batch_stats=batch_stats)
        return (first[:, self.stretch - self.overlap :], second[:, : self.overlap]), state

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
        losses = hierarchical(*embeddings, alpha=self.alpha, axis_name=axis_name)
        # Of the whole overlap: that of one time may be hidden.
        first, second = (rows.max(1) for rows in embeddings)
        metrics = in_batch_health(first, second, axis_name)
        del metrics["chance_loss"]  # hangs on the scales
        return losses.mean(), state, metrics

    def embed(self, params: Params, state: EncoderState, inputs: jax.Array) -> jax.Array:
        """The largest of all times, [N, D], as the paper's for a whole series."""
        return self.embed_frames(params, state, inputs).max(1)

    def embed_frames(self, params: Params, state: EncoderState, inputs: jax.Array) -> jax.Array:
        """Features of each time, [N, T, D]."""
        return super().embed(params, state, inputs)

    def _view(self, batch: Batch) -> jax.Array:
        both = 2 * self.stretch - self.overlap
        if len(batch.views) != 1 or batch.views[0].ndim != 3 or batch.views[0].shape[1] < both:
            shapes = ", ".join(str(view.shape) for view in batch.views)
            raise ValueError(
                f"TS2Vec takes one view of series [N, T, C], of {both} times at least (two "
                f"stretches of {self.stretch} less their overlap of {self.overlap}); got {shapes}"
            )
        return batch.views[0]
