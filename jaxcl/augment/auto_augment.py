"""RandAugment and AutoAugment: operations drawn for each image, of torchvision's magnitudes.

Every image of a batch draws operations of its own, so under `vmap` all of them are computed and one
is kept. Shears, shifts and turns are one affine map with other numbers, and brightness, colour,
contrast and sharpness one blend with another image, so a drawn operation costs one map, one blend,
one smoothing and one equalization, not fifteen branches.
"""

import dataclasses
import enum
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcl.augment.color import blend, rgb_to_grayscale, solarize
from jaxcl.augment.pixels import check_image
from jaxcl.augment.tones import autocontrast, equalize, invert, posterize, smooth
from jaxcl.augment.transforms import Transform

_AUTO_AUGMENT_BINS = 10


class Operation(enum.IntEnum):
    """What RandAugment (all but `INVERT`) and AutoAugment (all but `IDENTITY`) choose from."""

    IDENTITY = 0
    SHEAR_X = 1
    SHEAR_Y = 2
    TRANSLATE_X = 3
    TRANSLATE_Y = 4
    ROTATE = 5
    BRIGHTNESS = 6
    COLOR = 7
    CONTRAST = 8
    SHARPNESS = 9
    POSTERIZE = 10
    SOLARIZE = 11
    AUTOCONTRAST = 12
    EQUALIZE = 13
    INVERT = 14


@dataclasses.dataclass(frozen=True)
class RandAugment(Transform):
    """`num_ops` operations, each as likely, of one magnitude (Cubuk et al., 2020).

    Magnitudes are those of torchvision's `RandAugment`; it works on 8-bit images and rounds down
    after every operation, this on floats. The affine maps are bilinear (torchvision's default is
    the nearest pixel).

    Raises:
      ValueError: if a field is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcl import augment
      >>> view = jax.jit(augment.RandAugment(num_ops=2, magnitude=9))
      >>> view(jax.random.key(0), jnp.zeros((8, 8, 3))).shape
      (8, 8, 3)
    """

    num_ops: int = 2
    """Operations one after the other."""
    magnitude: int = 9
    """Strength of all, 0 to `num_magnitude_bins` - 1."""
    num_magnitude_bins: int = 31
    """Steps from the weakest to the strongest."""
    fill: float = 0.0
    """Value outside the image, where it is sheared, shifted or turned."""

    def __post_init__(self) -> None:
        if self.num_ops < 1:
            raise ValueError(f"RandAugment: num_ops is {self.num_ops}, expected at least 1")
        if self.num_magnitude_bins < 2:
            raise ValueError(
                f"RandAugment: num_magnitude_bins is {self.num_magnitude_bins}, expected at least 2"
            )
        if not 0 <= self.magnitude < self.num_magnitude_bins:
            raise ValueError(
                f"RandAugment: magnitude is {self.magnitude}, expected 0 to "
                f"{self.num_magnitude_bins - 1}, below num_magnitude_bins"
            )

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        check_image(image, "RandAugment", (1, 3))
        operations, magnitudes = self.draw(key, image.shape[0], image.shape[1])
        return _apply_in_turn(image, operations, magnitudes, self.fill)

    def draw(self, key: jax.Array, height: int, width: int) -> tuple[jax.Array, jax.Array]:
        """The operations for one image.

        Args:
          key: PRNG key.
          height: of the image, pixels.
          width: of the image, pixels.

        Returns:
          [num_ops] operations, numbers of `Operation`, and [num_ops] magnitudes, as
          `apply_operation` takes them.
        """
        operation_key, sign_key = jax.random.split(key)
        operations = jax.random.randint(operation_key, (self.num_ops,), 0, Operation.INVERT)
        table = magnitude_table(self.num_magnitude_bins, height, width)[:, self.magnitude]
        return operations, _signed(sign_key, operations, jnp.asarray(table)[operations])


