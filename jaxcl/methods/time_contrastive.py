"""Time-contrastive learning of frames: what is seen at one time is alike, by whatever camera."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl.augment.times import far_times, in_order, near_and_far
from jaxcl.choices import check_choices
from jaxcl.losses import info_nce, time_nce, triplet
from jaxcl.methods.health import contrast_health, in_batch_health, spread_health
from jaxcl.methods.method import (
    Batch,
    EncoderMethod,
    EncoderState,
    Metrics,
    Params,
    check_positive,
)
from jaxcl.methods.networks import forward, init_networks
from jaxcl.similarity import l2_normalize


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimeContrastive(EncoderMethod):
    """Time-contrastive networks (Sermanet et al., 2018), of one camera or of two that run together.

    Views are stretches of time [N, T, ...], of whose frames the encoder takes each by itself. With
    one view, a frame near in time is the positive, frames far from it are negatives. With two, the
    positive is what the other camera sees at that time. "triplet" is over a time that is drawn of
    each stretch, its negatives of the anchor's own camera; "n_pairs" (Sohn, 2016) and "info_nce"
    with two views over all times of it, both ways, the other camera's other times as negatives.
    "order" (R3M: Nair et al., 2022, eq. 1) takes one view: of three times the nearer is the
    positive.
    """

    contrast: Literal["triplet", "n_pairs", "info_nce", "order"] = "triplet"
    """The loss: squared distances and a margin; dot products; cosines over a temperature;
    distances."""
    near: int = 2
    """With one view: how far away a positive is at most, in frames."""
    far: int = 4
    """Negatives are more than this away, in frames; of two views taken whole, "n_pairs" and
    "info_nce", all other times."""
    negatives: int = 1
    """How many are drawn."""
    margin: float = 0.2
    """Of "triplet", between squared distances; >= 0."""
    temperature: float = 0.1
    """Of "info_nce"; > 0."""
    unit: bool = True
    """Give embeddings unit length, for "triplet"."""

    def __post_init__(self) -> None:
        check_choices(self)
        check_positive(self, temperature=self.temperature)
        if self.margin < 0 or self.negatives < 1 or not 1 <= self.near <= self.far:
            raise ValueError(
                f"TimeContrastive: margin {self.margin}, negatives {self.negatives}, near "
                f"{self.near} and far {self.far}; expected margin >= 0, negatives >= 1 and "
                "1 <= near <= far"
            )

    @property
    def feature_networks(self) -> dict[str, nn.Module]:
        """The embeddings are the features: what is alike across cameras."""
        return self.networks

    def init(self, key: jax.Array, batch: Batch) -> tuple[Params, EncoderState]:
        params, batch_stats, _ = init_networks(self.networks, key, self._views(batch)[0][:, 0])
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
        """What is contrasted: of drawn times anchors [N, D], positives [N, D] and negatives
        [N, K, D], of "order" three times [N, D]; of all times both views' embeddings [N, T, D]."""
        views, draws = self._views(batch), batch.draws(key, axis_name)
        # Time by time, as if each were a view: so draws hang on examples and times.
        count, times = views[0].shape[:2]
        rows = jnp.concatenate([jnp.swapaxes(view, 0, 1) for view in views])
        rows = rows.reshape(-1, *rows.shape[2:])
        found, batch_stats = forward(
            self.networks, params, state.batch_stats, rows,
            train=True, axis_name=axis_name, draws=draws,
        )  # fmt: skip
        found = jnp.swapaxes(found.reshape(len(views), times, count, -1), 1, 2)
        state = dataclasses.replace(state, batch_stats=batch_stats)
        if self._takes_all(batch):
            return tuple(found), state

        def drawn(number: jax.Array, embeddings: jax.Array) -> tuple[jax.Array, ...]:
            """Of one example, [views, T, D]."""
            own = jax.random.fold_in(draws.key, number)
            if self.contrast == "order":
                chosen = embeddings[0, in_order(own, times, 3)]
                return chosen[0], chosen[1], chosen[2]
            far, many = self.far, self.negatives
            if len(embeddings) == 1:
                time, near, others = near_and_far(own, times, near=self.near, far=far, count=many)
            else:
                time, others = far_times(own, times, far=far, count=many)
                near = time
            return embeddings[0, time], embeddings[-1, near], embeddings[0, others]

        return jax.vmap(drawn, in_axes=(0, 1))(draws.index, found), state

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
        if self._takes_all(batch):
            first, second = embeddings
            return self._over_times(first, second, state, axis_name)
        anchors, positives, negatives = embeddings
        if self.unit and self.contrast == "triplet":
            anchors, positives, negatives = map(l2_normalize, embeddings)
        if self.contrast == "order":
            losses = time_nce(anchors, positives, negatives, axis_name=axis_name)
            metrics = in_batch_health(anchors, positives, axis_name)
            del metrics["chance_loss"]  # hangs on distances
            return losses.mean(), state, metrics
        if self.contrast == "triplet":
            losses = triplet(
                anchors, positives, negatives, margin=self.margin, distance="squared_euclidean"
            )
        else:
            losses = info_nce(anchors, positives, negatives, **self._likeness)
        of_each = jax.vmap(lambda a, p, n: contrast_health(a[None], p[None], n))
        metrics = {name: x.mean() for name, x in of_each(anchors, positives, negatives).items()}
        if self.contrast == "triplet":
            del metrics["chance_loss"]
        return losses.mean(), state, metrics | spread_health(anchors, axis_name)

    def _over_times(
        self, first: jax.Array, second: jax.Array, state: EncoderState, axis_name: str | None
    ) -> tuple[jax.Array, EncoderState, Metrics]:
        """Both ways, of each stretch by itself."""
        contrast = jax.vmap(lambda x, y: info_nce(x, y, **self._likeness))
        losses = (contrast(first, second) + contrast(second, first)) / 2
        of_each = jax.vmap(in_batch_health)
        metrics = {name: value.mean() for name, value in of_each(first, second).items()}
        rows = first.reshape(-1, first.shape[-1])
        return losses.mean(), state, metrics | spread_health(rows, axis_name)

    @property
    def _likeness(self) -> dict[str, Any]:
        if self.contrast == "n_pairs":
            return {"temperature": 1.0, "similarity": "dot"}
        return {"temperature": self.temperature}

    def _takes_all(self, batch: Batch) -> bool:
        return len(batch.views) == 2 and self.contrast in ("n_pairs", "info_nce")

    def _views(self, batch: Batch) -> tuple[jax.Array, ...]:
        most = 1 if self.contrast == "order" else 2
        shapes = {view.shape for view in batch.views}
        if not 1 <= len(batch.views) <= most or len(shapes) > 1 or batch.views[0].ndim < 3:
            raise ValueError(
                f"TimeContrastive takes {'one view' if most == 1 else 'one view or two'} "
                f"[N, T, ...], alike in shape, of stretches of time; got {sorted(shapes)}"
            )
        return batch.views
