"""Augmentations of published methods, as `Views`. Print one to read it.

All return two views, normalized by ImageNet's mean and standard deviation: give others as `mean`
and `std`, or `mean=None` to stay in [0, 1]. For grey images give one mean and one std, or None;
what concerns colour does nothing to them.
"""

from jaxcl.augment.random_geometry import RandomAffine, RandomHorizontalFlip, RandomResizedCrop
from jaxcl.augment.random_pixels import (
    ColorJitter,
    GaussianBlur,
    GaussianNoise,
    Normalize,
    RandomGrayscale,
    RandomSolarize,
)
from jaxcl.augment.transforms import Compose, RandomApply, Transform, Views

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def simclr(
    size: int,
    *,
    strength: float = 1.0,
    blur: bool = True,
    mean: tuple[float, ...] | None = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Views:
    """SimCLR (Chen et al., 2020, appendix A): strong colour, two views alike.

    Brightness multiplies, as in the second version's code.

    Args:
      size: side of the views, pixels.
      strength: multiplies the colour jitter (0.8, 0.8, 0.8, 0.2); 0.5 is the paper's for CIFAR.
      blur: whether to blur; the paper does not at 32x32.
      mean: for normalizing, one value a channel; None leaves values in [0, 1].
      std: for normalizing.

    Returns:
      Two views.

    Example:
      >>> from jaxcl import augment
      >>> print(augment.simclr(32, blur=False, mean=None))  # doctest: +ELLIPSIS
      view 0:
        RandomResizedCrop(size=32, scale=(0.08, 1.0), ...
        RandomHorizontalFlip(p=0.5)
        with p=0.8: ColorJitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)
        RandomGrayscale(p=0.2)
      view 1:
      ...
    """
    view = Compose(
        (
            RandomResizedCrop(size),
            RandomHorizontalFlip(0.5),
            RandomApply(
                ColorJitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength), 0.8
            ),
            RandomGrayscale(0.2),
            *((RandomApply(_blur(size), 0.5),) if blur else ()),
            *_normalizing(mean, std),
        )
    )
    return Views((view, view))


def moco_v1(
    size: int,
    *,
    mean: tuple[float, ...] | None = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Views:
    """MoCo v1 (He et al., 2020, section 4): colour jitter always, in all four by 0.4; no blur.

    Args:
      size: side of the views, pixels.
      mean: for normalizing, one value a channel; None leaves values in [0, 1].
      std: for normalizing.

    Returns:
      Two views.
    """
    view = Compose(
        (
            RandomResizedCrop(size, scale=(0.2, 1.0)),
            RandomGrayscale(0.2),
            ColorJitter(0.4, 0.4, 0.4, 0.4),
            RandomHorizontalFlip(0.5),
            *_normalizing(mean, std),
        )
    )
    return Views((view, view))


def moco_v2(
    size: int,
    *,
    mean: tuple[float, ...] | None = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Views:
    """MoCo v2 (Chen et al., 2020), SimSiam's too: colour jitter at 0.8, blur at 0.5.

    Args:
      size: side of the views, pixels.
      mean: for normalizing, one value a channel; None leaves values in [0, 1].
      std: for normalizing.

    Returns:
      Two views.
    """
    view = Compose(
        (
            RandomResizedCrop(size, scale=(0.2, 1.0)),
            RandomApply(ColorJitter(0.4, 0.4, 0.4, 0.1), 0.8),
            RandomGrayscale(0.2),
            RandomApply(_blur(size), 0.5),
            RandomHorizontalFlip(0.5),
            *_normalizing(mean, std),
        )
    )
    return Views((view, view))


def byol(
    size: int,
    min_scale: float = 0.08,
    *,
    mean: tuple[float, ...] | None = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Views:
    """BYOL (Grill et al., 2020, appendix B), Barlow Twins, VICReg, MoCo v3: views that differ.

    The first is always blurred and never solarized; the second is blurred once in ten times and
    solarized once in five.

    Args:
      size: side of the views, pixels.
      min_scale: smallest share of the image in a crop; MoCo v3 uses 0.2 for ResNet-50.
      mean: for normalizing, one value a channel; None leaves values in [0, 1].
      std: for normalizing.

    Returns:
      Two views.
    """
    shared: tuple[Transform, ...] = (
        RandomResizedCrop(size, scale=(min_scale, 1.0), method="bicubic"),
        RandomHorizontalFlip(0.5),
        RandomApply(ColorJitter(0.4, 0.4, 0.2, 0.1), 0.8),
        RandomGrayscale(0.2),
    )
    last = _normalizing(mean, std)
    return Views(
        (
            Compose((*shared, _blur(size), *last)),
            Compose((*shared, RandomApply(_blur(size), 0.1), RandomSolarize(0.5, 0.2), *last)),
        )
    )


def crops(
    size: int,
    scale: tuple[float, float] = (0.4, 1.0),
    *,
    degrees: float = 0.0,
    brightness: float = 0.0,
    noise: float = 0.0,
) -> Views:
    """For small grey pictures such as digits: no colour, and no flip, which makes another sign.

    Args:
      size: side of the views, pixels.
      scale: smallest and largest share of the image in a crop.
      degrees: largest rotation, before the crop; 0 leaves it out.
      brightness: strength of a random factor of brightness and contrast; 0 leaves it out.
      noise: standard deviation of added noise, in units of [0, 1]; 0 leaves it out.

    Returns:
      Two views alike, in [0, 1].
    """
    steps: list[Transform] = []
    if degrees:
        steps.append(RandomAffine(degrees, translate=(0.0, 0.0), scale=(1.0, 1.0)))
    steps.append(RandomResizedCrop(size, scale=scale))
    if brightness:
        steps.append(ColorJitter(brightness=brightness, contrast=brightness))
    if noise:
        steps.append(GaussianNoise(noise))
    view = Compose(tuple(steps))
    return Views((view, view))


def _blur(size: int) -> GaussianBlur:
    """A kernel of a tenth of the side, made odd: 23 for 224, 3 for 32."""
    return GaussianBlur(max(3, 2 * (size // 20) + 1), sigma=(0.1, 2.0))


def _normalizing(mean: tuple[float, ...] | None, std: tuple[float, ...]) -> tuple[Transform, ...]:
    return () if mean is None else (Normalize(mean, std),)
