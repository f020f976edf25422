"""wav2vec 2.0: what is hidden of an utterance is told from what is hidden elsewhere in it."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl.augment.times import masked_others, span_mask
from jaxcl.encoders import MLP, FrameTransformer, ProductQuantizer, wav2vec_front
from jaxcl.methods.draws import Draws
from jaxcl.methods.health import spread_health
from jaxcl.methods.means import mean_where
from jaxcl.methods.method import (
    Batch,
    EncoderMethod,
    EncoderState,
    Metrics,
    Params,
    check_positive,
)
from jaxcl.methods.networks import forward, init_networks, network_streams
from jaxcl.methods.schedules import Cosine, Linear, value_at
from jaxcl.similarity import l2_normalize


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Wav2Vec2State(EncoderState):
    """State of wav2vec 2.0."""

    gumbel_temperature: jax.Array
    """Of the next step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wav2Vec2(EncoderMethod):
    """wav2vec 2.0 (Baevski et al., 2020).

    The encoder maps one view to frames; spans of them are hidden from the context network, which
    has to tell the code of each hidden frame from codes of other hidden frames of its utterance
    (eq. 3). Codes are drawn of codebooks by Gumbel softmax (eq. 1), straight through; a penalty
    keeps all entries in use (eq. 4, as the authors' code has it: the share of entries that the
    perplexity leaves out). Negatives with the positive's code are left out, as there. The defaults
    are the base model.
    """

    encoder: nn.Module = dataclasses.field(default_factory=wav2vec_front, kw_only=False)
    """Maps a view to frames [N, F, C]."""
    context: FrameTransformer = dataclasses.field(default_factory=FrameTransformer)
    """Maps frames, some of them hidden, to contexts [N, F, D]."""
    quantizer: ProductQuantizer = dataclasses.field(default_factory=ProductQuantizer)
    """Maps frames to codes, as wide as what the projector makes."""
    projector: nn.Module | None = dataclasses.field(
        default_factory=lambda: MLP((256,)), kw_only=False
    )
    """Maps contexts to the width of codes."""
    mask_share: float = 0.065
    """Of all frames, that begin a hidden span."""
    mask_span: int = 10
    """Frames of a span."""
    negatives: int = 100
    """Drawn for each hidden frame."""
    temperature: float = 0.1
    """Divides cosines; > 0."""
    gumbel_temperature: float | Linear | Cosine = Linear(2.0, 0.5)
    """Of the softmax that chooses entries; > 0."""
    diversity: float = 0.1
    """Weight of the penalty on entries that are not used."""
    smallness: float = 10.0
    """Weight of the frames' mean square."""
    encoder_gradient: float = 0.1
    """What the encoder's gradient is multiplied by."""

    def __post_init__(self) -> None:
        check_positive(self, temperature=self.temperature, negatives=self.negatives)
        gumbel = self.gumbel_temperature
        ends = (gumbel.start, gumbel.end) if isinstance(gumbel, Linear | Cosine) else (gumbel,)
        for value in ends:
            check_positive(self, gumbel_temperature=value)
        for name in ("diversity", "smallness", "encoder_gradient"):
            if getattr(self, name) < 0:
                raise ValueError(f"Wav2Vec2: {name} is negative, got {getattr(self, name)}")
        if not 0 < self.mask_share <= 1 or self.mask_span < 1:
            raise ValueError(
                f"Wav2Vec2: mask_share {self.mask_share} and mask_span {self.mask_span}; expected "
                "a share above 0 and at most 1, and a span of at least 1"
            )

    @property
    def feature_networks(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "context": self.context}

    def init(self, key: jax.Array, batch: Batch) -> tuple[Params, Wav2Vec2State]:
        view = self._view(batch)
        params, batch_stats, contexts = init_networks(self.feature_networks, key, view)
        frames, _ = forward({"encoder": self.encoder}, params, batch_stats, view[:1])
        if frames.ndim != 3 or frames.shape[1] < 2:
            raise ValueError(f"Wav2Vec2 needs frames [N, F, C], F at least 2; got {frames.shape}")
        own, own_stats, outputs = init_networks(
            {"projector": self._projector}, jax.random.fold_in(key, 2), contexts[0]
        )
        params, batch_stats = params | own, batch_stats | own_stats
        if outputs.shape[-1] != self.quantizer.out:
            raise ValueError(
                f"Wav2Vec2: the projector makes {outputs.shape[-1]} numbers of a context, and a "
                f"code has {self.quantizer.out}: set quantizer.out, or the projector, alike"
            )
        own, own_stats, _ = init_networks(
            {"quantizer": self.quantizer}, jax.random.fold_in(key, 3), frames
        )
        params, batch_stats = params | own, batch_stats | own_stats
        temperature = jnp.float32(value_at(self.gumbel_temperature, 0.0))
        return params, Wav2Vec2State(batch_stats, temperature)

    def represent(
        self,
        params: Params,
        state: Wav2Vec2State,
        batch: Batch,
        *,
        key: jax.Array,
        axis_name: str | None = None,
    ) -> tuple[tuple[jax.Array, ...], Wav2Vec2State]:
        """Of each utterance: the mean hidden context [N, D]; cosines of each frame's context to its
        code and to negatives, the code's first, [N, F, 1 + K], -inf where a negative has the same
        code; which frames are hidden, 0 or 1, [N, F]; how likely entries are, summed over hidden
        frames, [N, groups, entries]; and the frames' mean square, [N]."""
        draws = batch.draws(key, axis_name)
        frames, batch_stats = forward(
            {"encoder": self.encoder}, params, state.batch_stats, self._view(batch),
            train=True, axis_name=axis_name, draws=draws,
        )  # fmt: skip
        slowed = self.encoder_gradient * frames
        frames = slowed + jax.lax.stop_gradient(frames - slowed)
        square = jnp.mean(jnp.square(frames), axis=(1, 2))
        mask_key, noise_key, negatives_key = jax.random.split(draws.key, 3)

        def drawn(number: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            keys = [jax.random.fold_in(one, number) for one in (mask_key, noise_key, negatives_key)]
            length = frames.shape[1]
            hidden = span_mask(keys[0], length, share=self.mask_share, span=self.mask_span)
            entries = (length, self.quantizer.groups, self.quantizer.entries)
            others = masked_others(keys[2], hidden, self.negatives)
            return hidden, jax.random.gumbel(keys[1], entries), others

        hidden, noise, others = jax.vmap(drawn)(draws.index)
        contexts = self._contexts(params, frames, hidden, draws)
        flat = contexts.reshape(-1, contexts.shape[-1])
        rows, batch_stats = forward(
            {"projector": self._projector}, params, batch_stats, flat,
            train=True, axis_name=axis_name,
        )  # fmt: skip
        rows = rows.reshape(*contexts.shape[:2], -1)

        scores = self._quantize(params, "scores", frames)
        weights = straight_through((scores + noise) / state.gumbel_temperature)
        codes = self._quantize(params, "codes", weights)
        chosen = jnp.argmax(weights, axis=-1)  # [N, F, groups]
        cosines = jax.vmap(_against)(l2_normalize(rows), l2_normalize(codes), chosen, others)
        where = hidden.astype(jnp.float32)
        usage = jnp.einsum("nfge,nf->nge", jax.nn.softmax(scores), where)
        mean = jnp.einsum("nfd,nf->nd", rows, where) / where.sum(1, keepdims=True)
        state = dataclasses.replace(state, batch_stats=batch_stats)
        return (mean, cosines, where, usage, square), state

    def objective(
        self,
        params: Params,
        state: Wav2Vec2State,
        embeddings: tuple[jax.Array, ...],
        batch: Batch,
        *,
        progress: jax.Array | float,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, Wav2Vec2State, Metrics]:
        mean, cosines, where, usage, square = embeddings
        hidden = where > 0
        logits = cosines / self.temperature
        losses = jax.nn.logsumexp(logits, axis=-1) - logits[..., 0]  # [N, F]
        contrast = mean_where(jnp.where(hidden, losses, 0), hidden, axis_name)

        total, count = usage.sum(0), where.sum()
        if axis_name is not None:
            total, count = jax.lax.psum((total, count), axis_name)
        likely = total / count  # [groups, entries]
        entropy = -jnp.sum(jax.scipy.special.xlogy(likely, likely), axis=-1)
        used = jnp.exp(entropy)  # of each book's entries, if all were used alike
        unused = 1 - used.mean() / self.quantizer.entries
        loss = contrast + self.diversity * unused + self.smallness * square.mean()

        right = (logits[..., 0] > logits[..., 1:].max(-1)).astype(jnp.float32)
        others = jnp.isfinite(cosines[..., 1:])
        likeness = jnp.where(others, cosines[..., 1:], 0)
        among = jnp.sum(others, axis=-1, dtype=jnp.float32)
        metrics = {
            "accuracy": mean_where(jnp.where(hidden, right, 0), hidden, axis_name),
            "positive_similarity": mean_where(where * cosines[..., 0], hidden, axis_name),
            "negative_similarity": mean_where(
                where * likeness.sum(-1) / jnp.maximum(among, 1), hidden, axis_name
            ),
            "contrast": contrast,
            "entries_used": used.mean(),
            "hidden": where.mean(),
        }
        return loss, state, metrics | spread_health(mean, axis_name)

    def end_step(
        self, params: Params, state: Wav2Vec2State, *, progress: jax.Array | float
    ) -> Wav2Vec2State:
        temperature = jnp.float32(value_at(self.gumbel_temperature, progress))
        return dataclasses.replace(state, gumbel_temperature=temperature)

    def embed(self, params: Params, state: Wav2Vec2State, inputs: jax.Array) -> jax.Array:
        """The mean context [N, D], nothing hidden."""
        return self.embed_frames(params, state, inputs).mean(1)

    def embed_frames(self, params: Params, state: Any, inputs: jax.Array) -> jax.Array:
        """The context of each frame [N, F, D], nothing hidden."""
        return super().embed(params, state, inputs)

    def _contexts(
        self, params: Params, frames: jax.Array, hidden: jax.Array, draws: Draws
    ) -> jax.Array:
        with network_streams(draws, "context", len(frames)) as rngs:
            contexts = self.context.apply(
                {"params": params["context"]}, frames, masked=hidden, train=True, rngs=rngs
            )
        return jnp.asarray(contexts)

    def _quantize(self, params: Params, what: str, inputs: jax.Array) -> jax.Array:
        variables = {"params": params["quantizer"]}
        return jnp.asarray(self.quantizer.apply(variables, inputs, method=what))

    @property
    def _projector(self) -> nn.Module:
        if self.projector is None:
            raise ValueError("Wav2Vec2 takes a projector, from contexts to the width of codes")
        return self.projector

    def _view(self, batch: Batch) -> jax.Array:
        if len(batch.views) != 1:
            raise ValueError(f"Wav2Vec2 takes one view; the batch has {len(batch.views)}")
        return jnp.asarray(batch.views[0])


def straight_through(logits: jax.Array) -> jax.Array:
    """One-hot of the largest of each [..., E], with the gradient of their softmax."""
    soft = jax.nn.softmax(logits)
    hard = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1])
    return hard + soft - jax.lax.stop_gradient(soft)


def _against(
    contexts: jax.Array, codes: jax.Array, chosen: jax.Array, others: jax.Array
) -> jax.Array:
    """Of one utterance: cosines [F, 1 + K] of unit contexts [F, D] to their codes [F, D] and to
    those of the frames `others` [F, K], -inf where these have chosen the same entries [F, groups].
    """
    positive = jnp.sum(contexts * codes, axis=-1, keepdims=True)
    all_pairs = jnp.einsum("fd,gd->fg", contexts, codes)  # few frames: less than to gather rows
    negatives = jnp.take_along_axis(all_pairs, others, axis=1)
    same = (chosen[others] == chosen[:, None]).all(-1)
    return jnp.concatenate([positive, jnp.where(same, -jnp.inf, negatives)], axis=1)
