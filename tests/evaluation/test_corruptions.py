"""Corruptions against Pillow, SciPy, colorsys and what their strengths say."""

import colorsys
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from jaxcl.evaluation.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    box_weights,
    corrupt_batch,
    corruptions_of,
    disk_kernel,
)

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
SMALL = RANDOM.uniform(size=(32, 32, 3)).astype(np.float32)
GREY = np.full((64, 64, 3), 0.5, np.float32)


def corrupt(name, image, severity, key=KEY):
    return np.asarray(CORRUPTIONS[name](jnp.asarray(image), key, severity))


@pytest.mark.slow
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_results_are_images_that_grow_worse(name):
    smooth = ndimage.gaussian_filter(SMALL, (3, 3, 0))
    image = (smooth - smooth.min()) / np.ptp(smooth)
    errors = []
    for severity in SEVERITIES:
        found = corrupt(name, image, severity)
        assert found.shape == image.shape
        assert found.min() >= 0
        assert found.max() <= 1
        errors.append(np.abs(found - image).mean())
    assert errors[0] > 0
    assert errors[-1] > errors[0] or name in ("saturate", "jpeg_compression")


@pytest.mark.slow
def test_noises_have_their_strengths():
    large = np.full((256, 256, 1), 0.5, np.float32)
    noise = corrupt("gaussian_noise", large, 1) - 0.5
    np.testing.assert_allclose(noise.std(), 0.08, rtol=0.02)
    counts = corrupt("shot_noise", large, 2) * 25
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-4)
    np.testing.assert_allclose(counts.mean(), 12.5, rtol=0.02)  # Poisson: variance as the mean
    np.testing.assert_allclose(counts.var(), 12.5, rtol=0.03)
    hit = corrupt("impulse_noise", large, 3)
    np.testing.assert_allclose([(hit == 0).mean(), (hit == 1).mean()], 0.045, atol=0.003)
    speckle = corrupt("speckle_noise", large, 1) - 0.5
    np.testing.assert_allclose(speckle.std(), 0.5 * 0.15, rtol=0.02)


def test_gaussian_blur_is_scipys():
    found = corrupt("gaussian_blur", SMALL, 5)  # sigma 1 of 32 pixels
    wanted = ndimage.gaussian_filter(SMALL, (1.0, 1.0, 0), mode="mirror", truncate=4.0)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_disk_is_a_disk_softened():
    hard = disk_kernel(3.0, 1e-3, reach=20)
    place = np.arange(-4, 5)
    np.testing.assert_allclose(hard > 0, np.hypot(place, place[:, None]) <= 3.0)
    assert disk_kernel(3.0, 0.5, reach=20).sum() == pytest.approx(1.0, abs=1e-6)


def test_brightness_and_saturation_are_those_of_hsv():
    pixels = SMALL[:4, :4]
    hsv = np.array([[colorsys.rgb_to_hsv(*map(float, p)) for p in row] for row in pixels])

    def to_rgb(hue, saturation, value):
        flat = zip(hue.ravel(), saturation.ravel(), value.ravel(), strict=True)
        return np.array([colorsys.hsv_to_rgb(*each) for each in flat]).reshape(pixels.shape)

    hue, saturation, value = np.moveaxis(hsv, -1, 0)
    brighter = to_rgb(hue, saturation, np.minimum(value + 0.3, 1))
    np.testing.assert_allclose(corrupt("brightness", pixels, 5), brighter, atol=1e-5)
    duller = to_rgb(hue, saturation * 0.3, value)
    np.testing.assert_allclose(corrupt("saturate", pixels, 1), duller, atol=1e-5)


def test_contrast_draws_to_the_mean():
    mean = SMALL.mean((0, 1))
    np.testing.assert_allclose(
        corrupt("contrast", SMALL, 2), (SMALL - mean) * 0.5 + mean, atol=1e-6
    )


@pytest.mark.parametrize(("size", "new_size"), [(32, 24), (32, 20), (9, 32), (7, 7)])
def test_box_filter_is_pillows(size, new_size):
    row = RANDOM.uniform(size=(1, size)).astype(np.float32)
    wanted = Image.fromarray(row).resize((new_size, 1), Image.Resampling.BOX)
    np.testing.assert_allclose(row @ box_weights(size, new_size).T, np.asarray(wanted), atol=1e-6)


def test_jpeg_is_pillows():
    file = io.BytesIO()
    Image.fromarray(np.rint(SMALL * 255).astype(np.uint8)).save(file, "JPEG", quality=58)
    np.testing.assert_allclose(
        corrupt("jpeg_compression", SMALL, 3), np.asarray(Image.open(file)) / 255, atol=1e-6
    )


@pytest.mark.parametrize("name", ["gaussian_blur", "defocus_blur", "motion_blur", "pixelate"])
def test_a_plain_image_stays(name):
    np.testing.assert_allclose(corrupt(name, GREY, 4), GREY, atol=1e-5)


def test_motion_leaves_a_trail_along_one_line():
    dot = np.zeros((33, 33, 1), np.float32)
    dot[16, 16] = 1
    trail = corrupt("motion_blur", dot, 5)[..., 0]
    np.testing.assert_allclose(trail.sum(), 1.0, atol=0.01)
    rows, columns = np.nonzero(trail > 1e-3)
    assert len(rows) > 5
    line = np.polyfit(columns, rows, 1, w=trail[rows, columns])
    distance = np.abs(np.polyval(line, columns) - rows) / np.hypot(1, line[0])
    assert distance.max() < 2**0.5  # pixels beside the line share by interpolation


def test_occlusion_hides_its_share():
    hidden = (corrupt("occlusion", SMALL, 3) != SMALL).any(-1)
    np.testing.assert_allclose(hidden.mean(), 0.2, atol=0.02)
    rows, columns = np.nonzero(hidden)
    assert hidden[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()


def test_what_an_example_gets_hangs_on_its_number():
    images = jnp.asarray(RANDOM.uniform(size=(4, 8, 8, 1)), jnp.float32)
    whole = corrupt_batch("gaussian_noise", 3, KEY, images, jnp.arange(4))
    part = corrupt_batch("gaussian_noise", 3, KEY, images[2:], jnp.arange(2, 4))
    np.testing.assert_array_equal(whole[2:], part)
    assert (np.asarray(whole[0] - images[0]) != np.asarray(whole[1] - images[1])).any()


def test_grey_images_have_no_saturation():
    assert set(CORRUPTIONS) - set(corruptions_of(1)) == {"saturate"}
    assert set(corruptions_of(5)) == set(CORRUPTIONS) - {"saturate", "jpeg_compression"}
    with pytest.raises(ValueError, match="channels"):
        corrupt("saturate", GREY[..., :1], 1)
    with pytest.raises(ValueError, match="severity is 6, expected 1 to 5"):
        corrupt("contrast", GREY, 6)
    with pytest.raises(TypeError):
        corrupt("contrast", np.zeros((4, 4, 3), np.uint8), 1)
