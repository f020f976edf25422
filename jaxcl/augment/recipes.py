"""Augmentations of published methods, as `Views`. Print one to read it.

All return two views, normalized by ImageNet's mean and standard deviation: give others as `mean`
and `std`, or `mean=None` to stay in [0, 1]. For grey images give one mean and one std, or None;
what concerns colour does nothing to them.
"""

import dataclasses
from typing import Any

from jaxcl.augment.auto_augment import AutoAugment
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


def multi_crop(
    full: Views,
    small: int,
    *,
    crops: int = 6,
    full_scale: tuple[float, float] = (0.14, 1.0),
    small_scale: tuple[float, float] = (0.05, 0.14),
    blur: float | None = None,
    solarize: bool = True,
) -> Views:
    """Multi-crop (Caron et al., 2020): a recipe's views, and small crops beside them.

    Every crop is one of the recipe's, at another scale; the small ones follow its last view.

    Args:
      full: the recipe of the full-size views, as `simclr(224)`; their number stays.
      small: side of the small crops, pixels; smaller than the full ones.
      crops: how many small crops.
      full_scale: smallest and largest share of the image in a full-size crop.
      small_scale: the same of a small crop.
      blur: probability of blurring a small crop; None: as the last view.
      solarize: whether small crops are solarized where the last view is; DINO's are not.

    Returns:
      The full-size views, then the small ones.

    Raises:
      ValueError: if `small` is not smaller than the full size, or a view has no RandomResizedCrop.

    Example:
      >>> from jaxcl import augment
      >>> views = augment.multi_crop(augment.simclr(32, mean=None), 16, crops=4)
      >>> len(views.views)
      6
    """
    sizes = [_crop_of(view).size for view in full.views]
    smallest = min(min(size) if isinstance(size, tuple) else size for size in sizes)
    if not 0 < small < smallest:
        raise ValueError(f"multi_crop: small is {small}, expected below the full size {smallest}")
    if crops < 1:
        raise ValueError(f"multi_crop: crops is {crops}, expected at least 1")
    large = tuple(_with_crop(view, scale=full_scale) for view in full.views)
    little = _with_crop(full.views[-1], scale=small_scale, size=small)
    if blur is not None:
        little = _with_blur(little, small, blur)
    if not solarize and isinstance(little, Compose):
        kept = (step for step in little.transforms if not isinstance(step, RandomSolarize))
        little = Compose(tuple(kept))
    return Views((*large, *(little,) * crops))


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


def supcon(
    size: int,
    augmentation: Transform | None = None,
    *,
    mean: tuple[float, ...] | None = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Views:
    """SupCon on ImageNet (Khosla et al., 2020, sections 4 and 4.4): two views by AutoAugment.

    For CIFAR the authors' code draws as `simclr(32, strength=0.5, blur=False)`, with crops from a
    fifth of the image.

    Args:
      size: side of the views, pixels.
      augmentation: after crop and flip; None: `AutoAugment("imagenet")`. `RandAugment()` is the
        paper's other choice.
      mean: for normalizing, one value a channel; None leaves values in [0, 1].
      std: for normalizing.

    Returns:
      Two views.

    Example:
      >>> from jaxcl import augment
      >>> print(augment.supcon(224, augment.RandAugment(), mean=None))  # doctest: +ELLIPSIS
      view 0:
        RandomResizedCrop(size=224, scale=(0.08, 1.0), ...
        RandomHorizontalFlip(p=0.5)
        RandAugment(num_ops=2, magnitude=9, num_magnitude_bins=31, fill=0.0)
      view 1:
      ...
    """
    view = Compose(
        (
            RandomResizedCrop(size),
            RandomHorizontalFlip(0.5),
            AutoAugment("imagenet") if augmentation is None else augmentation,
            *_normalizing(mean, std),
        )
    )
    return Views((view, view))


def _blur(size: int) -> GaussianBlur:
    """A kernel of a tenth of the side, made odd: 23 for 224, 3 for 32."""
    return GaussianBlur(max(3, 2 * (size // 20) + 1), sigma=(0.1, 2.0))


def _normalizing(mean: tuple[float, ...] | None, std: tuple[float, ...]) -> tuple[Transform, ...]:
    return () if mean is None else (Normalize(mean, std),)


def _crop_of(view: Transform) -> RandomResizedCrop:
    steps = view.transforms if isinstance(view, Compose) else (view,)
    for step in steps:
        if isinstance(step, RandomResizedCrop):
            return step
    raise ValueError(f"multi_crop: no RandomResizedCrop in {view}")


def _with_crop(view: Transform, **changes: Any) -> Transform:
    """The view with another crop; blurs keep their kernel."""
    crop = _crop_of(view)
    changed = dataclasses.replace(crop, **changes)
    if not isinstance(view, Compose):
        return changed
    return Compose(tuple(changed if step is crop else step for step in view.transforms))


def _with_blur(view: Transform, size: int, p: float) -> Transform:
    """The view blurred with this probability, by the kernel for its size."""
    if not isinstance(view, Compose):
        return view
    steps: list[Transform] = []
    for step in view.transforms:
        inner = step.transform if isinstance(step, RandomApply) else step
        steps.append(RandomApply(_blur(size), p) if isinstance(inner, GaussianBlur) else step)
    return Compose(tuple(steps))
