"""Contrastive encoders as scikit-learn's transformers: arrays in, embeddings out."""

import dataclasses
import functools
import math
import sys
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from jaxcl import augment, encoders, methods
from jaxcl.augment import Transform, Views, batch_views
from jaxcl.evaluation.embedding import evaluation_view
from jaxcl.methods import Batch, Method
from jaxcl.training import SGD, Optimizer, Schedule, TrainState, init_state, make_step
from jaxcl.training.layout import WholeState

_SUPERVISED = (methods.SupCon, methods.GE2E)
"""Methods that read labels."""
_LARGEST_QUEUE = 1024
_GROUPS = 4  # of batch statistics, where they could tell which key is whose


def _moco_v2(encoder: nn.Module, dim: int, batch_size: int) -> Method:
    queue = max(batch_size, _LARGEST_QUEUE // batch_size * batch_size)
    return methods.MoCo(
        encoder, encoders.moco_v2_projector(dim), queue_size=queue, momentum=0.99, temperature=0.2
    )


METHODS: dict[str, Callable[[nn.Module, int, int], Method]] = {
    "moco_v2": _moco_v2,
    "simclr": lambda encoder, dim, _: methods.SimCLR(
        encoder, encoders.simclr_v1_projector(dim), temperature=0.2
    ),
    "supcon": lambda encoder, dim, _: methods.SupCon(encoder, encoders.simclr_v1_projector(dim)),
    "byol": lambda encoder, dim, _: methods.BYOL(
        encoder,
        encoders.byol_projector(dim, hidden=256),
        encoders.byol_projector(dim, hidden=256),
        momentum=methods.Cosine(0.98, 1.0),
    ),
    "simsiam": lambda encoder, dim, _: methods.SimSiam(
        encoder,
        encoders.simsiam_projector(dim, hidden=256),
        encoders.simsiam_predictor(dim, hidden=max(1, dim // 4)),
    ),
    "barlow_twins": lambda encoder, dim, _: methods.JointEmbedding(
        encoder,
        encoders.barlow_twins_projector(dim, hidden=256),
        criterion=methods.criteria.BarlowTwins(scale=0.1),
    ),
    "vicreg": lambda encoder, dim, _: methods.JointEmbedding(
        encoder,
        encoders.barlow_twins_projector(dim, hidden=256),
        criterion=methods.criteria.VICReg(),
    ),
}
"""Of encoder, width of the projection and batch size, by name."""


@dataclasses.dataclass(frozen=True)
class _Own(Transform):
    """The row itself, of a row and its donor [2, D]."""

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        return image[0]


@dataclasses.dataclass(frozen=True)
class _Corrupted(Transform):
    """A row of which some features are those of its donor (Bahri et al., 2022, SCARF)."""

    share: float
    """Of features, each with this chance."""

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        row, donor = image
        return jnp.where(jax.random.bernoulli(key, self.share, row.shape), donor, row)


class ContrastiveEncoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Learns, without labels, an encoder of images or rows of numbers; transforms to its features.

    Images are [N, H, W] or [N, H, W, C], or flat in rows with `image_shape`: integers from 0 to
    255, or floats from 0, which are divided by the largest. Rows [N, D] are standardized; one view
    of a row is itself, the other has 60 % of its features from other rows, each from another (Bahri
    et al., 2022).

    Args:
      method: a name among `METHODS`, or a method of `jaxcl.methods` with an encoder of its own.
      image_shape: (H, W) or (H, W, C) of images that come flat in rows; None: rows are rows.
      encoder: a flax module; None: a small CNN of images, a perceptron of rows.
      projection_dim: width of the projection in which the loss compares; features are the
        encoder's.
      views: `augment.Views` of images; None: crops, with colour where there is any.
      temperature: of the method's loss; None: its own.
      epochs: passes over the data.
      batch_size: rows of a step; where there are fewer all of them, or all but up to three.
      learning_rate: of SGD with momentum 0.9 and weight decay 5e-4, at the peak of a cosine.
      optimizer: one of `jaxcl.training` instead of that, with a rate of its own.
      random_state: an integer makes it deterministic; None draws anew.
      verbose: whether to print the loss of ten epochs on the way.

    Attributes:
      method_: the method as it was trained.
      state_: parameters and the method's state, as host arrays.
      loss_curve_: mean loss of each epoch.
      n_features_in_: features of a row, or the images' height.

    Example:
      >>> from sklearn.datasets import load_digits
      >>> digits = load_digits().data[:64]
      >>> encoder = ContrastiveEncoder("simclr", image_shape=(8, 8), epochs=1, random_state=0)
      >>> encoder.fit_transform(digits).shape
      (64, 128)
    """

    def __init__(
        self,
        method: str | Method = "moco_v2",
        *,
        image_shape: tuple[int, ...] | None = None,
        encoder: nn.Module | None = None,
        projection_dim: int = 64,
        views: Views | None = None,
        temperature: float | None = None,
        epochs: float = 100,
        batch_size: int = 128,
        learning_rate: float = 0.03,
        optimizer: Optimizer | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.method = method
        self.image_shape = image_shape
        self.encoder = encoder
        self.projection_dim = projection_dim
        self.views = views
        self.temperature = temperature
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> "ContrastiveEncoder":
        """Learns from rows or images; `y`, labels [N], is for methods that take them ("supcon").

        Raises:
          ValueError: for data that are no such thing, fewer than two rows, or options that do not
            fit them.
        """
        X = self._validated(X, reset=True)
        if len(X) < 2:
            raise ValueError(
                f"n_samples={len(X)}: there is nothing to contrast with, give 2 or more"
            )
        if self.batch_size < 2 or self.epochs <= 0 or self.projection_dim < 1:
            raise ValueError(
                f"batch_size {self.batch_size}, epochs {self.epochs}, projection_dim "
                f"{self.projection_dim}: expected 2 or more, above 0, 1 or more"
            )
        random = check_random_state(self.random_state)
        seed = int(random.randint(2**31 - 1))
        columns, self._views = self._columns(X, np.random.default_rng(seed))
        batch_size = min(self.batch_size, len(X))
        if batch_size > 2 * _GROUPS:
            batch_size -= batch_size % _GROUPS
        self.method_ = self._method(X, batch_size)
        labels = None
        if y is not None and isinstance(self.method_, _SUPERVISED):
            labels = np.unique(np.asarray(y), return_inverse=True)[1].astype(np.int32)
            if labels.shape != (len(X),):
                raise ValueError(f"y has shape {np.shape(y)}, expected ({len(X)},)")
        notes = [
            *self.method_.check(batch_size=batch_size, examples=len(X)),
            *self.method_.check_labels(labels, batch_size=batch_size),
        ]
        if labels is not None:
            columns["label"] = labels
        steps = len(X) // batch_size
        program = _Program(
            self.method_,
            self._views,
            self.optimizer or SGD(self.learning_rate, weight_decay=5e-4, scaling="none"),
            max(1, round(self.epochs * steps)),
            steps,
            batch_size,
        )
        if self.verbose:
            for note in notes:
                print(f"note: {note}", file=sys.stderr)
        self.state_, self.loss_curve_ = self._train(program, columns, seed)
        shape = jax.eval_shape(self._embed, self._prepared(X[:1])).shape
        self._n_features_out = int(shape[1])
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Features [N, F], float32, of rows or images like those it was fitted on."""
        check_is_fitted(self)
        X = self._prepared(self._validated(X, reset=False))
        found = []
        for start in range(0, len(X), self.batch_size):
            part = X[start : start + self.batch_size]
            padding = [(0, self.batch_size - len(part)), *[(0, 0)] * (part.ndim - 1)]
            found.append(np.asarray(self._embed(np.pad(part, padding)))[: len(part)])
        return np.concatenate(found)

    def _validated(self, X: Any, *, reset: bool) -> np.ndarray:
        """Rows [N, D] as they come, or images [N, H, W, C], uint8 or floats in [0, 1]."""
        X = validate_data(
            self, X, reset=reset, allow_nd=True, dtype="numeric", ensure_min_samples=1
        )
        X = np.asarray(X)
        if X.dtype.kind == "c":
            raise ValueError("Complex data not supported")
        if self.image_shape is not None:
            height, width, *channels = self.image_shape
            shape = (height, width, *(channels or [1]))
            if X.ndim != 2 or X.shape[1] != math.prod(shape):
                raise ValueError(
                    f"image_shape {self.image_shape} has {math.prod(shape)} values, and X has "
                    f"shape {X.shape}"
                )
            X = X.reshape(len(X), *shape)
        if X.ndim == 2:
            return X.astype(np.float64)
        if X.ndim == 3:
            X = X[..., None]
        if X.ndim != 4:
            raise ValueError(f"Found array with dim {X.ndim}, expected rows or images: 2 to 4")
        if not reset and X.shape[1:] != self._shape:
            raise ValueError(f"images are {X.shape[1:]}, and {self._shape} were fitted")
        low, high = float(X.min()), float(X.max())
        if low < 0 or (X.dtype.kind != "f" and high > 255):
            raise ValueError(
                f"pixels are from {low:g} to {high:g}, expected floats from 0, or integers from 0 "
                "to 255"
            )
        if reset:  # integers, and floats of another fit, are brought to the range of these
            self._brightest = (high or 1.0) if X.dtype.kind == "f" else 1.0
        brightest = self._brightest if X.dtype.kind == "f" else 255.0
        return np.clip(X / brightest, 0, 1).astype(np.float32)

    def _columns(
        self,
        X: np.ndarray,
        random: np.random.Generator,
    ) -> tuple[dict[str, np.ndarray], Views]:
        """What steps read, by field, and the views of it."""
        if X.ndim == 4:
            self._shape = X.shape[1:]
            return {"image": X}, self.views or _image_views(self._shape)
        if self.views is not None:
            raise ValueError("views are of images, and X has rows: give images, or image_shape")
        self._mean, deviation = X.mean(0), X.std(0)
        self._scale = np.where(deviation > 0, deviation, 1)
        rows = self._prepared(X)
        return {"row": rows, "donor": random.permuted(rows, axis=0)}, Views(
            (_Own(), _Corrupted(0.6)), fields="row"
        )

    def _prepared(self, X: np.ndarray) -> np.ndarray:
        if X.ndim == 4:
            return X
        # In float64 first: large numbers that hardly differ would be one in float32.
        return ((X - self._mean) / self._scale).astype(np.float32)

    def _method(self, X: np.ndarray, batch_size: int) -> Method:
        """The method by its name or as it was given, with what else was given."""
        if isinstance(self.method, Method):
            method = self.method
            if self.encoder is not None:
                method = dataclasses.replace(method, encoder=self.encoder)  # type: ignore[call-arg]
        elif self.method in METHODS:
            encoder = self.encoder
            if encoder is None:
                groups = _GROUPS if self.method == "moco_v2" and batch_size % _GROUPS == 0 else None
                encoder = (
                    encoders.SmallCNN((32, 64, 128), batch_norm_groups=groups)
                    if X.ndim == 4
                    else encoders.MLP((256, 256, 128))
                )
            method = METHODS[self.method](encoder, self.projection_dim, batch_size)
        else:
            raise ValueError(
                f"method {self.method!r} is none of {', '.join(METHODS)}, and no method of "
                "jaxcl.methods"
            )
        if self.temperature is None:
            return method
        if not hasattr(method, "temperature"):
            raise ValueError(f"{type(method).__name__} has no temperature: leave it None")
        return dataclasses.replace(method, temperature=self.temperature)  # type: ignore[call-arg]

    def _train(
        self, program: "_Program", columns: dict[str, np.ndarray], seed: int
    ) -> tuple[TrainState, list[float]]:
        """All steps; data and state stay on the device."""
        count, size = len(next(iter(columns.values()))), program.batch_size
        data = jax.device_put(columns)
        init, step = _compiled(program)
        state = init(np.uint32(seed), {name: one[:1] for name, one in data.items()})
        random = np.random.default_rng([seed, 1])
        epochs = -(-program.total_steps // program.steps_per_epoch)
        curve: list[float] = []
        for epoch in range(epochs):
            order, donors = random.permutation(count), random.permutation(count)
            losses = []
            for number in range(program.steps_per_epoch):
                if epoch * program.steps_per_epoch + number == program.total_steps:
                    break
                place = slice(number * size, (number + 1) * size)
                state, loss = step(state, data, order[place], donors[place])
                losses.append(loss)
            curve.append(float(np.mean(jax.device_get(losses))))
            if not np.isfinite(curve[-1]):
                raise ValueError(
                    f"the loss of epoch {epoch + 1} is {curve[-1]}: lower the learning rate "
                    f"({self.learning_rate}), and look at the data's scale"
                )
            if self.verbose and (epoch + 1) * 10 // epochs > epoch * 10 // epochs:
                print(f"epoch {epoch + 1}/{epochs}  loss {curve[-1]:.3f}", file=sys.stderr)
        fetched: TrainState = jax.device_get(state)
        return fetched, curve

    def _embed(self, rows: Any) -> jax.Array:
        return _features(self.method_, self._views, self.state_.params, self.state_.method, rows)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.target_tags.required = self.method == "supcon"
        tags.transformer_tags.preserves_dtype = []
        return tags


@dataclasses.dataclass(frozen=True)
class _Program:
    """All that a compiled step depends on, beside shapes: fits alike share it."""

    method: Method
    views: Views
    optimizer: Optimizer
    total_steps: int
    steps_per_epoch: int
    batch_size: int


@functools.lru_cache(maxsize=16)
def _compiled(program: _Program) -> tuple[Callable[..., TrainState], Callable[..., Any]]:
    """The first state of a seed and data of one example; and a step on rows of the data."""
    method, views = program.method, program.views
    peak = program.optimizer.peak(program.batch_size)
    optimizer = program.optimizer.build(
        Schedule().build(
            peak, total_steps=program.total_steps, steps_per_epoch=program.steps_per_epoch
        ),
        peak=peak,
        total_steps=program.total_steps,
        undecayed=method.undecayed,
    )
    advance = make_step(
        method, views, optimizer, total_steps=program.total_steps, layout=WholeState(None)
    )

    @jax.jit
    def init(seed: jax.Array, example: dict[str, jax.Array]) -> TrainState:
        batch = _batch(example, jnp.zeros(1, int), jnp.zeros(1, int))
        shapes = jax.eval_shape(lambda key: batch_views(views, key, batch, batch["index"]),
                                jax.random.key(0))  # fmt: skip
        zeros = tuple(jnp.zeros(view.shape, view.dtype) for view in shapes)
        state = init_state(method, optimizer, Batch(views=zeros), seed=seed)
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), state)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, data: Any, rows: jax.Array, donors: jax.Array) -> Any:
        state, metrics = advance(state, _batch(data, rows, donors))
        return state, metrics["loss"]

    return init, step


def _batch(data: dict[str, jax.Array], rows: jax.Array, donors: jax.Array) -> dict[str, jax.Array]:
    batch = {name: column[rows] for name, column in data.items() if name != "donor"}
    if "donor" in data:
        batch["row"] = jnp.stack([batch["row"], data["donor"][donors]], axis=1)
    return batch | {"index": rows}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _features(method: Method, views: Views, params: Any, state: Any, rows: jax.Array) -> jax.Array:
    if rows.ndim == 4:
        image = jax.ShapeDtypeStruct(rows.shape[1:], rows.dtype)
        rows = jax.vmap(evaluation_view(views, image))(rows)
    features: jax.Array = method.embed(params, state, rows)
    return features


def _image_views(shape: tuple[int, ...]) -> Views:
    side = min(shape[:2])
    if shape[2] == 3:
        return augment.simclr(side, strength=0.5, blur=side > 64, mean=None)
    return augment.crops(side, (0.6, 1.0), degrees=15.0, brightness=0.4, noise=0.1)
