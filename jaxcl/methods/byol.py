"""Bootstrap your own latent: predict what a slow average of the network says, with no negatives."""

import dataclasses

import jax

from jaxcl.losses import negative_cosine
from jaxcl.methods.health import in_batch_health
from jaxcl.methods.method import Batch, Metrics, Params
from jaxcl.methods.target import PredictingMethod, TargetState


@dataclasses.dataclass(frozen=True, kw_only=True)
class BYOL(PredictingMethod):
    """BYOL (Grill et al., 2020): squared distance of unit vectors, in both directions.

    Without a predictor, or with a target that follows at once (momentum 0), nothing keeps the
    embeddings apart.
    """

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
        prediction0, prediction1, target0, target1 = embeddings
        one_way = 2 + 2 * negative_cosine(prediction0, target1)
        other_way = 2 + 2 * negative_cosine(prediction1, target0)
        metrics = in_batch_health(prediction0, target1, axis_name)
        del metrics["chance_loss"]
        return (one_way + other_way).mean(), state, metrics
