"""Methods over prototypes, and views of several sizes: SwAV and DINO."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl import memory
from jaxcl.encoders import Prototypes
from jaxcl.losses import dino, swav, update_center
from jaxcl.methods.health import in_batch_health
from jaxcl.methods.method import (
    Batch,
    EncoderMethod,
    EncoderState,
    Method,
    Metrics,
    Params,
    check_positive,
    check_queue,
)
from jaxcl.methods.networks import forward_sizes, init_networks
from jaxcl.methods.schedules import Cosine, Linear, value_at
from jaxcl.methods.target import TargetMethod, TargetState, start_target
from jaxcl.similarity import l2_normalize


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SwAVState(EncoderState):
    """State of SwAV."""

    queues: tuple[memory.Queue, ...]
    """Past embeddings of each assigned view; none without a queue."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DINOState(TargetState):
    """State of DINO."""

    center: jax.Array
    """[K], subtracted from the teacher's logits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SwAV(EncoderMethod):
    """SwAV (Caron et al., 2020): the assignment of one view to prototypes, from any other view.

    Full-size crops come first; small crops only predict. The encoder sees all views of one size as
    one batch, the projector all views.
    """

    prototypes: int = 3000
    """How many prototypes, unit vectors that are learned."""
    temperature: float = 0.1
    """Divides similarities in predictions; > 0."""
    epsilon: float = 0.05
    """Divides similarities in assignments: the smaller, the harder; > 0."""
    iterations: int = 3
    """Of Sinkhorn's algorithm."""
    assigned_views: int = 2
    """How many views, the first, are assigned: the full-size crops."""
    queue_size: int = 0
    """Past embeddings of each assigned view that share in the assignments; 0: none. For batches
    that are small beside the number of prototypes."""
    queue_from: float = 0.0
    """Share of training after which the queue takes part; the paper's starts at epoch 15 of 200."""
    frozen: float = 0.0
    """Share of training in which prototypes stay as they are; the paper's first epoch."""

    def __post_init__(self) -> None:
        check_positive(
            self,
            temperature=self.temperature,
            epsilon=self.epsilon,
            prototypes=self.prototypes,
            iterations=self.iterations,
            assigned_views=self.assigned_views,
        )
        _check_shares(self, queue_from=self.queue_from, frozen=self.frozen)
        if self.queue_size < 0:
            raise ValueError(f"SwAV: queue_size must be 0 (none) or more, got {self.queue_size}")

    def init(self, key: jax.Array, batch: Batch) -> tuple[Params, SwAVState]:
        _check_views(self, batch, self.assigned_views)
        network_key, *queue_keys = jax.random.split(key, 1 + self.assigned_views)
        networks = self.networks | {"prototypes": Prototypes(self.prototypes)}
        params, batch_stats, _ = init_networks(networks, network_key, batch.views[0])
        dim = params["prototypes"]["kernel"].shape[0]
        queues = [
            memory.init_queue(key, self.queue_size, dim) for key in queue_keys if self.queue_size
        ]
        return params, SwAVState(batch_stats, tuple(queues))

    def represent(
        self,
        params: Params,
        state: SwAVState,
        batch: Batch,
        *,
        key: jax.Array,
        axis_name: str | None = None,
    ) -> tuple[tuple[jax.Array, ...], SwAVState]:
        """The embeddings of each view, [N, D] unit rows."""
        _check_views(self, batch, self.assigned_views)
        embeddings, batch_stats = forward_sizes(
            self.networks,
            params,
            state.batch_stats,
            batch.views,
            axis_name=axis_name,
            draws=batch.draws(key, axis_name),
        )
        state = dataclasses.replace(state, batch_stats=batch_stats)
        return tuple(l2_normalize(rows) for rows in embeddings), state

    def objective(
        self,
        params: Params,
        state: SwAVState,
        embeddings: tuple[jax.Array, ...],
        batch: Batch,
        *,
        progress: jax.Array | float,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, SwAVState, Metrics]:
        kernel = params["prototypes"]["kernel"]
        scores = jnp.stack(embeddings) @ kernel

        def losses(memory: jax.Array | None) -> jax.Array:
            return swav(
                scores,
                memory,
                assigned_views=self.assigned_views,
                temperature=self.temperature,
                epsilon=self.epsilon,
                iterations=self.iterations,
                axis_name=axis_name,
            )

        if state.queues:
            past = jnp.stack([queue.embeddings for queue in state.queues]) @ kernel
            each = jax.lax.cond(
                progress >= self.queue_from, lambda: losses(past), lambda: losses(None)
            )
        else:
            each = losses(None)
        queues = tuple(
            memory.enqueue(queue, rows, axis_name=axis_name)
            for queue, rows in zip(state.queues, embeddings, strict=False)
        )
        metrics = in_batch_health(embeddings[0], embeddings[1], axis_name)
        del metrics["chance_loss"]  # assignments are even whatever is learned: it says nothing
        return each.mean(), dataclasses.replace(state, queues=queues), metrics

    def constrain(self, params: Params, before: Params, *, progress: jax.Array | float) -> Params:
        kernel = l2_normalize(params["prototypes"]["kernel"].T).T
        kept = jnp.where(progress < self.frozen, before["prototypes"]["kernel"], kernel)
        return params | {"prototypes": {"kernel": kept}}

    def check(self, *, batch_size: int, examples: int) -> list[str]:
        if self.queue_size:
            check_queue(self.queue_size, batch_size)
        rows = batch_size + self.queue_size
        if rows < self.prototypes:
            return [
                f"{self.prototypes} prototypes share {rows} examples (batch"
                f"{' and queue' if self.queue_size else ''}), so most get none in a step: set "
                "method.prototypes lower, or method.queue_size higher"
            ]
        return []