@dataclasses.dataclass(frozen=True)
class AutoAugment(Transform):
    """One of 25 learned pairs of operations, each with its probability (Cubuk et al., 2019).

    Policies and magnitudes are those of torchvision's `AutoAugment`; in
    arithmetic it differs as `RandAugment` does.

    Raises:
      ValueError: if there is no such policy.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcl import augment
      >>> view = jax.jit(augment.AutoAugment("cifar10"))
      >>> view(jax.random.key(0), jnp.zeros((8, 8, 3))).shape
      (8, 8, 3)
    """

    policy: Literal["imagenet", "cifar10"] = "imagenet"
    """The data set that it was learned on."""
    fill: float = 0.0
    """Value outside the image, where it is sheared, shifted or turned."""

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(
                f"AutoAugment: policy is {self.policy!r}, expected "
                + " or ".join(repr(name) for name in POLICIES)
            )

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        check_image(image, "AutoAugment", (1, 3))
        operations, magnitudes = self.draw(key, image.shape[0], image.shape[1])
        return _apply_in_turn(image, operations, magnitudes, self.fill)

    def draw(self, key: jax.Array, height: int, width: int) -> tuple[jax.Array, jax.Array]:
        """The operations for one image.

        Args:
          key: PRNG key.
          height: of the image, pixels.
          width: of the image, pixels.

        Returns:
          [2] operations, numbers of `Operation`, `IDENTITY` where one is not applied, and [2]
          magnitudes, as `apply_operation` takes them.
        """
        pair_key, apply_key, sign_key = jax.random.split(key, 3)
        policy = np.array(POLICIES[self.policy])  # [25, 2, 3]: operation, probability, level
        pair = jax.random.randint(pair_key, (), 0, len(policy))
        operations = jnp.asarray(policy[..., 0], jnp.int32)[pair]
        probabilities = jnp.asarray(policy[..., 1], jnp.float32)[pair]
        levels = jnp.asarray(policy[..., 2], jnp.int32)[pair]
        table = jnp.asarray(magnitude_table(_AUTO_AUGMENT_BINS, height, width))
        magnitudes = _signed(sign_key, operations, table[operations, levels])
        applied = jax.random.bernoulli(apply_key, probabilities)
        return jnp.where(applied, operations, Operation.IDENTITY), magnitudes


def apply_operation(
    image: jax.Array, operation: ArrayLike, magnitude: ArrayLike, *, fill: float = 0.0
) -> jax.Array:
    """One operation on one image; which, and how strongly, may be traced.

    Args:
      image: [H, W, C] float in [0, 1], C 1 or 3.
      operation: a number of `Operation`; scalar.
      magnitude: by operation. Shears: pixels a pixel, from the upper left corner; positive moves
        rows left, columns up. Shifts: pixels, right and down. Rotation: degrees, counter-clockwise.
        Brightness, colour, contrast and sharpness: the factor minus 1. Posterize: bits. Solarize:
        threshold in [0, 1]. The others take none.
      fill: value outside the image.

    Returns:
      [H, W, C].

    Example:
      >>> import jax.numpy as jnp
      >>> apply_operation(jnp.full((1, 1, 1), 0.25), Operation.BRIGHTNESS, 0.5).item()
      0.375
    """
    check_image(image, "apply_operation", (1, 3))
    operation, magnitude = jnp.asarray(operation), jnp.asarray(magnitude, image.dtype)
    moves = (operation >= Operation.SHEAR_X) & (operation <= Operation.ROTATE)
    blends = (operation >= Operation.BRIGHTNESS) & (operation <= Operation.SHARPNESS)
    return jnp.select(
        [
            moves,
            blends,
            operation == Operation.POSTERIZE,
            operation == Operation.SOLARIZE,
            operation == Operation.AUTOCONTRAST,
            operation == Operation.EQUALIZE,
            operation == Operation.INVERT,
        ],
        [
            _move(image, operation, magnitude, fill),
            _blend(image, operation, magnitude),
            posterize(image, magnitude),
            solarize(image, magnitude),
            autocontrast(image),
            equalize(image),
            invert(image),
        ],
        image,
    )


def magnitude_table(bins: int, height: int, width: int) -> np.ndarray:
    """Every operation's magnitudes, from weakest to strongest: torchvision's.

    Args:
      bins: how many, >= 2.
      height: of the image, pixels.
      width: of the image, pixels.

    Returns:
      [15, bins] float32, a row an `Operation`, in the units of `apply_operation`.
    """
    share = np.linspace(0.0, 1.0, bins)
    table = np.zeros((len(Operation), bins))
    table[[Operation.SHEAR_X, Operation.SHEAR_Y]] = 0.3 * share
    # In whole pixels; the paper's 150 are of its images' 331.
    for operation, side in ((Operation.TRANSLATE_X, width), (Operation.TRANSLATE_Y, height)):
        table[operation] = np.floor(150.0 / 331.0 * side * share + 1e-4)
    table[Operation.ROTATE] = 30.0 * share
    table[Operation.BRIGHTNESS : Operation.SHARPNESS + 1] = 0.9 * share
    table[Operation.POSTERIZE] = 8 - np.round(4.0 * share)
    table[Operation.SOLARIZE] = 1.0 - share
    return table.astype(np.float32)


