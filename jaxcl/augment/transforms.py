"""Random transforms `(key, image) -> image`: what one is, and how they combine."""

import abc
import dataclasses
import math
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxcl.augment.pixels import to_float


class Transform(abc.ABC):
    """A random map of one image, one text's tokens or one clip's samples. Subclasses are frozen
    dataclasses: they print, compare, hash.

    Fields hold numbers, strings, tuples of these or other transforms, so that a transform can be
    written to JSON and overridden from a command line. Randomness comes from the key alone.

    Example: (one of your own)
      >>> import dataclasses, jax
      >>> from jaxcl import augment
      >>> @dataclasses.dataclass(frozen=True)
      ... class RandomInvert(augment.Transform):
      ...     p: float = 0.5
      ...
      ...     def __call__(self, key, image):
      ...         return jax.numpy.where(jax.random.bernoulli(key, self.p), 1 - image, image)
      >>> augment.Compose((augment.RandomHorizontalFlip(), RandomInvert(p=0.2)))
      Compose(transforms=(RandomHorizontalFlip(p=0.5), RandomInvert(p=0.2)))
    """

    @abc.abstractmethod
    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Transforms one image.

        Args:
          key: PRNG key; each key gives one outcome.
          image: [H, W, C] float in [0, 1]; of a text its tokens, [T] int32 (`augment.text`); of
            sound its samples, [T] float from -1 to 1 (`augment.sound`).

        Returns:
          [H', W', C] float; [T] int32; [T'] float.
        """


@dataclasses.dataclass(frozen=True)
class Compose(Transform):
    """Transforms one after the other, each with a key of its own, from a uint8 or float image.

    Raises:
      TypeError: if an entry is not a Transform.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcl import augment
      >>> view = augment.Compose((augment.RandomResizedCrop(16), augment.RandomHorizontalFlip()))
      >>> view(jax.random.key(0), jnp.zeros((40, 48, 3), jnp.uint8)).shape
      (16, 16, 3)
    """

    transforms: tuple[Transform, ...]
    """Applied first to last."""

    def __post_init__(self) -> None:
        _check_transforms(self, "transforms", self.transforms)
        object.__setattr__(self, "transforms", tuple(self.transforms))

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        image = as_input(image)
        keys = jax.random.split(key, len(self.transforms))
        for transform, transform_key in zip(self.transforms, keys, strict=True):
            image = transform(transform_key, image)
        return image

    def __str__(self) -> str:
        return "\n".join(str(transform) for transform in self.transforms)


@dataclasses.dataclass(frozen=True)
class RandomApply(Transform):
    """A transform with probability `p`, else the image as it is.

    Both are computed and one is chosen, because under `vmap` the examples of a batch differ.

    Raises:
      TypeError: if `transform` is not a Transform.
      ValueError: if `p` is outside [0, 1]; when called, if the transform changes the image's shape.
    """

    transform: Transform
    """What to apply; it must keep the image's shape."""
    p: float = 0.5
    """Probability of applying it."""

    def __post_init__(self) -> None:
        _check_transforms(self, "transform", (self.transform,))
        check_probability(self, self.p)

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        choice_key, transform_key = jax.random.split(key)
        changed = self.transform(transform_key, image)
        if changed.shape != image.shape:
            raise ValueError(
                f"RandomApply: {self.transform} changes shape {image.shape} to {changed.shape}, "
                "but sometimes the old shape would stay: apply it always"
            )
        return jnp.where(jax.random.bernoulli(choice_key, self.p), changed, image)

    def __str__(self) -> str:
        return f"with p={self.p:g}: " + "; ".join(str(self.transform).splitlines())


@dataclasses.dataclass(frozen=True)
class EachFrame(Transform):
    """A transform of images on each frame of a video [T, H, W, C].

    Raises:
      TypeError: if `transform` is not a Transform.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcl import augment
      >>> view = augment.Compose((EachFrame(augment.RandomResizedCrop(16)),))
      >>> view(jax.random.key(0), jnp.zeros((5, 40, 48, 3), jnp.uint8)).shape
      (5, 16, 16, 3)
    """

    transform: Transform
    """Of one frame."""
    alike: bool = True
    """Draw once for all frames, so that what moves in a video is what moved before it; False: anew
    for each."""

    def __post_init__(self) -> None:
        _check_transforms(self, "transform", (self.transform,))

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        if image.ndim != 4:
            raise ValueError(f"{self} takes a video [T, H, W, C], got shape {image.shape}")
        keys = key if self.alike else jax.random.split(key, len(image))
        return jax.vmap(self.transform, in_axes=(None if self.alike else 0, 0))(keys, image)

    def __str__(self) -> str:
        each = "alike" if self.alike else "each by itself"
        return f"frames {each}: " + "; ".join(str(self.transform).splitlines())


@dataclasses.dataclass(frozen=True)
class Views:
    """One example to several views, each of one field, with its own transform and its own key.

    Raises:
      TypeError: if an entry is not a Transform.
      ValueError: if there is none.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcl import augment
      >>> views = augment.Views((augment.RandomResizedCrop(16), augment.RandomResizedCrop(8)))
      >>> [view.shape for view in views(jax.random.key(0), jnp.zeros((40, 48, 3), jnp.uint8))]
      [(16, 16, 3), (8, 8, 3)]
    """

    views: tuple[Transform, ...]
    """One transform a view."""
    fields: str | tuple[str, ...] = "image"
    """The record's field that views are of: one for all, or one for each."""

    def __post_init__(self) -> None:
        if not self.views:
            raise ValueError("Views: no view given, expected at least one transform")
        if not isinstance(self.fields, str):
            object.__setattr__(self, "fields", tuple(self.fields))
            if len(self.fields) != len(self.views):
                raise ValueError(
                    f"Views: {len(self.views)} views of {len(self.fields)} fields, "
                    f"{', '.join(self.fields)}: give one for each view, or one for all"
                )
        _check_transforms(self, "views", self.views)
        object.__setattr__(self, "views", tuple(self.views))

    @property
    def of_each(self) -> tuple[str, ...]:
        """The field of each view."""
        return (self.fields,) * len(self.views) if isinstance(self.fields, str) else self.fields

    def __call__(
        self, key: jax.Array, example: jax.Array | Mapping[str, jax.Array]
    ) -> tuple[jax.Array, ...]:
        """Draws the views of one example.

        Args:
          key: PRNG key; view i draws from `fold_in(key, i)`.
          example: its fields by name; or, where all views are of one, that alone: an image
            [H, W, C], uint8 or float in [0, 1].

        Returns:
          One array a view.
        """
        return tuple(
            view(jax.random.fold_in(key, position), as_input(value))
            for position, (view, value) in enumerate(
                zip(self.views, self._values(example), strict=True)
            )
        )

    def of_field(self, name: str) -> "Views":
        """Those of one field alone.

        Raises:
          ValueError: if there is none.
        """
        found = [
            view for view, field in zip(self.views, self.of_each, strict=True) if field == name
        ]
        if not found:
            raise ValueError(
                f"Views: views are of {', '.join(dict.fromkeys(self.of_each))}, none of {name!r}"
            )
        return Views(tuple(found), fields=name)

    def check_fields(self, names: Iterable[str]) -> None:
        """Raises where a view is of a field that is none of these."""
        known = set(names)
        for name in self.of_each:
            if name not in known:
                raise ValueError(
                    f"Views: a view is of the field {name!r}; examples have "
                    f"{', '.join(sorted(known))}"
                )

    def _values(self, example: jax.Array | Mapping[str, jax.Array]) -> list[jax.Array]:
        """What each view is made of."""
        if isinstance(example, Mapping):
            self.check_fields(example)
            return [example[name] for name in self.of_each]
        if not isinstance(self.fields, str):
            raise TypeError(f"Views: views of {', '.join(self.fields)} take examples by field")
        return [example] * len(self.views)

    def __str__(self) -> str:
        lines = []
        for position, view in enumerate(self.views):
            lines.append(f"view {position}:")
            lines.extend(f"  {line}" for line in str(view).splitlines())
        return "\n".join(lines)


def batch_views(
    views: Views,
    key: jax.Array,
    examples: jax.Array | np.ndarray | Mapping[str, jax.Array],
    indices: jax.Array | np.ndarray,
) -> tuple[jax.Array, ...]:
    """The views of a batch. Example i draws from `fold_in(key, indices[i])`.

    With the examples' indices in the whole batch, or the data set, the views do not depend on how
    the batch is split over devices.

    Args:
      views: what to draw.
      key: PRNG key of the step.
      examples: the fields that views are of, by name (others are passed over); or, where all views
        are of one, that alone: images [N, H, W, C], uint8 or float in [0, 1].
      indices: [N] integers, the same for an example wherever it is computed.

    Returns:
      One array a view, such as [N, H', W', C] float of images.

    Raises:
      ValueError: if shapes do not fit.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcl import augment
      >>> images = jnp.zeros((4, 40, 48, 3), jnp.uint8)
      >>> views = augment.crops(16)
      >>> first, second = augment.batch_views(views, jax.random.key(0), images, jnp.arange(4))
      >>> first.shape
      (4, 16, 16, 3)
    """
    if not isinstance(examples, Mapping):
        examples = {name: jnp.asarray(examples) for name in views.of_each}
    views.check_fields(examples)
    used = {name: examples[name] for name in dict.fromkeys(views.of_each)}
    indices = jnp.asarray(indices)
    for name, values in used.items():
        if name == "image" and values.ndim != 4:
            raise ValueError(
                f"images have shape {values.shape}, expected [N, H, W, C] "
                "(images[..., None] adds the channel of grey images)"
            )
        if indices.shape != values.shape[:1]:
            raise ValueError(f"indices have shape {indices.shape}, expected {values.shape[:1]}")

    def one(index: jax.Array, example: Mapping[str, jax.Array]) -> tuple[jax.Array, ...]:
        return views(jax.random.fold_in(key, index), example)

    return jax.vmap(one)(indices, used)


def as_input(value: jax.Array) -> jax.Array:
    """What transforms take: images as floats, samples of sound as floats from -1 to 1, tokens as
    they are."""
    if value.dtype == jnp.int16 and value.ndim == 1:
        return to_samples(value)
    return value if value.dtype == jnp.int32 else to_float(value)


def to_samples(sound: jax.Array | np.ndarray) -> jax.Array:
    """Samples as float32: int16 becomes -1 to 1, floats keep their values.

    Args:
      sound: any shape.

    Returns:
      float32, the same shape.

    Raises:
      TypeError: for another dtype, whose range is not known.
    """
    sound = jnp.asarray(sound)
    if sound.dtype == jnp.int16:
        return sound.astype(jnp.float32) / 32768.0
    if not jnp.issubdtype(sound.dtype, jnp.floating):
        raise TypeError(f"samples are {sound.dtype}, expected int16, or floats from -1 to 1")
    return sound.astype(jnp.float32)


def check_probability(owner: Transform, p: float) -> None:
    """ValueError naming `owner` unless 0 <= p <= 1."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"{type(owner).__name__}: p is {p}, expected a probability in [0, 1]")


def check_interval(
    owner: Transform, name: str, interval: tuple[float, float], upto: float = math.inf
) -> None:
    """ValueError naming `owner` and its field unless 0 < low <= high <= upto, and finite."""
    pair = isinstance(interval, tuple) and len(interval) == 2
    if not pair or not 0.0 < interval[0] <= interval[1] <= upto or math.isinf(interval[1]):
        limit = "" if math.isinf(upto) else f" <= {upto:g}"
        raise ValueError(
            f"{type(owner).__name__}: {name} is {interval}, "
            f"expected a tuple (low, high) with 0 < low <= high{limit}"
        )


def _check_transforms(owner: object, field: str, transforms: tuple[Transform, ...]) -> None:
    for transform in transforms:
        if not isinstance(transform, Transform):
            raise TypeError(
                f"{type(owner).__name__}: {field} holds {transform!r}, expected a Transform: "
                "make a frozen dataclass that derives from jaxcl.augment.Transform"
            )
