"""The recipes: printed parameters as published, and views as they should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import augment

CROP = "RandomResizedCrop(size={}, scale=({}, 1.0), ratio=(0.75, 1.3333333333333333), method='{}')"
NORMALIZE = "Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))"
FLIP = "RandomHorizontalFlip(p=0.5)"
GREY = "RandomGrayscale(p=0.2)"
KEY = jax.random.key(0)


def printed(*views: list[str]) -> str:
    lines = []
    for position, view in enumerate(views):
        lines += [f"view {position}:", *(f"  {line}" for line in view)]
    return "\n".join(lines)


def test_simclr_prints_the_published_parameters():
    view = [
        CROP.format(224, 0.08, "bilinear"),
        FLIP,
        "with p=0.8: ColorJitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)",
        GREY,
        "with p=0.5: GaussianBlur(kernel_size=23, sigma=(0.1, 2.0))",
        NORMALIZE,
    ]
    assert str(augment.simclr(224)) == printed(view, view)
    cifar = [
        CROP.format(32, 0.08, "bilinear"),
        FLIP,
        "with p=0.8: ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)",
        GREY,
    ]
    assert str(augment.simclr(32, strength=0.5, blur=False, mean=None)) == printed(cifar, cifar)


def test_moco_prints_the_published_parameters():
    v1 = [
        CROP.format(224, 0.2, "bilinear"),
        GREY,
        "ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4)",
        FLIP,
        NORMALIZE,
    ]
    assert str(augment.moco_v1(224)) == printed(v1, v1)
    v2 = [
        CROP.format(32, 0.2, "bilinear"),
        "with p=0.8: ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)",
        GREY,
        "with p=0.5: GaussianBlur(kernel_size=3, sigma=(0.1, 2.0))",
        FLIP,
        NORMALIZE,
    ]
    assert str(augment.moco_v2(32)) == printed(v2, v2)


def test_byol_prints_two_views_that_differ():
    first = [
        CROP.format(96, 0.2, "bicubic"),
        FLIP,
        "with p=0.8: ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)",
        GREY,
    ]
    blur = "GaussianBlur(kernel_size=9, sigma=(0.1, 2.0))"
    second = [*first, f"with p=0.1: {blur}", "RandomSolarize(threshold=0.5, p=0.2)", NORMALIZE]
    assert str(augment.byol(96, min_scale=0.2)) == printed([*first, blur, NORMALIZE], second)


def test_small_crops_follow_the_last_view_but_for_blur_and_solarizing():
    options = {"crops": 1, "full_scale": (0.4, 1.0), "small_scale": (0.05, 0.4)}
    full = augment.byol(96)
    alike = augment.multi_crop(full, 32, **options).views[-1]
    dinos = augment.multi_crop(full, 32, **options, blur=0.5, solarize=False).views[-1]
    crop = CROP.format(32, 0.05, "bicubic").replace("1.0), ratio", "0.4), ratio")
    colour = [
        FLIP,
        "with p=0.8: ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)",
        GREY,
    ]
    assert str(dinos).splitlines() == [
        *(crop, *colour, "with p=0.5: GaussianBlur(kernel_size=3, sigma=(0.1, 2.0))", NORMALIZE)
    ]
    assert str(alike).splitlines() == [
        *(crop, *colour, "with p=0.1: GaussianBlur(kernel_size=9, sigma=(0.1, 2.0))"),
        *("RandomSolarize(threshold=0.5, p=0.2)", NORMALIZE),
    ]


def test_crops_prints_what_it_was_asked_for():
    plain = [CROP.format(28, 0.4, "bilinear")]
    assert str(augment.crops(28)) == printed(plain, plain)
    full = [
        "RandomAffine(degrees=10.0, translate=(0.0, 0.0), scale=(1.0, 1.0), fill=0.0)",
        *plain,
        "ColorJitter(brightness=0.2, contrast=0.2, saturation=0.0, hue=0.0)",
        "GaussianNoise(std=0.02)",
    ]
    options = augment.crops(28, degrees=10.0, brightness=0.2, noise=0.02)
    assert str(options) == printed(full, full)


@pytest.mark.slow
@pytest.mark.parametrize(
    "views",
    [
        augment.byol(8, mean=(0.5,), std=(0.25,)),
        augment.crops(8, brightness=0.2, noise=0.02),
    ],
)
def test_grey_pictures_of_any_shape(views):
    pictures = np.random.default_rng(0).integers(0, 256, (4, 9, 11, 1), np.uint8)
    first, second = jax.jit(lambda *batch: augment.batch_views(views, KEY, *batch))(
        pictures, np.arange(4)
    )
    assert first.shape == second.shape == (4, 8, 8, 1)
    assert first.dtype == jnp.float32
    assert np.isfinite(first).all()
    assert np.isfinite(second).all()
    assert np.abs(first - second).max() > 0.05


@pytest.mark.slow
def test_mean_and_std_normalize():
    plain = augment.moco_v1(8, mean=None).views[0]
    normal = augment.moco_v1(8).views[0]
    picture = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    in_range, result = jax.jit(lambda image: (plain(KEY, image), normal(KEY, image)))(picture)
    assert 0 <= in_range.min() <= in_range.max() <= 1
    expected = (in_range - np.array(augment.IMAGENET_MEAN)) / np.array(augment.IMAGENET_STD)
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_colour_normalization_of_grey_pictures_is_refused():
    with pytest.raises(ValueError, match="one value, or one for each channel"):
        jax.eval_shape(augment.moco_v2(8), KEY, jnp.zeros((9, 9, 1)))
