"""Views of an image, a text or a sound: deterministic functions, random transforms, recipes named
after papers.

Images are `[H, W, C]`, uint8 or float in [0, 1]; a transform maps `(key, image)` to an image;
`batch_views` draws the views of a batch inside a jitted step.
"""

from jaxcl.augment.auto_augment import AutoAugment, RandAugment
from jaxcl.augment.blur import gaussian_blur
from jaxcl.augment.color import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    rgb_to_grayscale,
    solarize,
)
from jaxcl.augment.geometry import affine, horizontal_flip, resized_crop
from jaxcl.augment.pixels import normalize, to_float
from jaxcl.augment.random_geometry import (
    RandomAffine,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
)
from jaxcl.augment.random_pixels import (
    ColorJitter,
    GaussianBlur,
    GaussianNoise,
    Normalize,
    RandomGrayscale,
    RandomSolarize,
)
from jaxcl.augment.recipes import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    byol,
    crops,
    moco_v1,
    moco_v2,
    multi_crop,
    simclr,
    supcon,
)
from jaxcl.augment.sound import (
    AddNoise,
    MixBackground,
    RandomGain,
    RandomWindow,
    SpecAugment,
    TimeShift,
    mix_spectrograms,
)
from jaxcl.augment.spectrograms import (
    MFCC,
    LogMel,
    cepstrum,
    decibels,
    mel_filters,
    power_spectrogram,
)
from jaxcl.augment.text import DeleteTokens, MaskTokens, OneOf, Unchanged, texts
from jaxcl.augment.times import (
    far_times,
    in_order,
    masked_others,
    near_and_far,
    span_mask,
    window_start,
)
from jaxcl.augment.tones import adjust_sharpness, autocontrast, equalize, invert, posterize
from jaxcl.augment.transforms import (
    Compose,
    EachFrame,
    RandomApply,
    Transform,
    Views,
    batch_views,
    to_samples,
)

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "MFCC",
    "AddNoise",
    "AutoAugment",
    "ColorJitter",
    "Compose",
    "DeleteTokens",
    "EachFrame",
    "GaussianBlur",
    "GaussianNoise",
    "LogMel",
    "MaskTokens",
    "MixBackground",
    "Normalize",
    "OneOf",
    "RandAugment",
    "RandomAffine",
    "RandomApply",
    "RandomCrop",
    "RandomGain",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "RandomSolarize",
    "RandomWindow",
    "SpecAugment",
    "TimeShift",
    "Transform",
    "Unchanged",
    "Views",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "adjust_sharpness",
    "affine",
    "autocontrast",
    "batch_views",
    "byol",
    "cepstrum",
    "crops",
    "decibels",
    "equalize",
    "far_times",
    "gaussian_blur",
    "horizontal_flip",
    "in_order",
    "invert",
    "masked_others",
    "mel_filters",
    "mix_spectrograms",
    "moco_v1",
    "moco_v2",
    "multi_crop",
    "near_and_far",
    "normalize",
    "posterize",
    "power_spectrogram",
    "resized_crop",
    "rgb_to_grayscale",
    "simclr",
    "solarize",
    "span_mask",
    "supcon",
    "texts",
    "to_float",
    "to_samples",
    "window_start",
]
