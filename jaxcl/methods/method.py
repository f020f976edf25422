"""What every method offers: the protocol between a method and whoever trains it."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcl.methods.draws import Draws
from jaxcl.methods.networks import forward
from jaxcl.methods.schedules import Cosine
from jaxcl.methods.texts import is_text
from jaxcl.similarity import row_numbers

Params: TypeAlias = dict[str, Any]
"""Parameters by network: `encoder`, `projector`, `predictor`."""
Metrics: TypeAlias = dict[str, jax.Array]
"""Scalars of one step, by name."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """What a method sees of a batch: its views, and which examples they come from."""

    views: tuple[jax.Array, ...]
    """Each [N, ...]; row i of every view comes from the same example."""
    index: jax.Array | None = None
    """[N] integers, the number of each example in the data set; a bank is addressed by it."""
    label: jax.Array | None = None
    """[N] integers, for supervised methods."""
    there: tuple[jax.Array | None, ...] | None = None
    """Of each view [N] bool, whether the example has it, or None: all have it."""

    def present(self) -> tuple[jax.Array | None, ...]:
        """As `there`; of texts, [N, T] integers, those without tokens are not there either."""
        given = (None,) * len(self.views) if self.there is None else self.there
        found = []
        for view, where in zip(self.views, given, strict=True):
            if is_text(view):
                tokens = (view >= 0).any(1)
                where = tokens if where is None else where & tokens
            found.append(where)
        return tuple(found)

    def draws(self, key: jax.Array, axis_name: str | None = None) -> Draws:
        """What networks draw for these examples: by their numbers, or their places without any."""
        if self.index is not None:
            return Draws(key, self.index)
        return Draws(key, row_numbers(len(self.views[0]), axis_name))


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):
    """A contrastive method: hyper-parameters, and pure functions from state to state.

    One step is `represent` (every call of a network), `objective` (everything from embeddings to
    the scalar), a gradient step on `params`, `constrain` and `end_step`. `state` holds what the
    optimizer does not touch: batch statistics, target networks, memory.
    """

    @abc.abstractmethod
    def init(self, key: jax.Array, batch: Batch) -> tuple[Params, Any]:
        """Makes parameters and state for views of the shapes in `batch`."""

    @abc.abstractmethod
    def represent(
        self,
        params: Params,
        state: Any,
        batch: Batch,
        *,
        key: jax.Array,
        axis_name: str | None = None,
    ) -> tuple[Any, Any]:
        """Maps the views to embeddings.

        Args:
          params: parameters; gradients flow.
          state: the method's state.
          batch: this device's views.
          key: the step's randomness, the same on every device.
          axis_name: mapped axis of the devices.

        Returns:
          Embeddings (a tuple of [N, ...] arrays, the online network's first [N, D]) and the new
          state. Row i of each is of example i.
        """

    def row_by_row(
        self, batch: Batch, *, key: jax.Array, axis_name: str | None = None
    ) -> tuple["Method", Batch, Callable[[Any], Any]]:
        """`represent` in parts: what has to see the whole batch, taken out of it.

        A method that moves examples within the batch says here how, for those who encode a part of
        the batch at a time.

        Args:
          batch: this device's views.
          key: as in `represent`.
          axis_name: as in `represent`.

        Returns:
          A method that represents each row by itself, the batch for it, and a function that turns
          the embeddings of that whole batch into those of `represent`.
        """
        del key, axis_name
        return self, batch, lambda embeddings: embeddings

    @abc.abstractmethod
    def objective(
        self,
        params: Params,
        state: Any,
        embeddings: Any,
        batch: Batch,
        *,
        progress: jax.Array | float,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, Any, Metrics]:
        """Maps embeddings to this device's mean loss, the new state, and metrics.

        `pmean` over devices of the loss, and of its gradient, is that of the global batch. The new
        state is the same on every device: what is averaged over rows takes a `pmean`, and memory
        the `axis_name`. Metrics are scalars, averaged over devices for the log; those of
        `jaxcl.methods.health` also show chance level and accuracy, and give the alarm at collapse.
        `progress` is the share of training done, 0 to 1.
        """

    def constrain(self, params: Params, before: Params, *, progress: jax.Array | float) -> Params:
        """Parameters after the optimizer's update: what is frozen put back, what is normalized so.

        It sees whole arrays. Those that it does not change it returns as they came, the very same
        objects: where devices keep parts (`Run.spread_state`), nothing is then sent for them.

        Args:
          params: after the update.
          before: before it.
          progress: share of training done, 0 to 1.
        """
        del before, progress
        return params

    def end_step(self, params: Params, state: Any, *, progress: jax.Array | float) -> Any:
        """State after the optimizer's update; momentum encoders move here."""
        del params, progress
        return state

    @abc.abstractmethod
    def embed(self, params: Params, state: Any, inputs: jax.Array) -> jax.Array:
        """Features [N, F] of `inputs`, not augmented, as evaluation and transfer use them."""

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks by name, in the order in which they run: the fields that are some."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if isinstance(value, nn.Module)}

    def with_networks(self, changed: dict[str, nn.Module]) -> "Method":
        """The same with other networks in the place of some, by name."""
        return dataclasses.replace(self, **changed)

    @property
    def averages(self) -> tuple[str, ...]:
        """Paths, within the state, of the networks that `end_step` moves number by number.

        None, unless a method says so. `represent` and `objective` leave them as they are; so each
        device of several may keep and move a part of each array (`Run.spread_state`). Paths that a
        state lacks are passed over.
        """
        return ()

    @property
    def banks(self) -> tuple[str, ...]:
        """Paths, within the state, of the banks that the method can read as `ShardedBank`s too."""
        return ()

    @property
    def undecayed(self) -> tuple[str, ...]:
        """Paths of the parameters that weight decay leaves alone, such as `encoder/pos_embed`.

        A network says so of its own by a property or field `undecayed`.
        """
        return tuple(
            f"{name}/{path}"
            for name, network in self.networks.items()
            for path in getattr(network, "undecayed", ())
        )

    def check(self, *, batch_size: int, examples: int) -> list[str]:
        """Compares the method's sizes with the experiment's, before anything is compiled.

        Returns:
          What is allowed but probably not meant, in words.

        Raises:
          ValueError: where the sizes cannot work.
        """
        del batch_size, examples
        return []

    def check_labels(self, labels: np.ndarray | None, *, batch_size: int) -> list[str]:
        """Looks at the labels of the data, [N] integers or None, as `check` does at sizes."""
        del labels, batch_size
        return []

    def loss(
        self,
        params: Params,
        state: Any,
        batch: Batch,
        *,
        key: jax.Array,
        progress: jax.Array | float = 0.0,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, tuple[Any, Metrics]]:
        """`represent` and `objective` in one, shaped for `jax.value_and_grad(..., has_aux=True)`.

        Returns:
          The loss, and the new state with the metrics.
        """
        embeddings, state = self.represent(params, state, batch, key=key, axis_name=axis_name)
        loss, state, metrics = self.objective(
            params, state, embeddings, batch, progress=progress, axis_name=axis_name
        )
        check_scalars(self, loss, metrics)
        return loss, (state, metrics)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EncoderState:
    """State of a method of one encoder."""

    batch_stats: dict[str, Any]
    """Running statistics by network, as `Params`."""


@dataclasses.dataclass(frozen=True)
class EncoderMethod(Method):
    """A method of one encoder, whose features are what is transferred; all methods of images."""

    encoder: nn.Module
    """Maps a view to features, called as encoder(view, train=..., axis_name=...)."""
    projector: nn.Module | None = None
    """Maps features to embeddings; None: the features are the embeddings."""

    def embed(self, params: Params, state: Any, inputs: jax.Array) -> jax.Array:
        features, _ = forward(self.feature_networks, params, state.batch_stats, inputs)
        return features

    @property
    def feature_networks(self) -> dict[str, nn.Module]:
        """What makes features, in a row: `embed` applies and fine-tuning tunes these networks."""
        return {"encoder": self.encoder}


def two_views(batch: Batch, method: Method) -> tuple[jax.Array, jax.Array]:
    """The two views of a batch; a clear error where there are not two."""
    if len(batch.views) != 2:
        raise ValueError(
            f"{type(method).__name__} contrasts two views; the batch has {len(batch.views)}"
        )
    chex.assert_equal_shape_prefix(
        batch.views,
        1,
        exception_type=ValueError,
        custom_message=f"{type(method).__name__}: row i of both views must be of one example",
    )
    return batch.views[0], batch.views[1]


def example_numbers(batch: Batch, method: Method) -> jax.Array:
    """The examples' numbers; a clear error where the batch has none."""
    if batch.index is None:
        raise ValueError(f"{type(method).__name__} needs Batch.index: the numbers of the examples")
    return batch.index


RESERVED = frozenset({"loss", "gradient_norm", "parameter_norm", "step", "epoch", "learning_rate"})
"""What the log has by itself."""


def check_scalars(method: Method, loss: jax.Array, metrics: Metrics) -> None:
    """Raises where what `objective` returned is no scalar, or a metric has a name of the log's own,
    whose value it would hide."""
    for name in sorted(RESERVED & set(metrics)):
        raise ValueError(
            f"{type(method).__name__}.objective returned a metric {name!r}, which the log has by "
            "itself: give it another name"
        )
    for name, value in {"the loss": loss, **metrics}.items():
        if jnp.ndim(value):
            raise ValueError(
                f"{type(method).__name__}.objective returned {name} of shape {jnp.shape(value)}, "
                "expected a scalar: take its mean"
            )


def check_positive(method: Method, **values: Any) -> None:
    """Raises where a hyper-parameter is not positive; arrays under a trace pass."""
    for name, value in values.items():
        if isinstance(value, int | float) and not value > 0:
            raise ValueError(f"{type(method).__name__}: {name} must be positive, got {value}")


def check_momentum(method: Method, momentum: Any) -> None:
    """Raises where a share, or the start or end of its schedule, is outside 0 to 1; arrays under a
    trace pass."""
    values = (momentum.start, momentum.end) if isinstance(momentum, Cosine) else (momentum,)
    if any(isinstance(value, int | float) and not 0 <= value <= 1 for value in values):
        raise ValueError(f"{type(method).__name__}: momentum must be 0 to 1, got {momentum}")


def check_queue(queue_size: int, batch_size: int) -> None:
    """Raises where a queue does not even hold one batch.

    Raises:
      ValueError: saying what to set.
    """
    if queue_size < batch_size:
        raise ValueError(
            f"queue_size {queue_size} is smaller than batch_size {batch_size}: rows would leave "
            f"before they serve. Set method.queue_size to at least {batch_size}"
        )
