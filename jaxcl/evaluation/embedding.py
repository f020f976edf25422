"""From images to features: what maps one image, and the features of all examples of a source."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

from jaxcl.augment import (
    Compose,
    EachFrame,
    Normalize,
    Transform,
    Views,
    resized_crop,
    rgb_to_grayscale,
    to_float,
)
from jaxcl.data import Source, sequential_batches
from jaxcl.methods import Method, MultiModal
from jaxcl.training import RestoredRun, TrainState, UserError, view_shapes

_RAW_SIDE = 32  # raw input is compared at no more than this many pixels a side

Prepare = Callable[[jax.Array], jax.Array]
"""Of one image [H, W, C], uint8 or float, to what an encoder takes."""
Features = Callable[[Any, jax.Array], jax.Array]
"""Of arrays that it may need, and [N, H, W, C] prepared images, to [N, F]."""


@dataclasses.dataclass(frozen=True)
class Embedding:
    """A representation of images: how one is prepared, and what maps prepared ones to features.

    Embeddings with the same functions share their compiled programs, whatever the arrays.
    """

    prepare: Prepare
    features: Features
    arrays: Any = ()

    @classmethod
    def of_encoder(
        cls, run: RestoredRun, state: TrainState, *, project: bool = False
    ) -> "Embedding":
        """The features of the run's encoder of images at that state; with `project`, where it has
        several towers, embeddings in their common space."""
        method: Method = run.experiment.method
        embed: Callable[..., jax.Array] = method.embed
        if isinstance(method, MultiModal):
            tower = method.towers[run.experiment.views.of_each.index(run.image_field)].name
            embed = functools.partial(method.embed, tower=tower, project=project)
        return cls(
            evaluation_view(run.experiment.views, run.image, run.image_field),
            lambda arrays, images: embed(arrays[0], arrays[1], images),
            jax.device_put((state.params, state.method)),
        )

    @classmethod
    def of_pixels(cls) -> "Embedding":
        """The pixels themselves, of images shrunk to 32 x 32 where they are larger."""

        def prepare(image: jax.Array) -> jax.Array:
            image = to_float(image)
            height, width = image.shape[:2]
            if max(height, width) <= _RAW_SIDE:
                return image
            return _centre_square((height, width), (_RAW_SIDE, _RAW_SIDE))(image)

        return cls(prepare, lambda _, images: images.reshape(len(images), -1))

    def __call__(self, images: np.ndarray, batch_size: int) -> np.ndarray:
        """Embeds images [N, H, W, C], `batch_size` at once; the last ones are padded, so that one
        program serves all."""
        parts = []
        for start in range(0, len(images), batch_size):
            part = images[start : start + batch_size]
            padding = [(0, batch_size - len(part)), *[(0, 0)] * (images.ndim - 1)]
            features = _embed(
                self.prepare, self.features, self.arrays, jnp.asarray(np.pad(part, padding))
            )
            parts.append(np.asarray(features)[: len(part)])
        return np.concatenate(parts)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _embed(prepare: Prepare, features: Features, arrays: Any, images: jax.Array) -> jax.Array:
    return features(arrays, jax.vmap(prepare)(images))


def evaluation_view(views: Views, image: jax.ShapeDtypeStruct, field: str = "image") -> Prepare:
    """What an image passes before the encoder when nothing is random.

    The middle of the image at the size of the training views, with their normalization.

    Args:
      views: the training views.
      image: shape and type of a training image, or of a video, whose frames are images.
      field: the field of these images.

    Returns:
      A function of one image [H, W, C], of that shape or another; one channel becomes three, and
      three one, where training images have those.
    """
    first, *_ = views.of_field(field).views
    if len(image.shape) == 4:
        steps = [step for step in flatten(first) if isinstance(step, EachFrame)]
        first = Compose(tuple(step.transform for step in steps))
        image = jax.ShapeDtypeStruct(image.shape[1:], image.dtype)
    _, height, width, _ = view_shapes(Views((first,)), {"image": image})[0].shape
    size = (height, width)
    normalize = [step for step in flatten(first) if isinstance(step, Normalize)]

    def prepare(picture: jax.Array) -> jax.Array:
        picture = to_float(picture)
        if picture.shape[-1] != image.shape[-1]:
            picture = rgb_to_grayscale(picture, num_output_channels=image.shape[-1])
        if picture.shape[:2] != size:
            picture = _centre_square((picture.shape[0], picture.shape[1]), size)(picture)
        for step in normalize:
            picture = step(jax.random.key(0), picture)
        return picture

    return prepare


def embed_source(
    embeddings: Mapping[str, Embedding], source: Source, batch_size: int
) -> dict[str, np.ndarray]:
    """Features [N, F] of all examples of a source, in order, by each of several embeddings."""
    batch_size = min(batch_size, len(source))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in embeddings}
    for batch in read_batches(source, batch_size, "embedding"):
        for name, embedding in embeddings.items():
            parts[name].append(embedding(batch["image"], batch_size))
    return {name: np.concatenate(features) for name, features in parts.items()}


def read_batches(
    source: Source, batch_size: int, what: str, *, start: int = 0
) -> Iterator[dict[str, np.ndarray]]:
    """All examples in order, from `start` on, with a bar that says `what` where there are many and
    someone looks.

    Raises:
      UserError: where an example cannot be read.
    """
    console = Console(stderr=True)
    total = -(-(len(source) - start) // batch_size)
    batches = sequential_batches(source, batch_size, start=start)
    shown = console.is_terminal and total > 20
    try:
        yield from track(
            batches, what, total=total, console=console, disable=not shown, transient=True
        )
    except ValueError as error:
        raise UserError(f"reading the data: {error}") from error


def flatten(transform: Transform) -> list[Transform]:
    """The steps of a view, in order, those of a `Compose` within it too."""
    inner = getattr(transform, "transforms", None)
    return [transform] if inner is None else [step for part in inner for step in flatten(part)]


def _centre_square(shape: tuple[int, int], size: tuple[int, int]) -> Prepare:
    """Resizes the largest middle part of the aspect of `size` to it."""
    height, width = shape
    scale = min(height / size[0], width / size[1])
    box = (round(size[0] * scale), round(size[1] * scale))
    top, left = (height - box[0]) // 2, (width - box[1]) // 2
    return lambda image: resized_crop(image, top, left, *box, size)
