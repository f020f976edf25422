"""The deterministic functions against torchvision's results and obvious NumPy."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from jaxcl import augment

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "reference" / "augment.npz")
CASES = sorted({name.split("/")[0] for name in GOLDEN.files if "/" in name})
BOX = ("top", "left", "height", "width")
GENERATOR = np.random.default_rng(0)


def run_case(case: str) -> np.ndarray:
    """The case's function, jitted and vmapped over images and parameters, which are traced."""
    images = GOLDEN["image"]

    def traced(name: str) -> np.ndarray:
        value = GOLDEN[f"{case}/param/{name}"].astype(np.float32)
        return np.broadcast_to(value, (len(images), *value.shape))

    def static(name: str) -> int:
        return int(GOLDEN[f"{case}/param/{name}"])

    def over(function, *names: str) -> np.ndarray:
        return jax.jit(jax.vmap(function))(images, *(traced(name) for name in names))

    kind = case.split("_")[0]
    if kind in ("brightness", "contrast", "saturation", "hue"):
        return over(getattr(augment, f"adjust_{kind}"), "factor")
    if kind == "gaussian":
        kernel_size = static("kernel_size")
        return over(lambda image, sigma: augment.gaussian_blur(image, kernel_size, sigma), "sigma")
    if kind == "resized":
        size, method = static("size"), case.split("_")[2]
        return over(
            lambda image, *box: augment.resized_crop(image, *box, size, method=method), *BOX
        )
    if kind == "grayscale":
        return over(lambda image: augment.rgb_to_grayscale(image, num_output_channels=3))
    if kind == "solarize":
        return over(augment.solarize, "threshold")
    if kind == "horizontal":
        return over(augment.horizontal_flip)
    if kind == "normalize":
        return over(augment.normalize, "mean", "std")
    raise AssertionError(f"no function for the golden case {case}")


@pytest.mark.parametrize("case", CASES)
def test_equals_torchvision(case: str):
    # 1e-6 of values up to 2.7: float32 rounding in another order of summation.
    np.testing.assert_allclose(run_case(case), GOLDEN[f"{case}/out"], rtol=0, atol=2e-6)


def test_hue_of_colours_that_tie_and_of_greys():
    """At equal largest channels the hue's formulas must meet; greys have no hue."""
    colours = np.array(
        [[1, 1, 0], [0, 1, 1], [1, 0, 1], [0.3, 0.3, 0.3], [0, 0, 0], [1, 1, 1]], np.float32
    )[None]
    turned = augment.adjust_hue(colours, 1 / 3)
    expected = colours[..., [2, 0, 1]]  # a third of a turn: red to green, green to blue
    np.testing.assert_allclose(turned, expected, atol=1e-6)


@pytest.mark.slow
def test_whole_box_at_its_own_size_is_the_image():
    image = GOLDEN["image"][0]
    for method in ("bilinear", "bicubic"):
        same = augment.resized_crop(image_of(image), 0, 0, 40, 48, (40, 48), method=method)
        np.testing.assert_allclose(same, image, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(12, 9, 3), (9, 12, 5)])
def test_any_channels_and_not_square(shape: tuple[int, int, int]):
    """Crop, blur, flip, solarize and normalize treat each channel alone."""
    image = image_of(GENERATOR.random(shape, np.float32))
    for function in (
        lambda x: augment.resized_crop(x, 1, 2, 7, 5, (4, 6)),
        lambda x: augment.gaussian_blur(x, 5, 1.3),
        augment.horizontal_flip,
        lambda x: augment.solarize(x, 0.4),
        lambda x: augment.normalize(x, [0.4], [0.2]),
    ):
        whole = function(image)
        channels = [function(image[..., i : i + 1]) for i in range(shape[-1])]
        np.testing.assert_allclose(whole, jnp.concatenate(channels, axis=-1), atol=1e-6)


def test_blur_as_scipy_with_a_kernel_as_long_as_the_image_allows():
    image = GENERATOR.random((9, 9, 1), np.float32)
    taps = np.exp(-0.5 * (np.arange(-8, 9) / 3.0) ** 2)
    taps /= taps.sum()
    expected = scipy.ndimage.correlate1d(image, taps, axis=0, mode="mirror")
    expected = scipy.ndimage.correlate1d(expected, taps, axis=1, mode="mirror")
    np.testing.assert_allclose(augment.gaussian_blur(image_of(image), 17, 3.0), expected, atol=1e-6)


