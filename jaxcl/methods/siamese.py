"""One network, a predictor on one side of the comparison: SimSiam, and NNCLR with neighbours."""

import dataclasses
from typing import Any, Literal, TypeVar

import flax.linen as nn
import jax

from jaxcl import memory
from jaxcl.choices import check_choices
from jaxcl.losses import info_nce, negative_cosine, nt_xent
from jaxcl.methods.health import in_batch_health
from jaxcl.methods.method import (
    Batch,
    EncoderMethod,
    EncoderState,
    Metrics,
    Params,
    check_positive,
    check_queue,
    two_views,
)
from jaxcl.methods.networks import chain, forward_each, init_networks
from jaxcl.similarity import l2_normalize


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NNCLRState(EncoderState):
    """State of NNCLR."""

    queue: memory.Queue
    """The support set: embeddings of past batches."""


State = TypeVar("State", bound=EncoderState)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Siamese(EncoderMethod):
    """Encodes both views with one network, and predicts from each."""

    predictor: nn.Module | None = dataclasses.field(default=None, kw_only=False)
    """Maps embeddings to predictions; None: they are the predictions."""

    def represent(
        self,
        params: Params,
        state: State,
        batch: Batch,
        *,
        key: jax.Array,
        axis_name: str | None = None,
    ) -> tuple[tuple[jax.Array, ...], State]:
        """The predictions of both views, then the embeddings of both, [N, D] each."""
        networks = chain(encoder=self.encoder, projector=self.projector)
        options: dict[str, Any] = {
            "axis_name": axis_name,
            "draws": batch.draws(key, axis_name),
        }
        embeddings, batch_stats = forward_each(
            networks, params, state.batch_stats, two_views(batch, self), **options
        )
        predictions, batch_stats = forward_each(
            chain(predictor=self.predictor), params, batch_stats, embeddings, **options
        )
        return (*predictions, *embeddings), dataclasses.replace(state, batch_stats=batch_stats)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimSiam(_Siamese):
    """SimSiam (Chen & He, 2021, algorithm 1): predict the other view, which is held constant.

    Without the predictor, or the stop of the gradient, the embeddings collapse.
    """

    stop_gradient: bool = True
    """Hold what is predicted constant; the paper shows what happens if not."""

    def init(self, key: jax.Array, batch: Batch) -> tuple[Params, EncoderState]:
        params, batch_stats, _ = init_networks(self.networks, key, batch.views[0])
        return params, EncoderState(batch_stats)

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
        prediction0, prediction1, target0, target1 = embeddings
        if self.stop_gradient:
            target0, target1 = jax.lax.stop_gradient((target0, target1))
        one_way = negative_cosine(prediction0, target1)
        other_way = negative_cosine(prediction1, target0)
        metrics = in_batch_health(target0, target1, axis_name)
        del metrics["chance_loss"]
        return (one_way + other_way).mean() / 2, state, metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class NNCLR(_Siamese):
    """NNCLR (Dwibedi et al., 2021): the positive is the neighbour of the other view.

    Neighbours come from a queue of past embeddings of the first view, and the loss is symmetric in
    the views.
    """

    temperature: float = 0.1
    """Divides similarities; > 0."""
    queue_size: int = 98_304
    """Past embeddings among which neighbours are looked for."""
    contrast: Literal["info_nce", "nt_xent"] = "info_nce"
    """The loss: of each neighbour, with other examples' predictions as negatives (the paper's); or
    of neighbours and predictions alike, with all other examples' of both, as lightly has it."""

    def __post_init__(self) -> None:
        check_choices(self)
        check_positive(self, temperature=self.temperature, queue_size=self.queue_size)

    def init(self, key: jax.Array, batch: Batch) -> tuple[Params, NNCLRState]:
        network_key, queue_key = jax.random.split(key)
        params, batch_stats, outputs = init_networks(self.networks, network_key, batch.views[0])
        queue = memory.init_queue(queue_key, self.queue_size, outputs.shape[-1])
        return params, NNCLRState(batch_stats, queue)

    def objective(
        self,
        params: Params,
        state: NNCLRState,
        embeddings: tuple[jax.Array, ...],
        batch: Batch,
        *,
        progress: jax.Array | float,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, NNCLRState, Metrics]:
        prediction0, prediction1, embedding0, embedding1 = embeddings
        neighbour0, neighbour1 = (
            memory.nearest(state.queue, rows, 1).embeddings[:, 0]
            for rows in (embedding0, embedding1)
        )
        options: dict[str, Any] = {"temperature": self.temperature, "axis_name": axis_name}
        contrast = nt_xent if self.contrast == "nt_xent" else info_nce
        one_way = contrast(neighbour0, prediction1, **options)
        other_way = contrast(neighbour1, prediction0, **options)
        new = jax.lax.stop_gradient(l2_normalize(embedding0))
        state = dataclasses.replace(
            state, queue=memory.enqueue(state.queue, new, axis_name=axis_name)
        )
        metrics = in_batch_health(prediction0, embedding1, axis_name)
        return (one_way + other_way).mean() / 2, state, metrics

    def check(self, *, batch_size: int, examples: int) -> list[str]:
        check_queue(self.queue_size, batch_size)
        if self.queue_size > examples:
            return [
                f"queue_size {self.queue_size} is larger than the data set ({examples} examples): "
                "a picture's nearest neighbour is likely an older embedding of itself"
            ]
        return []
