"""Momentum contrast: a queue of keys from a slowly moving encoder (v1, v2), and without it (v3)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from jaxcl import memory
from jaxcl.losses import info_nce
from jaxcl.methods.health import contrast_health, in_batch_health, spread_health
from jaxcl.methods.method import (
    Batch,
    Metrics,
    Params,
    check_positive,
    check_queue,
    example_numbers,
    two_views,
)
from jaxcl.methods.networks import forward, init_networks
from jaxcl.methods.schedules import Cosine
from jaxcl.methods.shuffle import norm_groups, shuffle_rows, unshuffle_rows
from jaxcl.methods.target import PredictingMethod, TargetMethod, TargetState, start_target
from jaxcl.similarity import l2_normalize


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MoCoState(TargetState):
    """State of MoCo v1 and v2."""

    queue: memory.Queue


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoCo(TargetMethod):
    """MoCo v1 (He et al., 2020, algorithm 1) and v2 (Chen, Fan, Girshick & He, 2020).

    The two differ in projector, temperature and views only: v1 has `moco_v1_projector` and
    temperature 0.07, v2 `moco_v2_projector` and 0.2. Batch statistics leak which key belongs to
    which query unless encoders have `batch_norm_groups` of at least 2 on one device (or 1 on
    several) and keys are shuffled; `shuffle` does that.
    """

    temperature: float = 0.2
    """Divides similarities; > 0."""
    queue_size: int = 65536
    """Keys of past batches that serve as negatives."""
    momentum: float | Cosine = 0.999
    """Share of itself that the key encoder keeps at each step, 0 to 1."""
    shuffle: bool = True
    """Encode keys in another order than queries, so that their batch statistics differ."""
    mask_own_keys: bool = False
    """Leave an example's own old keys out of its negatives; for queues near or above the data set's
    size. The paper does not."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, temperature=self.temperature, queue_size=self.queue_size)

    def init(self, key: jax.Array, batch: Batch) -> tuple[Params, MoCoState]:
        network_key, queue_key = jax.random.split(key)
        params, batch_stats, outputs = init_networks(self.networks, network_key, batch.views[0])
        return params, MoCoState(
            batch_stats=batch_stats,
            target_params=start_target(params),
            target_batch_stats=start_target(batch_stats),
            queue=memory.init_queue(
                queue_key, self.queue_size, outputs.shape[-1], ids=self.mask_own_keys
            ),
        )

    def represent(
        self,
        params: Params,
        state: MoCoState,
        batch: Batch,
        *,
        key: jax.Array,
        axis_name: str | None = None,
    ) -> tuple[tuple[jax.Array, ...], MoCoState]:
        _, batch, put_back = self.row_by_row(batch, key=key, axis_name=axis_name)
        embeddings, state = self._represent_in_order(params, state, batch, key, axis_name)
        return put_back(embeddings), state

    def _represent_in_order(
        self, params: Params, state: Any, batch: Batch, key: jax.Array, axis_name: str | None
    ) -> tuple[tuple[jax.Array, ...], Any]:
        """Embeddings of queries, then as many of keys, each in the order of its views."""
        query_view, key_view = two_views(batch, self)
        queries, batch_stats = forward(
            self.networks,
            params,
            state.batch_stats,
            query_view,
            train=True,
            axis_name=axis_name,
            draws=batch.draws(key, axis_name),
        )
        keys, target_batch_stats = forward(
            self.networks,
            state.target_params,
            state.target_batch_stats,
            key_view,
            train=True,
            axis_name=axis_name,
        )
        keys = jax.lax.stop_gradient(l2_normalize(keys))
        state = dataclasses.replace(
            state, batch_stats=batch_stats, target_batch_stats=target_batch_stats
        )
        return (queries, keys), state

    def row_by_row(
        self, batch: Batch, *, key: jax.Array, axis_name: str | None = None
    ) -> tuple["MoCo", Batch, Callable[[Any], Any]]:
        if not self.shuffle:
            return self, batch, lambda embeddings: embeddings
        groups = norm_groups(self.encoder)
        query_view, key_view = two_views(batch, self)
        shuffled = shuffle_rows(key, key_view, axis_name, groups=groups)

        def put_back(embeddings: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            half = len(embeddings) // 2
            keys = (
                unshuffle_rows(key, each, axis_name, groups=groups) for each in embeddings[half:]
            )
            return *embeddings[:half], *keys

        return (
            dataclasses.replace(self, shuffle=False),
            dataclasses.replace(batch, views=(query_view, shuffled)),
            put_back,
        )

    def objective(
        self,
        params: Params,
        state: MoCoState,
        embeddings: tuple[jax.Array, jax.Array],
        batch: Batch,
        *,
        progress: jax.Array | float,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, MoCoState, Metrics]:
        queries, keys = embeddings
        negatives, past = state.queue.embeddings, state.queue.ids
        ids = example_numbers(batch, self) if self.mask_own_keys else None
        losses = info_nce(
            queries, keys, negatives, temperature=self.temperature, ids=ids, negative_ids=past
        )
        is_negative = None if ids is None or past is None else ids[:, None] != past
        metrics = contrast_health(queries, keys, negatives, is_negative)
        queue = memory.enqueue(state.queue, keys, ids=ids, axis_name=axis_name)
        metrics |= spread_health(queries, axis_name)
        return losses.mean(), dataclasses.replace(state, queue=queue), metrics

    def check(self, *, batch_size: int, examples: int) -> list[str]:
        check_queue(self.queue_size, batch_size)
        notices = []
        if self.queue_size > examples and not self.mask_own_keys:
            notices.append(
                f"queue_size {self.queue_size} is larger than the data set ({examples} examples): "
                "a picture's own old keys are among its negatives (see method.mask_own_keys)"
            )
        if not self.shuffle and getattr(self.encoder, "batch_norm_groups", None) is not None:
            notices.append(
                "keys are not shuffled, so a query shares its group's batch statistics with the "
                "key that is to be found: set method.shuffle"
            )
        return notices + _leaking_statistics(encoder=self.encoder, projector=self.projector)


def _leaking_statistics(**networks: nn.Module | None) -> list[str]:
    """Says which networks normalize by statistics that tell the batch's keys from the queue's."""
    return [
        f"the {name}'s batch statistics are those of the whole batch, which tell MoCo's keys from "
        f"its queue: set method.{name}.batch_norm_groups"
        for name, network in networks.items()
        if getattr(network, "batch_norm_groups", 1) is None
        and (
            getattr(network, "batch_norm", True)
            or getattr(network, "output_norm", "none") != "none"
        )
    ]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MoCoV2PlusState(TargetState):
    """State of MoCo v2+."""

    queues: tuple[memory.Queue, memory.Queue]
    """Past keys of the first and of the second view."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoCoV2Plus(PredictingMethod):
    """MoCo v2+ (da Costa et al., 2022, of solo-learn): symmetric, with a queue for each view.

    Keys are not shuffled: give the encoder groups of batch statistics.
    """

    temperature: float = 0.2
    """Divides similarities; > 0."""
    queue_size: int = 32_768
    """Keys of past batches in each queue."""
    momentum: float | Cosine = Cosine(0.99, 0.999)
    """Share of itself that the key encoder keeps at each step, 0 to 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, temperature=self.temperature, queue_size=self.queue_size)

    def init(self, key: jax.Array, batch: Batch) -> tuple[Params, MoCoV2PlusState]:
        network_key, *queue_keys = jax.random.split(key, 3)
        params, batch_stats, outputs = init_networks(self.networks, network_key, batch.views[0])
        first, second = (
            memory.init_queue(queue_key, self.queue_size, outputs.shape[-1])
            for queue_key in queue_keys
        )
        return params, MoCoV2PlusState(
            batch_stats=batch_stats,
            target_params=self._start_target(params),
            target_batch_stats=self._start_target(batch_stats),
            queues=(first, second),
        )

    def objective(
        self,
        params: Params,
        state: MoCoV2PlusState,
        embeddings: tuple[jax.Array, ...],
        batch: Batch,
        *,
        progress: jax.Array | float,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, MoCoV2PlusState, Metrics]:
        query0, query1, key0, key1 = embeddings
        queue0, queue1 = state.queues
        past0, past1 = queue0.embeddings, queue1.embeddings
        one_way = info_nce(query0, key1, past1, temperature=self.temperature)
        other_way = info_nce(query1, key0, past0, temperature=self.temperature)
        metrics = contrast_health(query0, key1, past1) | spread_health(query0, axis_name)
        new0, new1 = l2_normalize(key0), l2_normalize(key1)
        queues = (
            memory.enqueue(queue0, new0, axis_name=axis_name),
            memory.enqueue(queue1, new1, axis_name=axis_name),
        )
        loss = (one_way + other_way).mean() / 2
        return loss, dataclasses.replace(state, queues=queues), metrics

    def check(self, *, batch_size: int, examples: int) -> list[str]:
        check_queue(self.queue_size, batch_size)
        notices = _leaking_statistics(encoder=self.encoder, projector=self.projector)
        if self.queue_size > examples:
            notices.append(
                f"queue_size {self.queue_size} is larger than the data set ({examples} examples): "
                "a picture's own old keys are among its negatives"
            )
        return notices


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoCoV3(PredictingMethod):
    """MoCo v3 (Chen, Xie & He, 2021, algorithm 1): in-batch negatives, a predictor, no queue.

    The loss is symmetric over the views and multiplied by 2 * temperature, as in the algorithm.
    """

    temperature: float = 1.0
    """Divides similarities; > 0. The paper has 1.0 for ResNet-50, 0.2 for ViT."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, temperature=self.temperature)

    def check(self, *, batch_size: int, examples: int) -> list[str]:
        return self.missing_predictor()

    def objective(
        self,
        params: Params,
        state: TargetState,
        embeddings: tuple[jax.Array, ...],
        batch: Batch,
        *,
        progress: jax.Array | float,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, TargetState, Metrics]:
        queries0, queries1, keys0, keys1 = embeddings
        options: dict[str, Any] = {"temperature": self.temperature, "axis_name": axis_name}
        losses = info_nce(queries0, keys1, **options) + info_nce(queries1, keys0, **options)
        loss = 2 * self.temperature * losses.mean()
        metrics = in_batch_health(queries0, keys1, axis_name)
        metrics["chance_loss"] *= 4 * self.temperature
        return loss, state, metrics
