"""Supervised contrast: every example of a class is a positive of the others."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxcl.losses import sup_con
from jaxcl.methods.health import in_batch_health
from jaxcl.methods.method import (
    Batch,
    EncoderMethod,
    EncoderState,
    Metrics,
    Params,
    check_positive,
    two_views,
)
from jaxcl.methods.networks import forward, init_networks

_OFTEN, _TOO_OFTEN = 1e-3, 0.1
"""Shares of batches of one class from which on it is said, and refused."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SupCon(EncoderMethod):
    """SupCon (Khosla et al., 2020, L_out): the first of two stages; a linear probe is the second.

    Both views pass the network as one batch. The data need labels, of several classes. A batch that
    happens to be of one class has no negatives: its loss, at least log(2N - 1) of N examples, is
    finite and its gradient pulls all together; where that is to be expected, `check_labels` says
    so.
    """

    temperature: float = 0.1
    """Divides similarities; > 0."""
    base_temperature: float | None = None
    """Multiply the loss by temperature / this (0.07 in the authors' code); None: do not."""

    def __post_init__(self) -> None:
        check_positive(self, temperature=self.temperature)
        if self.base_temperature is not None:
            check_positive(self, base_temperature=self.base_temperature)

    def init(self, key: jax.Array, batch: Batch) -> tuple[Params, EncoderState]:
        params, batch_stats, _ = init_networks(self.networks, key, batch.views[0])
        return params, EncoderState(batch_stats)

    def represent(
        self,
        params: Params,
        state: EncoderState,
        batch: Batch,
        *,
        key: jax.Array,
        axis_name: str | None = None,
    ) -> tuple[tuple[jax.Array, jax.Array], EncoderState]:
        views = jnp.concatenate(two_views(batch, self))
        embeddings, batch_stats = forward(
            self.networks,
            params,
            state.batch_stats,
            views,
            train=True,
            axis_name=axis_name,
            draws=batch.draws(key, axis_name),
        )
        z0, z1 = jnp.split(embeddings, 2)
        return (z0, z1), dataclasses.replace(state, batch_stats=batch_stats)

    def objective(
        self,
        params: Params,
        state: EncoderState,
        embeddings: tuple[jax.Array, jax.Array],
        batch: Batch,
        *,
        progress: jax.Array | float,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, EncoderState, Metrics]:
        if batch.label is None:
            raise ValueError(
                "SupCon needs Batch.label: name the labels of the data (as label='label')"
            )
        losses = sup_con(
            jnp.concatenate(embeddings),
            jnp.tile(batch.label, 2),
            temperature=self.temperature,
            axis_name=axis_name,
        )
        scale = 1 if self.base_temperature is None else self.temperature / self.base_temperature
        metrics = in_batch_health(*embeddings, axis_name)
        del metrics["chance_loss"]  # it hangs on the classes of the batch
        return scale * losses.mean(), state, metrics

    def check(self, *, batch_size: int, examples: int) -> list[str]:
        if batch_size < 2:
            raise ValueError(
                f"SupCon: a batch of {batch_size} has no negatives, which are examples of other "
                "classes: set train.batch_size to 2 or more"
            )
        return []

    def check_labels(self, labels: np.ndarray | None, *, batch_size: int) -> list[str]:
        if labels is None:
            raise ValueError(
                "SupCon needs labels, and the data have none: name them (as in label='label', or "
                "labels='subfolders')"
            )
        classes, counts = np.unique(labels, return_counts=True)
        if len(classes) == 1:
            raise ValueError(
                f"SupCon: all {len(labels)} examples have the label {classes[0]}, so there are no "
                "negatives: give data of two classes or more, or choose a method without labels"
            )
        alone = float(np.sum((counts / len(labels)) ** batch_size))  # as if drawn independently
        if alone > _TOO_OFTEN:
            raise ValueError(
                f"SupCon: about {alone:.0%} of the batches of {batch_size} are of one class, which "
                "have no negatives: set train.batch_size higher"
            )
        if alone > _OFTEN:
            return [
                f"about {alone:.1%} of the batches of {batch_size} are of one class, which have no "
                "negatives: set train.batch_size higher"
            ]
        return []
