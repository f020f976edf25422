"""CPC: what has been heard predicts what comes, against what comes elsewhere."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl.choices import check_choices
from jaxcl.losses import info_nce
from jaxcl.methods.health import in_batch_health
from jaxcl.methods.method import Batch, EncoderMethod, EncoderState, Metrics, Params
from jaxcl.methods.networks import forward, init_networks, stream
from jaxcl.similarity.rows import product


@dataclasses.dataclass(frozen=True, kw_only=True)
class CPC(EncoderMethod):
    """Contrastive predictive coding (van den Oord et al., 2018, eq. 3 and 4).

    The encoder maps one view to frames z [N, F, D], the context network frames to what is known at
    each time, c [N, F, C]. For k = 1 to `steps`, W_k c_t has to find z_{t+k}: of all examples and
    times, of other examples at that time, or of other times of its own example.
    """

    context: nn.Module
    """Maps frames to contexts, none of which knows later frames."""
    steps: int = 12
    """How far ahead, in frames."""
    negatives: Literal["all", "examples", "times"] = "all"
    """What a prediction is told from."""

    def __post_init__(self) -> None:
        check_choices(self)
        if self.steps < 1:
            raise ValueError(f"CPC: steps must be at least 1, got {self.steps}")
        if self.projector is not None:
            raise ValueError("CPC predicts the encoder's frames: it takes no projector")

    @property
    def feature_networks(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "context": self.context}

    def init(self, key: jax.Array, batch: Batch) -> tuple[Params, EncoderState]:
        view = self._view(batch)
        params, batch_stats, contexts = init_networks(self.feature_networks, key, view)
        frames = jax.eval_shape(lambda: forward(self._first, params, batch_stats, view[:1])[0])
        if frames.ndim != 3 or frames.shape[1] <= self.steps:
            raise ValueError(
                f"CPC predicts {self.steps} frames ahead, and the encoder makes {frames.shape} of "
                "a view: expected [N, F, D] with more frames"
            )
        if contexts.ndim != 3 or contexts.shape[1] != frames.shape[1]:
            raise ValueError(
                f"CPC needs a context of each frame, and the context network makes "
                f"{contexts.shape} of {frames.shape}: give it pool='none'"
            )
        if not getattr(self.context, "causal", True):
            raise ValueError("CPC: contexts may not know what comes: give a causal context network")
        shape = (self.steps, contexts.shape[-1], frames.shape[-1])
        weights = nn.initializers.variance_scaling(1.0, "fan_in", "normal", batch_axis=(0,))
        key = jax.random.fold_in(key, len(self.networks))  # those before are the networks'
        return params | {"predict": {"kernel": weights(key, shape)}}, EncoderState(batch_stats)

    def represent(
        self,
        params: Params,
        state: EncoderState,
        batch: Batch,
        *,
        key: jax.Array,
        axis_name: str | None = None,
    ) -> tuple[tuple[jax.Array, ...], EncoderState]:
        """Contexts [N, F, C] and frames [N, F, D]."""
        draws = batch.draws(key, axis_name)
        frames, stats = forward(
            self._first, params, state.batch_stats, self._view(batch),
            train=True, axis_name=axis_name, draws=draws,
        )  # fmt: skip
        contexts, stats = forward(
            {"context": self.context}, params, stats, frames,
            train=True, axis_name=axis_name, draws=draws,
        )  # fmt: skip
        return (contexts, frames), dataclasses.replace(state, batch_stats=stats)

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
        contexts, frames = embeddings
        losses = []
        for step, weights in enumerate(params["predict"]["kernel"], 1):
            predicted = product("nfc,cd->nfd", contexts[:, :-step], weights)
            losses.append(self._losses(predicted, frames[:, step:], axis_name).mean())
        # Of what is predicted of one frame in the middle: clips may begin or end with silence.
        middle = frames.shape[1] // 2
        predicted = product("nc,cd->nd", contexts[:, middle - 1], params["predict"]["kernel"][0])
        metrics = in_batch_health(predicted, frames[:, middle], axis_name)
        del metrics["chance_loss"]  # hangs on how far ahead
        return jnp.stack(losses).mean(), state, metrics

    def _losses(self, predicted: jax.Array, coming: jax.Array, axis_name: str | None) -> jax.Array:
        """Of predictions [N, F, D] and what came, as many losses."""

        def contrast(queries: jax.Array, found: jax.Array, axis_name: str | None) -> jax.Array:
            return info_nce(queries, found, temperature=1.0, similarity="dot", axis_name=axis_name)

        if self.negatives == "all":
            width = coming.shape[-1]
            return contrast(predicted.reshape(-1, width), coming.reshape(-1, width), axis_name)
        axis = 0 if self.negatives == "times" else 1
        over = None if self.negatives == "times" else axis_name
        of_each = jax.vmap(lambda queries, found: contrast(queries, found, over), in_axes=axis)
        losses: jax.Array = of_each(predicted, coming)
        return losses

    def embed(self, params: Params, state: EncoderState, inputs: jax.Array) -> jax.Array:
        """The mean context [N, C]."""
        return self.embed_frames(params, state, inputs).mean(1)

    def embed_frames(self, params: Params, state: EncoderState, inputs: jax.Array) -> jax.Array:
        """The context at each frame [N, F, C]."""
        contexts, _ = forward(self.feature_networks, params, state.batch_stats, inputs)
        return contexts

    def embed_next(
        self, params: Params, state: EncoderState, inputs: jax.Array, carry: tuple[Any, ...] = ()
    ) -> tuple[jax.Array, tuple[Any, ...]]:
        """The contexts [N, F, C] that are complete with the next inputs [N, T, ...] of a stream,
        and the carry for the next call; () at its beginning. All together are `embed_frames`."""
        return stream(self.feature_networks, params, state.batch_stats, inputs, carry)

    @property
    def _first(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder}

    def _view(self, batch: Batch) -> jax.Array:
        if len(batch.views) != 1:
            raise ValueError(f"CPC takes one view; the batch has {len(batch.views)}")
        return jnp.asarray(batch.views[0])
