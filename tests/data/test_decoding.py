"""Any picture that Pillow opens becomes upright 8-bit grey or RGB; anything else is told apart."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxcl.data.decoding import (
    Undecodable,
    decode,
    image_extensions,
    image_formats,
    read_or_next,
    resize_centre,
)


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.fixture
def rgb(rng):
    return rng.integers(0, 256, (6, 8, 3), np.uint8)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "TGA"])
def test_lossless_formats_keep_every_pixel(rgb, form):
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(rgb), form), "x"), rgb)


def test_jpeg_is_close_and_upright(rng):
    # Orientation 6: the camera was turned, the picture is to be turned 90 degrees clockwise.
    stored = np.kron(rng.integers(0, 256, (2, 3, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg = encoded(Image.fromarray(stored), "JPEG", quality=100, subsampling=0, exif=exif)
    image = decode(jpeg, "x")
    assert image.shape == (48, 32, 3)
    difference = image.astype(int) - np.rot90(stored, -1)
    assert np.abs(difference).max() <= 4  # of 255, JPEG's rounding at quality 100


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation(rgb, orientation):
    undo = {  # EXIF 2.3, tag 0x0112
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
        8: lambda a: np.rot90(a, 1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(
        decode(encoded(Image.fromarray(rgb), "PNG", exif=exif), "x"), undo(rgb)
    )


def test_grey_fills_three_channels_or_stays_one(rgb):
    grey = rgb[..., 0]
    png = encoded(Image.fromarray(grey))
    np.testing.assert_array_equal(decode(png, "x"), np.repeat(grey[..., None], 3, axis=-1))
    np.testing.assert_array_equal(decode(png, "x", channels=1), grey[..., None])


def test_rgb_to_one_channel_is_luma(rgb):
    luma = rgb @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    grey = decode(encoded(Image.fromarray(rgb)), "x", channels=1)[..., 0]
    assert np.abs(grey - luma).max() <= 1


def test_sixteen_bits_keep_the_upper_eight(rng):
    wide = rng.integers(0, 65536, (5, 7), np.uint16)
    png = encoded(Image.fromarray(wide))
    np.testing.assert_array_equal(decode(png, "x", channels=1)[..., 0], wide >> 8)


def test_palette(rng):
    palette = rng.integers(0, 256, (256, 3), np.uint8)
    indices = rng.integers(0, 256, (5, 7), np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    np.testing.assert_array_equal(decode(encoded(image), "x"), palette[indices])


def test_transparency_shows_white(rgb, rng):
    alpha = rng.integers(0, 256, rgb.shape[:2], np.uint8)
    alpha[0, :2] = 0, 255
    image = decode(encoded(Image.fromarray(np.dstack([rgb, alpha]))), "x")
    share = alpha[..., None] / 255
    assert np.abs(image - (share * rgb + (1 - share) * 255)).max() <= 1
    assert image[0, 0].tolist() == [255, 255, 255]
    assert image[0, 1].tolist() == rgb[0, 1].tolist()


def test_transparent_palette_entry_shows_white():
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60])
    shown = decode(encoded(image, transparency=1), "x")
    assert shown.tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_cmyk():
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 0, 0], [0, 0, 0, 255]]], np.uint8)
    image = decode(encoded(Image.fromarray(inks, "CMYK"), "TIFF"), "x")
    assert image.tolist() == [[[255, 255, 255], [0, 255, 255], [255, 0, 255], [0, 0, 0]]]


def test_animation_gives_its_first_frame(rng):
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (9, 200)]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.unique(decode(gif, "x")).tolist() == [9]


@pytest.mark.parametrize("shape", [(8, 24, 3), (24, 8, 3)])
def test_size_resizes_the_shorter_side_and_keeps_the_centre(rng, shape):
    image = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
    whole = image.resize((image.width // 2, image.height // 2), Image.Resampling.BILINEAR)
    x, y = whole.width // 2, whole.height // 2
    centre = whole.crop((x - 2, y - 2, x + 2, y + 2))
    np.testing.assert_array_equal(decode(encoded(image), "x", size=4), np.asarray(centre))


def test_size_of_large_jpeg_is_close_to_resizing_all_its_pixels():
    # JPEG is decoded at reduced size first; that must show no more than JPEG itself does.
    y, x = np.mgrid[:512, :512] / 512
    smooth = np.stack([x, y, (np.sin(9 * x) + 1) / 2], axis=-1)
    full = (smooth * 255).astype(np.uint8)
    jpeg = encoded(Image.fromarray(full), "JPEG", quality=95)
    reduced = decode(jpeg, "x", size=32).astype(int)
    assert np.abs(reduced - resize_centre(full, 32)).max() <= 4


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_resize_centre_by_a_triangle_filter(rng, dtype):
    # Halving with an antialiased bilinear filter weighs the four nearest of a row 1 3 3 1 over 8.
    image = (rng.random((8, 8, 2)) * 255).astype(dtype)
    inner = image[1:7, 1:7].astype(float)
    taps = np.array([1, 3, 3, 1]) / 8
    windows = np.lib.stride_tricks.sliding_window_view(inner, (4, 4), axis=(0, 1))[::2, ::2]
    expected = np.einsum("hwcyx,y,x->hwc", windows, taps, taps)
    resized = resize_centre(image, 4)
    assert resized.dtype == dtype
    # 8-bit results are rounded after each of the two passes.
    atol = 1.01 if dtype == np.uint8 else 1e-4
    np.testing.assert_allclose(resized[1:3, 1:3], expected, atol=atol)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_damaged_bytes_are_told_apart(rgb, form):
    whole = encoded(Image.fromarray(np.tile(rgb, (8, 8, 1))), form)
    for damaged in (b"", b"no image", whole[: len(whole) // 2], whole[:20]):
        with pytest.raises(Undecodable, match=r"some/file\.png does not decode"):
            decode(damaged, "some/file.png")


def test_float_pictures_are_refused_with_a_reason():
    tiff = encoded(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF")
    with pytest.raises(Undecodable, match="8 or 16 bits"):
        decode(tiff, "x")


def test_formats_that_start_other_programs_are_left_out():
    assert "EPS" not in image_formats()
    assert not {".eps", ".pdf", ".txt"} & image_extensions()
    assert {".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif"} <= image_extensions()


def read_where(readable):
    def read(record):
        if record not in readable:
            raise Undecodable(f"record {record}")
        return {"image": np.array(record), "replaced": False}

    return read


@pytest.mark.parametrize(("record", "found"), [(1, 1), (2, 4), (3, 4), (5, 0)])
def test_next_readable_record_stands_in(record, found):
    result = read_or_next(record, 6, read_where({0, 1, 4}))
    assert result["image"] == found
    assert result["replaced"] == (record != found)


def test_many_unreadable_in_a_row_end_the_run():
    with pytest.raises(ValueError, match="64 records in a row; the first: record 10"):
        read_or_next(10, 1000, read_where({0, 74}))
    assert read_or_next(11, 1000, read_where({0, 74}))["image"] == 74
    with pytest.raises(ValueError, match="3 records in a row; the first: record 2"):
        read_or_next(2, 3, read_where(()))
