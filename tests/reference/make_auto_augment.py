"""Makes auto_augment.npz: torchvision's operations, magnitudes and policies of RandAugment and
AutoAugment.

    pip install torch==2.14.1 torchvision==0.29.1 numpy
    python tests/reference/make_auto_augment.py

Torch is needed here only; the tests read the golden file. Operations that torchvision defines for
floats get the image as floats, so that they differ by rounding alone; `Posterize` and `Equalize`
get 8 bits. `apply/NAME/N/` holds an operation's `magnitude` and its result on `image`, `out`.
"""

from pathlib import Path

import numpy as np
import torch
from torchvision.transforms import AutoAugment, AutoAugmentPolicy, InterpolationMode, RandAugment
from torchvision.transforms.autoaugment import _apply_op

GOLDEN = Path(__file__).with_name("auto_augment.npz")
MAGNITUDES = {
    "ShearX": (0.17, -0.3),
    "ShearY": (0.17, -0.3),
    "TranslateX": (7.0, -3.0),
    "TranslateY": (5.0, -3.0),
    "Rotate": (17.0, -30.0),
    "Brightness": (0.4, -0.9),
    "Color": (0.4, -0.9),
    "Contrast": (0.4, -0.9),
    "Sharpness": (0.9, -0.9),
    "Posterize": (7.0, 4.0),
    "Solarize": (0.7, 0.3),
    "AutoContrast": (0.0,),
    "Equalize": (0.0,),
    "Invert": (0.0,),
}
EIGHT_BITS = ("Posterize", "Equalize")
NO_LEVEL = -1  # what the golden file has where a policy gives no level


def make_image() -> np.ndarray:
    """[H, W, 3] uint8: smooth colours that do not reach 0 or 255, under noise."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[0:24, 0:34]
    planes = [90 + 60 * np.sin(x / 5), 40 + 4 * y + x, 128 + 50 * np.cos((x + y) / 7)]
    noisy = np.stack(planes, axis=-1) + generator.normal(0, 12, (24, 34, 3))
    return np.clip(noisy, 8, 240).astype(np.uint8)


def make_flat_image() -> np.ndarray:
    """[H, W, 3] uint8: a channel of one value, one of two, one mostly of its largest."""
    y, x = np.mgrid[0:20, 0:20]
    return np.stack([np.full((20, 20), 77), 50 + 30 * (x > 6), np.minimum(9 * y, 60)], -1).astype(
        np.uint8
    )


def apply(name: str, image: np.ndarray, magnitude: float) -> np.ndarray:
    """torchvision's result for [H, W, 3] uint8; floats, or uint8 where it takes no floats."""
    planes = torch.from_numpy(image.transpose(2, 0, 1).copy())
    given = planes if name in EIGHT_BITS else planes.float() / 255
    return (
        _apply_op(given, name, magnitude, InterpolationMode.BILINEAR, None)
        .numpy()
        .transpose(1, 2, 0)
    )


def main() -> None:
    image, flat = make_image(), make_flat_image()
    golden = {"image": image, "flat": flat}
    for name in ("AutoContrast", "Equalize"):
        golden[f"flat/{name}"] = apply(name, flat, 0.0)
    for name, magnitudes in MAGNITUDES.items():
        for number, magnitude in enumerate(magnitudes):
            golden[f"apply/{name}/{number}/magnitude"] = np.float32(magnitude)
            golden[f"apply/{name}/{number}/out"] = apply(name, image, magnitude)

    for height, width in ((224, 224), (32, 40)):
        for bins, space in (
            (31, RandAugment()._augmentation_space(31, (height, width))),
            (10, AutoAugment()._augmentation_space(10, (height, width))),
        ):
            for name, (magnitudes, signed) in space.items():
                case = f"table/{bins}/{height}x{width}/{name}"
                golden[case] = magnitudes.numpy()
                golden[f"signed/{name}"] = np.array(signed)

    for policy in (AutoAugmentPolicy.IMAGENET, AutoAugmentPolicy.CIFAR10):
        pairs = AutoAugment(policy).policies
        golden[f"policy/{policy.value}/operations"] = np.array(
            [[name for name, _, _ in pair] for pair in pairs]
        )
        golden[f"policy/{policy.value}/probabilities"] = np.array(
            [[probability for _, probability, _ in pair] for pair in pairs]
        )
        golden[f"policy/{policy.value}/levels"] = np.array(
            [[NO_LEVEL if level is None else level for _, _, level in pair] for pair in pairs]
        )
    space = RandAugment()._augmentation_space(31, (32, 32))
    golden["rand_augment_operations"] = np.array(list(space))
    np.savez_compressed(GOLDEN, **golden)


if __name__ == "__main__":
    main()