def _signed(key: jax.Array, operations: jax.Array, magnitudes: jax.Array) -> jax.Array:
    """With a random sign where the operation has two directions."""
    signed = (operations >= Operation.SHEAR_X) & (operations <= Operation.SHARPNESS)
    negative = jax.random.bernoulli(key, 0.5, operations.shape)
    return jnp.where(signed & negative, -magnitudes, magnitudes)


def _apply_in_turn(
    image: jax.Array, operations: jax.Array, magnitudes: jax.Array, fill: float
) -> jax.Array:
    # A loop, not copies one after the other, for the reason that ColorJitter gives.
    def step(position: jax.Array, changed: jax.Array) -> jax.Array:
        return apply_operation(changed, operations[position], magnitudes[position], fill=fill)

    return jax.lax.fori_loop(0, len(operations), step, image)


def _move(image: jax.Array, operation: jax.Array, magnitude: jax.Array, fill: float) -> jax.Array:
    """The shears, shifts and the rotation as one map of places, of which at most one is at work."""
    height, width, _ = image.shape

    def of(kind: Operation) -> jax.Array:
        return jnp.where(operation == kind, magnitude, 0.0)

    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    y, x = rows - (height - 1) / 2, columns - (width - 1) / 2
    angle = jnp.deg2rad(of(Operation.ROTATE))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    # Backwards: for every pixel of the result, the place in the image that it comes from. Shears
    # start from the corner, half a pixel before the first pixel's middle.
    source_y = cos * y + sin * x + (height - 1) / 2 - of(Operation.TRANSLATE_Y)
    source_x = cos * x - sin * y + (width - 1) / 2 - of(Operation.TRANSLATE_X)
    source_y = source_y + of(Operation.SHEAR_Y) * (columns + 0.5)
    source_x = source_x + of(Operation.SHEAR_X) * (rows + 0.5)

    def sample(plane: jax.Array) -> jax.Array:
        return jax.scipy.ndimage.map_coordinates(
            plane, (source_y, source_x), order=1, mode="constant", cval=fill
        )

    return jax.vmap(sample, in_axes=-1, out_axes=-1)(image)


def _blend(image: jax.Array, operation: jax.Array, magnitude: jax.Array) -> jax.Array:
    """Brightness, colour, contrast and sharpness: blends with black, grey, its mean and smooth."""
    grey = rgb_to_grayscale(image)
    other = jnp.select(
        [
            operation == Operation.BRIGHTNESS,
            operation == Operation.COLOR,
            operation == Operation.CONTRAST,
        ],
        [jnp.zeros_like(image), jnp.broadcast_to(grey, image.shape), jnp.mean(grey)],
        smooth(image),
    )
    return blend(image, other, 1.0 + magnitude)


_Step = tuple[Operation, float, int]
"""Operation, its probability, and the level of its magnitude, 0 to 9 (0 where it has none)."""