def test_affine_as_scipy():
    image = GENERATOR.random((9, 12, 2), np.float32)
    angle, right, down, scale = 20.0, 2.0, -1.0, 1.25
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    forward = scale * np.array([[cos, sin], [-sin, cos]])  # of (y, x), clockwise on a screen
    backward = np.linalg.inv(forward)
    center = np.array([4.0, 5.5])
    offset = center - backward @ (center + np.array([down, right]))
    expected = np.stack(
        [
            scipy.ndimage.affine_transform(
                image[..., i], backward, offset, order=1, mode="grid-constant", cval=0.3
            )
            for i in range(2)
        ],
        axis=-1,
    )
    result = augment.affine(image_of(image), angle, (right, down), scale, fill=0.3)
    np.testing.assert_allclose(result, expected, atol=5e-6)


def test_affine_turns_clockwise():
    image = jnp.zeros((3, 3, 1)).at[0, 1].set(1.0)  # top middle
    turned = augment.affine(image, 90.0, (0.0, 0.0), 1.0)
    np.testing.assert_allclose(turned, jnp.zeros((3, 3, 1)).at[1, 2].set(1.0), atol=1e-6)


def test_to_float():
    assert augment.to_float(np.array([0, 51, 255], np.uint8)).tolist() == pytest.approx([0, 0.2, 1])
    half = augment.to_float(np.array([0.5], np.float16))
    assert half.dtype == jnp.float32
    assert half.item() == 0.5
    with pytest.raises(TypeError, match="int32"):
        augment.to_float(np.array([1], np.int32))


def test_grey_images_as_torchvision():
    """One channel: contrast pulls to the mean; saturation and hue do nothing."""
    image = image_of(GENERATOR.random((6, 5, 1), np.float32))
    np.testing.assert_array_equal(augment.adjust_saturation(image, 0.3), image)
    np.testing.assert_array_equal(augment.adjust_hue(image, 0.3), image)
    np.testing.assert_allclose(
        augment.adjust_contrast(image, 0.5), 0.5 * image + 0.5 * image.mean(), atol=1e-6
    )
    assert augment.rgb_to_grayscale(image, num_output_channels=3).shape == (6, 5, 3)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: augment.adjust_brightness(x, 0.5),
        lambda x: augment.adjust_contrast(x, 0.5),
        lambda x: augment.adjust_saturation(x, 0.5),
        lambda x: augment.adjust_hue(x, 0.1),
        augment.rgb_to_grayscale,
        lambda x: augment.ColorJitter(0.4)(jax.random.key(0), x),
    ],
)
def test_colour_refuses_other_channel_counts_at_trace_time(function):
    with pytest.raises(ValueError, match="1 or 3 channels, got 4"):
        jax.eval_shape(function, jnp.zeros((8, 8, 4)))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: augment.solarize(jnp.zeros((4, 4, 1), jnp.uint8), 0.5), TypeError, "to_float"),
        (lambda: augment.horizontal_flip(jnp.zeros((4, 4))), ValueError, r"\[H, W, C\]"),
        (lambda: augment.gaussian_blur(jnp.zeros((8, 8, 1)), 4, 1.0), ValueError, "odd"),
        (lambda: augment.gaussian_blur(jnp.zeros((4, 8, 1)), 9, 1.0), ValueError, "at most 7"),
        (
            lambda: augment.resized_crop(jnp.zeros((4, 4, 1)), 0, 0, 4, 4, 0),
            ValueError,
            "size is 0",
        ),
        (
            lambda: augment.resized_crop(jnp.zeros((4, 4, 1)), 0, 0, 4, 4, 2, method="nearest"),
            ValueError,
            "'bilinear' or 'bicubic'",
        ),
        (
            lambda: augment.normalize(jnp.zeros((4, 4, 1)), [0.1, 0.2, 0.3], [1.0]),
            ValueError,
            "1 channels",
        ),
        (
            lambda: augment.rgb_to_grayscale(jnp.zeros((4, 4, 3)), num_output_channels=2),
            ValueError,
            "1 or 3",
        ),
    ],
)
def test_errors_say_what_was_expected(call, error, words):
    with pytest.raises(error, match=words):
        call()


def image_of(array: np.ndarray) -> jax.Array:
    return jnp.asarray(array)
