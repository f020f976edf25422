"""Momentum contrast of every cell of the feature map, beside that of the whole image: DenseCL."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl import memory
from jaxcl.encoders import features_and_map
from jaxcl.losses import info_nce
from jaxcl.methods.draws import Draws
from jaxcl.methods.method import (
    Batch,
    Metrics,
    Params,
    example_numbers,
    two_views,
)
from jaxcl.methods.moco import MoCo, MoCoState
from jaxcl.methods.networks import chain, forward, init_networks, network_streams
from jaxcl.methods.target import start_target
from jaxcl.similarity import l2_normalize


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DenseCLState(MoCoState):
    """State of DenseCL."""

    dense_queue: memory.Queue
    """Past keys of the dense projector, each the mean over its image."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseCL(MoCo):
    """DenseCL (Wang et al., 2021): MoCo v2, and the same for every cell of the feature map.

    A cell's positive is the key of that cell of the other view whose encoder features are nearest
    to its own (section 3.4); its negatives are past keys, each the mean over an image (section
    3.3). As in the authors' code, the mean is taken before keys are normalized. The encoder has to
    keep its map (`encoders.features_and_map`), of more than one cell.
    """

    dense_projector: nn.Module | None = dataclasses.field(default=None, kw_only=False)
    """Maps the features of one cell to its embedding, as 1x1 convolutions do; the paper's is like
    the projector. None: the features are the embeddings."""
    dense_weight: float = 0.5
    """Share of the dense loss in the whole, 0 to 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.dense_weight, int | float) and not 0 <= self.dense_weight <= 1:
            raise ValueError(f"DenseCL: dense_weight must be 0 to 1, got {self.dense_weight}")

    def init(self, key: jax.Array, batch: Batch) -> tuple[Params, DenseCLState]:
        network_key, dense_key, *queue_keys = jax.random.split(key, 4)
        params, batch_stats, outputs = init_networks(self._whole, network_key, batch.views[0])

        def cells(image: jax.Array) -> jax.Array:
            return _cells(features_and_map(self.encoder, _variables(params, batch_stats), image)[1])

        of_image = jax.eval_shape(cells, jnp.asarray(batch.views[0][:1]))
        dense_params, dense_stats, dense_outputs = init_networks(
            self._dense, dense_key, jnp.zeros(of_image.shape[1:])
        )
        params, batch_stats = params | dense_params, batch_stats | dense_stats
        queue, dense_queue = (
            memory.init_queue(queue_key, self.queue_size, rows.shape[-1], ids=self.mask_own_keys)
            for queue_key, rows in zip(queue_keys, (outputs, dense_outputs), strict=True)
        )
        return params, DenseCLState(
            batch_stats=batch_stats,
            target_params=start_target(params),
            target_batch_stats=start_target(batch_stats),
            queue=queue,
            dense_queue=dense_queue,
        )

    def _represent_in_order(
        self, params: Params, state: Any, batch: Batch, key: jax.Array, axis_name: str | None
    ) -> tuple[tuple[jax.Array, ...], DenseCLState]:
        """Of queries, then of keys: embeddings [N, D], of the S cells of their maps [N, S, D'], and
        the features by which cells are matched [N, S, F]."""
        query_view, key_view = two_views(batch, self)
        queries, batch_stats = self._encode(
            params, state.batch_stats, query_view, axis_name, batch.draws(key, axis_name)
        )
        keys, target_batch_stats = self._encode(
            state.target_params, state.target_batch_stats, key_view, axis_name
        )
        state = dataclasses.replace(
            state, batch_stats=batch_stats, target_batch_stats=target_batch_stats
        )
        embedding, *of_cells = jax.lax.stop_gradient(keys)
        return (*queries, l2_normalize(embedding), *of_cells), state

    def objective(
        self,
        params: Params,
        state: Any,
        embeddings: tuple[jax.Array, ...],
        batch: Batch,
        *,
        progress: jax.Array | float,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, DenseCLState, Metrics]:
        queries, query_cells, query_features, keys, key_cells, key_features = embeddings
        loss, moved, metrics = super().objective(
            params, state, (queries, keys), batch, progress=progress, axis_name=axis_name
        )
        nearest = nearest_cells(query_features, key_features)
        positives = jnp.take_along_axis(key_cells, nearest[..., None], axis=1)
        ids = example_numbers(batch, self) if self.mask_own_keys else None
        dense_losses = info_nce(
            _rows(query_cells),
            _rows(positives),
            state.dense_queue.embeddings,
            temperature=self.temperature,
            ids=None if ids is None else jnp.repeat(ids, query_cells.shape[1]),
            negative_ids=state.dense_queue.ids,
        )
        dense_loss = dense_losses.mean()
        pooled = l2_normalize(key_cells.mean(1))
        state = dataclasses.replace(
            state,
            queue=moved.queue,
            dense_queue=memory.enqueue(state.dense_queue, pooled, ids=ids, axis_name=axis_name),
        )
        # As both queues are as long, chance of their weighted sum is that of either.
        loss = (1 - self.dense_weight) * loss + self.dense_weight * dense_loss
        return loss, state, metrics | {"dense_loss": dense_loss}

    @property
    def _whole(self) -> dict[str, nn.Module]:
        return chain(encoder=self.encoder, projector=self.projector)

    @property
    def _dense(self) -> dict[str, nn.Module]:
        return chain(dense_projector=self.dense_projector)

    def _encode(
        self,
        params: Params,
        batch_stats: dict[str, Any],
        view: jax.Array,
        axis_name: str | None,
        draws: Draws | None = None,
    ) -> tuple[tuple[jax.Array, ...], dict[str, Any]]:
        """Of a view the embeddings, those of its cells, the cells' features; and statistics."""
        with network_streams(draws, "encoder", len(view)) as rngs:
            features, feature_map, of_encoder = features_and_map(
                self.encoder,
                _variables(params, batch_stats),
                view,
                train=True,
                axis_name=axis_name,
                rngs=rngs,
            )
        cells = _cells(feature_map)
        batch_stats = batch_stats | {"encoder": of_encoder}
        options: dict[str, Any] = {"train": True, "axis_name": axis_name}
        embeddings, batch_stats = forward(
            chain(projector=self.projector), params, batch_stats, features, **options
        )
        rows, batch_stats = forward(self._dense, params, batch_stats, _rows(cells), **options)
        dense = rows.reshape(*cells.shape[:2], -1)
        return (embeddings, dense, jax.lax.stop_gradient(cells)), batch_stats


def nearest_cells(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """Which cell of its example's keys is most like each cell of the queries, by cosine
    (Wang et al., 2021, section 3.4).

    Args:
      queries: [N, S, F] features of cells.
      keys: [N, T, F].

    Returns:
      [N, S] int32, 0 to T - 1; the first where several are alike.
    """
    similarities = jnp.einsum("nsf,ntf->nst", l2_normalize(queries), l2_normalize(keys))
    return similarities.argmax(-1)


def _variables(params: Params, batch_stats: dict[str, Any]) -> dict[str, Any]:
    return {"params": params["encoder"], "batch_stats": batch_stats["encoder"]}


def _cells(feature_map: jax.Array) -> jax.Array:
    """[N, H, W, F] as [N, H * W, F]; a clear error where there is one cell only."""
    count, height, width, channels = feature_map.shape
    if height * width == 1:
        raise ValueError(
            "DenseCL contrasts the cells of the encoder's feature map, which is 1x1 here: give "
            "larger images, or an encoder that shrinks them less"
        )
    return feature_map.reshape(count, height * width, channels)


def _rows(cells: jax.Array) -> jax.Array:
    """[N, S, D] as [N * S, D]."""
    return cells.reshape(-1, cells.shape[-1])