POLICIES: dict[str, tuple[tuple[_Step, _Step], ...]] = {
    "imagenet": (
        ((Operation.POSTERIZE, 0.4, 8), (Operation.ROTATE, 0.6, 9)),
        ((Operation.SOLARIZE, 0.6, 5), (Operation.AUTOCONTRAST, 0.6, 0)),
        ((Operation.EQUALIZE, 0.8, 0), (Operation.EQUALIZE, 0.6, 0)),
        ((Operation.POSTERIZE, 0.6, 7), (Operation.POSTERIZE, 0.6, 6)),
        ((Operation.EQUALIZE, 0.4, 0), (Operation.SOLARIZE, 0.2, 4)),
        ((Operation.EQUALIZE, 0.4, 0), (Operation.ROTATE, 0.8, 8)),
        ((Operation.SOLARIZE, 0.6, 3), (Operation.EQUALIZE, 0.6, 0)),
        ((Operation.POSTERIZE, 0.8, 5), (Operation.EQUALIZE, 1.0, 0)),
        ((Operation.ROTATE, 0.2, 3), (Operation.SOLARIZE, 0.6, 8)),
        ((Operation.EQUALIZE, 0.6, 0), (Operation.POSTERIZE, 0.4, 6)),
        ((Operation.ROTATE, 0.8, 8), (Operation.COLOR, 0.4, 0)),
        ((Operation.ROTATE, 0.4, 9), (Operation.EQUALIZE, 0.6, 0)),
        ((Operation.EQUALIZE, 0.0, 0), (Operation.EQUALIZE, 0.8, 0)),
        ((Operation.INVERT, 0.6, 0), (Operation.EQUALIZE, 1.0, 0)),
        ((Operation.COLOR, 0.6, 4), (Operation.CONTRAST, 1.0, 8)),
        ((Operation.ROTATE, 0.8, 8), (Operation.COLOR, 1.0, 2)),
        ((Operation.COLOR, 0.8, 8), (Operation.SOLARIZE, 0.8, 7)),
        ((Operation.SHARPNESS, 0.4, 7), (Operation.INVERT, 0.6, 0)),
        ((Operation.SHEAR_X, 0.6, 5), (Operation.EQUALIZE, 1.0, 0)),
        ((Operation.COLOR, 0.4, 0), (Operation.EQUALIZE, 0.6, 0)),
        ((Operation.EQUALIZE, 0.4, 0), (Operation.SOLARIZE, 0.2, 4)),
        ((Operation.SOLARIZE, 0.6, 5), (Operation.AUTOCONTRAST, 0.6, 0)),
        ((Operation.INVERT, 0.6, 0), (Operation.EQUALIZE, 1.0, 0)),
        ((Operation.COLOR, 0.6, 4), (Operation.CONTRAST, 1.0, 8)),
        ((Operation.EQUALIZE, 0.8, 0), (Operation.EQUALIZE, 0.6, 0)),
    ),
    "cifar10": (
        ((Operation.INVERT, 0.1, 0), (Operation.CONTRAST, 0.2, 6)),
        ((Operation.ROTATE, 0.7, 2), (Operation.TRANSLATE_X, 0.3, 9)),
        ((Operation.SHARPNESS, 0.8, 1), (Operation.SHARPNESS, 0.9, 3)),
        ((Operation.SHEAR_Y, 0.5, 8), (Operation.TRANSLATE_Y, 0.7, 9)),
        ((Operation.AUTOCONTRAST, 0.5, 0), (Operation.EQUALIZE, 0.9, 0)),
        ((Operation.SHEAR_Y, 0.2, 7), (Operation.POSTERIZE, 0.3, 7)),
        ((Operation.COLOR, 0.4, 3), (Operation.BRIGHTNESS, 0.6, 7)),
        ((Operation.SHARPNESS, 0.3, 9), (Operation.BRIGHTNESS, 0.7, 9)),
        ((Operation.EQUALIZE, 0.6, 0), (Operation.EQUALIZE, 0.5, 0)),
        ((Operation.CONTRAST, 0.6, 7), (Operation.SHARPNESS, 0.6, 5)),
        ((Operation.COLOR, 0.7, 7), (Operation.TRANSLATE_X, 0.5, 8)),
        ((Operation.EQUALIZE, 0.3, 0), (Operation.AUTOCONTRAST, 0.4, 0)),
        ((Operation.TRANSLATE_Y, 0.4, 3), (Operation.SHARPNESS, 0.2, 6)),
        ((Operation.BRIGHTNESS, 0.9, 6), (Operation.COLOR, 0.2, 8)),
        ((Operation.SOLARIZE, 0.5, 2), (Operation.INVERT, 0.0, 0)),
        ((Operation.EQUALIZE, 0.2, 0), (Operation.AUTOCONTRAST, 0.6, 0)),
        ((Operation.EQUALIZE, 0.2, 0), (Operation.EQUALIZE, 0.6, 0)),
        ((Operation.COLOR, 0.9, 9), (Operation.EQUALIZE, 0.6, 0)),
        ((Operation.AUTOCONTRAST, 0.8, 0), (Operation.SOLARIZE, 0.2, 8)),
        ((Operation.BRIGHTNESS, 0.1, 3), (Operation.COLOR, 0.7, 0)),
        ((Operation.SOLARIZE, 0.4, 5), (Operation.AUTOCONTRAST, 0.9, 0)),
        ((Operation.TRANSLATE_Y, 0.9, 9), (Operation.TRANSLATE_Y, 0.7, 9)),
        ((Operation.AUTOCONTRAST, 0.9, 0), (Operation.SOLARIZE, 0.8, 3)),
        ((Operation.EQUALIZE, 0.8, 0), (Operation.INVERT, 0.1, 0)),
        ((Operation.TRANSLATE_Y, 0.7, 9), (Operation.AUTOCONTRAST, 0.9, 0)),
    ),
}
