"""CURL: two crops of one observation find each other, beside a task that one learns by reward."""

import dataclasses

import flax.linen as nn
import jax

from jaxcl.losses import bilinear_nce
from jaxcl.methods.health import in_batch_health
from jaxcl.methods.method import Batch, Metrics, Params, two_views
from jaxcl.methods.networks import chain, forward, init_networks
from jaxcl.methods.schedules import Cosine
from jaxcl.methods.target import TargetMethod, TargetState, start_target
from jaxcl.similarity.rows import product


@dataclasses.dataclass(frozen=True, kw_only=True)
class CURL(TargetMethod):
    """CURL (Laskin et al., 2020, section 4.5): queries of the online network find the target's keys
    by a learned product, in the batch.

    Observations are stacks of frames, [H, W, C of all frames]; a view is one crop of the whole
    stack. The authors' projector is `encoders.TanhProjector(50)`. In a loop of one's own, beside
    the losses of actor and critic: `init` once; at each update the gradient of `loss`, a step of
    the optimizer, and `end_step`; actor and critic read `embed`, or the encoder itself.
    """

    momentum: float | Cosine = 0.95
    """Share of itself that the target keeps at each step, 0 to 1."""

    def init(self, key: jax.Array, batch: Batch) -> tuple[Params, TargetState]:
        params, batch_stats, outputs = init_networks(self.networks, key, batch.views[0])
        target = start_target(params)
        width = outputs.shape[-1]
        product_key = jax.random.fold_in(key, len(self.networks))  # those before are theirs
        weights = jax.random.uniform(product_key, (width, width))
        return params | {"bilinear": {"kernel": weights}}, TargetState(
            batch_stats, target_params=target, target_batch_stats=start_target(batch_stats)
        )

    def represent(
        self,
        params: Params,
        state: TargetState,
        batch: Batch,
        *,
        key: jax.Array,
        axis_name: str | None = None,
    ) -> tuple[tuple[jax.Array, ...], TargetState]:
        """The queries of the first view, and the target's keys of the second, [N, D] each."""
        first, second = two_views(batch, self)
        queries, batch_stats = forward(
            self._both, params, state.batch_stats, first,
            train=True, axis_name=axis_name, draws=batch.draws(key, axis_name),
        )  # fmt: skip
        keys, target_batch_stats = forward(
            self._both, state.target_params, state.target_batch_stats, second,
            train=True, axis_name=axis_name,
        )  # fmt: skip
        state = dataclasses.replace(
            state, batch_stats=batch_stats, target_batch_stats=target_batch_stats
        )
        return (queries, jax.lax.stop_gradient(keys)), state

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
        queries, keys = embeddings
        weights = params["bilinear"]["kernel"]
        losses = bilinear_nce(queries, keys, weights, axis_name=axis_name)
        metrics = in_batch_health(product("nd,de->ne", queries, weights), keys, axis_name)
        return losses.mean(), state, metrics

    @property
    def _both(self) -> dict[str, nn.Module]:
        return chain(encoder=self.encoder, projector=self.projector)