@dataclasses.dataclass(frozen=True, kw_only=True)
class DINO(TargetMethod):
    """DINO (Caron et al., 2021): the student says of every view what the teacher says of another.

    The teacher, an average of the student, sees the full-size crops, which come first. The encoder
    sees all views of one size as one batch, the projector all views.
    """

    projector: nn.Module | None = dataclasses.field(default=None, kw_only=False)
    """Maps features to what is compared with prototypes, once normalized; the paper's head but its
    last layer. None: the features are."""
    prototypes: int = 65_536
    """Width K of the last layer, whose weights are normalized."""
    temperature: float = 0.1
    """Divides the student's logits; > 0."""
    target_temperature: float | Linear = 0.04
    """Divides the teacher's; > 0. The paper's rises from 0.04 to 0.07 within 30 epochs."""
    center_momentum: float = 0.9
    """Share of the old center that stays, 0 to 1."""
    global_views: int = 2
    """How many views, the first, the teacher sees."""
    momentum: float | Cosine = Cosine(0.996, 1.0)
    """Share of itself that the teacher keeps at each step, 0 to 1."""
    frozen: float = 0.0
    """Share of training in which the last layer stays as it is; the paper's first epoch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(
            self,
            temperature=self.temperature,
            target_temperature=self.target_temperature,
            prototypes=self.prototypes,
            global_views=self.global_views,
        )
        _check_shares(self, frozen=self.frozen, center_momentum=self.center_momentum)

    def init(self, key: jax.Array, batch: Batch) -> tuple[Params, DINOState]:
        _check_views(self, batch, self.global_views)
        params, batch_stats, _ = init_networks(self.networks, key, batch.views[0])
        return params, DINOState(
            batch_stats=batch_stats,
            target_params=start_target(params),
            target_batch_stats=start_target(batch_stats),
            center=jnp.zeros(self.prototypes),
        )

    def represent(
        self,
        params: Params,
        state: DINOState,
        batch: Batch,
        *,
        key: jax.Array,
        axis_name: str | None = None,
    ) -> tuple[tuple[jax.Array, ...], DINOState]:
        """The student's logits of each view, then the teacher's of the global ones, [N, K]."""
        _check_views(self, batch, self.global_views)
        student, batch_stats = forward_sizes(
            self.networks,
            params,
            state.batch_stats,
            batch.views,
            axis_name=axis_name,
            draws=batch.draws(key, axis_name),
        )
        teacher, target_batch_stats = forward_sizes(
            self.networks,
            state.target_params,
            state.target_batch_stats,
            batch.views[: self.global_views],
            axis_name=axis_name,
        )
        state = dataclasses.replace(
            state, batch_stats=batch_stats, target_batch_stats=target_batch_stats
        )
        return (*student, *jax.lax.stop_gradient(teacher)), state

    def objective(
        self,
        params: Params,
        state: DINOState,
        embeddings: tuple[jax.Array, ...],
        batch: Batch,
        *,
        progress: jax.Array | float,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, DINOState, Metrics]:
        student = jnp.stack(embeddings[: -self.global_views])
        teacher = jnp.stack(embeddings[-self.global_views :])
        losses = dino(
            student,
            teacher,
            state.center,
            student_temperature=self.temperature,
            teacher_temperature=value_at(self.target_temperature, progress),
        )
        center = update_center(
            state.center, teacher, momentum=self.center_momentum, axis_name=axis_name
        )
        metrics = in_batch_health(student[0], teacher[1], axis_name)
        metrics["chance_loss"] = jnp.log(jnp.float32(self.prototypes))
        return losses.mean(), dataclasses.replace(state, center=center), metrics

    def constrain(self, params: Params, before: Params, *, progress: jax.Array | float) -> Params:
        kernel, old = params["prototypes"]["kernel"], before["prototypes"]["kernel"]
        return params | {"prototypes": {"kernel": jnp.where(progress < self.frozen, old, kernel)}}

    @property
    def networks(self) -> dict[str, nn.Module]:
        return super().networks | {"prototypes": Prototypes(self.prototypes, weight_norm=True)}


def _check_views(method: Method, batch: Batch, of_full_size: int) -> None:
    name, views = type(method).__name__, batch.views
    if len(views) < 2 or len(views) < of_full_size:
        raise ValueError(
            f"{name} needs at least {max(2, of_full_size)} views; the batch has {len(views)}"
        )
    sizes = [view.shape[1:] for view in views]
    if any(size != sizes[0] for size in sizes[:of_full_size]):
        raise ValueError(f"{name}: the first {of_full_size} views differ in size: {sizes}")
    if any(side > full for size in sizes for side, full in zip(size, sizes[0], strict=True)):
        raise ValueError(
            f"{name}: views of full size come first, but later ones are larger: {sizes}"
        )


def _check_shares(method: Method, **values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{type(method).__name__}: {name} must be 0 to 1, got {value}")
