"""The random parameters against torchvision's algorithms in NumPy, and what transforms promise."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxcl import augment

KEY = jax.random.key(7)


def keys(count: int) -> jax.Array:
    return jax.random.split(KEY, count)


def torchvision_box(generator, height, width, scale, ratio):
    """RandomResizedCrop.get_params, written as torchvision's algorithm is described."""
    for _ in range(10):
        area = height * width * generator.uniform(*scale)
        aspect = math.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return generator.integers(height - h + 1), generator.integers(width - w + 1), h, w
    if width / height < ratio[0]:
        w, h = width, round(width / ratio[0])
    elif width / height > ratio[1]:
        w, h = round(height * ratio[1]), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.slow
@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [(40, 48, (0.08, 1.0)), (64, 40, (0.2, 1.0)), (24, 96, (0.5, 1.0))],
)
def test_crop_boxes_are_distributed_as_torchvisions(height, width, scale):
    crop = augment.RandomResizedCrop(8, scale=scale)
    draw = jax.jit(jax.vmap(lambda key: jnp.stack(crop.draw_box(key, height, width))))
    ours = np.asarray(draw(keys(20_000)), np.float64)
    generator = np.random.default_rng(0)
    theirs = np.array(
        [torchvision_box(generator, height, width, scale, crop.ratio) for _ in range(20_000)]
    )
    np.testing.assert_array_equal(ours, np.round(ours))
    assert (ours[:, 2:] >= 1).all()
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all()
    statistics = {
        "top": lambda box: box[:, 0],
        "left": lambda box: box[:, 1],
        "area": lambda box: box[:, 2] * box[:, 3],
        "ratio": lambda box: box[:, 3] / box[:, 2],
    }
    for name, statistic in statistics.items():
        distance = scipy.stats.ks_2samp(statistic(ours), statistic(theirs)).statistic
        # 1.95 sqrt(2 / n): a sample of the same distribution exceeds it once in a thousand.
        assert distance < 1.95 * math.sqrt(2 / 20_000), (name, distance)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(10, 200, (0, 93, 10, 13)), (200, 10, (93, 0, 13, 10)), (20, 20, (0, 0, 20, 20))],
)
def test_crop_falls_back_to_the_central_box(height, width, expected):
    # A scale of exactly 1 never fits long images, and in square ones only with ratio 1.
    ratio = (3 / 4, 4 / 3) if height != width else (0.999999, 1.000001)
    crop = augment.RandomResizedCrop(8, scale=(1.0, 1.0), ratio=ratio)
    assert tuple(float(side) for side in crop.draw_box(KEY, height, width)) == expected


def test_crop_is_resized_crop_of_the_drawn_box_and_bicubic_is_clipped():
    image = jax.random.uniform(KEY, (20, 30, 3)).round()  # edges overshoot
    crop = augment.RandomResizedCrop((24, 36), scale=(0.3, 0.9), method="bicubic")

    @jax.jit
    def both(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        box = crop.draw_box(key, 20, 30)
        unclipped = augment.resized_crop(image, *box, (24, 36), method="bicubic")
        return crop(key, image), unclipped

    result, unclipped = both(KEY)
    np.testing.assert_allclose(result, np.clip(unclipped, 0, 1), atol=1e-6)
    assert unclipped.min() < 0 or unclipped.max() > 1


def share_changed(transform: augment.Transform, image: jax.Array, count: int = 4000) -> float:
    out = jax.jit(jax.vmap(transform, in_axes=(0, None)))(keys(count), image)
    return float(jnp.mean(jnp.any(out != image, axis=(1, 2, 3))))


@pytest.mark.parametrize("p", [0.0, 0.2, 1.0])
@pytest.mark.parametrize(
    "make",
    [
        augment.RandomHorizontalFlip,
        augment.RandomGrayscale,
        lambda p: augment.RandomSolarize(0.5, p),
        lambda p: augment.RandomApply(augment.GaussianNoise(0.1), p),
    ],
)
def test_probabilities(make, p):
    image = jax.random.uniform(KEY, (3, 4, 3))
    spread = 4 * math.sqrt(p * (1 - p) / 4000)  # four standard deviations; none for 0 and 1
    assert abs(share_changed(make(p), image) - p) <= spread


def test_flip_grey_and_solarize_do_what_their_functions_do():
    image = jax.random.uniform(KEY, (4, 5, 3))
    np.testing.assert_array_equal(augment.RandomHorizontalFlip(1.0)(KEY, image), image[:, ::-1])
    np.testing.assert_allclose(
        augment.RandomGrayscale(1.0)(KEY, image), augment.rgb_to_grayscale(image, 3), atol=1e-7
    )
    np.testing.assert_array_equal(
        augment.RandomSolarize(0.3, 1.0)(KEY, image), augment.solarize(image, 0.3)
    )


def test_jitter_draws_uniform_factors_and_orders():
    jitter = augment.ColorJitter(0.4, 1.5, 0.2, 0.1)
    orders, factors = jax.jit(jax.vmap(jitter.draw))(keys(20_000))
    ranges = [(0.6, 1.4), (0.0, 2.5), (0.8, 1.2), (-0.1, 0.1)]
    for position, (low, high) in enumerate(ranges):
        uniform = (np.asarray(factors[:, position]) - low) / (high - low)
        assert scipy.stats.kstest(uniform, "uniform").pvalue > 1e-3
    permutations = list(itertools.permutations(range(4)))
    drawn = [tuple(order) for order in np.asarray(orders).tolist()]
    counts = [drawn.count(permutation) for permutation in permutations]
    assert sum(counts) == len(drawn)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    # Order and factors are independent of each other.
    first = np.asarray(orders[:, 0])
    for position in range(4):
        assert abs(np.corrcoef(first, factors[:, position])[0, 1]) < 4 / math.sqrt(20_000)


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_applies_the_four_functions_in_the_drawn_order(channels):
    jitter = augment.ColorJitter(0.8, 0.8, 0.8, 0.4)
    images = jax.random.uniform(KEY, (48, 5, 7, channels))
    draw_and_apply = jax.vmap(lambda key, image: (*jitter.draw(key), jitter(key, image)))
    orders, factors, results = jax.jit(draw_and_apply)(keys(48), images)
    functions = (
        jax.jit(augment.adjust_brightness),
        jax.jit(augment.adjust_contrast),
        jax.jit(augment.adjust_saturation),
        jax.jit(augment.adjust_hue),
    )
    for order, factor, image, result in zip(
        np.asarray(orders), np.asarray(factors), np.asarray(images), results, strict=True
    ):
        for op in order:
            image = functions[op](image, factor[op])
        np.testing.assert_allclose(result, image, atol=3e-6)


def test_jitter_of_strength_zero_changes_nothing():
    image = jax.random.uniform(KEY, (5, 7, 3))
    np.testing.assert_allclose(augment.ColorJitter()(KEY, image), image, atol=1e-6)


def test_blur_sigma_is_uniform():
    """A blurred point tells the sigma: centre over neighbour is exp(1 / (2 sigma^2))."""
    blur = augment.GaussianBlur(3, sigma=(0.5, 2.0))
    point = jnp.zeros((5, 5, 1)).at[2, 2].set(1.0)
    out = jax.jit(jax.vmap(blur, in_axes=(0, None)))(keys(4000), point)
    sigma = np.sqrt(0.5 / np.log(out[:, 2, 2, 0] / out[:, 2, 3, 0]))
    assert scipy.stats.kstest((sigma - 0.5) / 1.5, "uniform").pvalue > 1e-3


def test_noise_has_its_standard_deviation():
    noisy = augment.GaussianNoise(0.05)(KEY, jnp.full((100, 100, 1), 0.5)) - 0.5
    assert abs(float(noisy.std()) / 0.05 - 1) < 0.03
    assert abs(float(noisy.mean())) < 4 * 0.05 / 100


def test_affine_draws_within_its_ranges():
    affine = augment.RandomAffine(15.0, translate=(0.1, 0.25), scale=(0.8, 1.1))
    angle, right, down, scale = jax.jit(jax.vmap(lambda key: affine.draw_map(key, 20, 30)))(
        keys(10_000)
    )
    assert scipy.stats.kstest((angle / 15 + 1) / 2, "uniform").pvalue > 1e-3
    assert scipy.stats.kstest((scale - 0.8) / 0.3, "uniform").pvalue > 1e-3
    assert set(np.unique(right)) == set(range(-3, 4))
    assert set(np.unique(down)) == set(range(-5, 6))


RECIPE = augment.moco_v2(12)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, 16, 20, 3), np.uint8)


@pytest.fixture(scope="module")
def draw():
    return jax.jit(lambda key, images, indices: augment.batch_views(RECIPE, key, images, indices))


@pytest.mark.slow
def test_views_do_not_depend_on_how_the_batch_is_split(draw, pictures):
    indices = np.array([5, 3, 900_001, 0, 7, 2, 1, 4])
    whole = draw(KEY, pictures, indices)
    halves = [draw(KEY, pictures[part], indices[part]) for part in (slice(0, 4), slice(4, 8))]
    for view, first, second in zip(whole, *halves, strict=True):
        np.testing.assert_array_equal(view, np.concatenate([first, second]))


@pytest.mark.slow
def test_same_key_same_views_other_keys_other_views(draw, pictures):
    same = np.broadcast_to(pictures[:1], pictures.shape)
    first, second = draw(KEY, same, np.arange(8))
    again, _ = draw(KEY, same, np.arange(8))
    other, _ = draw(jax.random.key(8), same, np.arange(8))
    np.testing.assert_array_equal(first, again)
    flat = np.concatenate([first, second, other]).reshape(24, -1)
    distances = np.abs(flat[:, None] - flat).max(axis=-1)[~np.eye(24, dtype=bool)]
    assert distances.min() > 1e-2


LIGHT = augment.Views((augment.RandomHorizontalFlip(), augment.GaussianNoise(0.1)))


def test_raw_and_typed_keys_give_the_same_views(pictures):
    typed = augment.batch_views(LIGHT, jax.random.key(3), pictures, np.arange(8))
    raw = augment.batch_views(LIGHT, jax.random.PRNGKey(3), pictures, np.arange(8))
    np.testing.assert_array_equal(typed[1], raw[1])


def test_uint8_and_float_pictures_give_the_same_views(pictures):
    from_uint8 = augment.batch_views(LIGHT, KEY, pictures, np.arange(8))
    floats = (pictures / 255.0).astype(np.float32)
    from_float = augment.batch_views(LIGHT, KEY, floats, np.arange(8))
    np.testing.assert_allclose(from_uint8[0], from_float[0], atol=1e-7)
    np.testing.assert_allclose(from_uint8[1], from_float[1], atol=1e-6)


def test_transforms_of_a_composition_draw_independently():
    twice = augment.Compose((augment.GaussianNoise(0.1), augment.GaussianNoise(0.1)))
    image = jnp.full((50, 50, 1), 0.5)
    # Two independent noises add in square; the same noise twice would give 0.2.
    assert float(jnp.std(twice(KEY, image))) == pytest.approx(0.1 * math.sqrt(2), rel=0.05)


def test_transforms_compare_hash_and_survive_replace():
    assert augment.moco_v2(32) == augment.moco_v2(32)
    assert hash(augment.moco_v2(32)) == hash(augment.moco_v2(32))
    assert augment.moco_v2(32) != augment.moco_v2(28)
    crop = augment.RandomResizedCrop(32)
    assert dataclasses.replace(crop, scale=(0.2, 1.0)).scale == (0.2, 1.0)
    namespace = {name: getattr(augment, name) for name in augment.__all__}
    assert eval(repr(RECIPE), namespace) == RECIPE


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: augment.RandomResizedCrop(0), "size is 0"),
        (lambda: augment.RandomResizedCrop((8, 8, 8)), r"\(height, width\)"),
        (lambda: augment.RandomResizedCrop(8, scale=(1.0, 0.2)), r"scale is \(1.0, 0.2\)"),
        (lambda: augment.RandomResizedCrop(8, scale=(0.2, 1.5)), "high <= 1"),
        (lambda: augment.RandomResizedCrop(8, scale=(0.0, 1.0)), "0 < low"),
        (lambda: augment.RandomResizedCrop(8, scale=0.2), r"scale is 0.2, expected a tuple"),
        (lambda: augment.RandomResizedCrop(8, ratio=(4 / 3, 3 / 4)), "ratio is"),
        (lambda: augment.RandomResizedCrop(8, ratio=(1.0, math.inf)), "ratio is"),
        (lambda: augment.RandomResizedCrop(8, method="nearest"), "'bilinear' or 'bicubic'"),
        (lambda: augment.RandomHorizontalFlip(1.5), "p is 1.5"),
        (lambda: augment.RandomGrayscale(-0.1), "p is -0.1"),
        (lambda: augment.RandomSolarize(128), "threshold is 128"),
        (lambda: augment.RandomApply(augment.GaussianBlur(3), 2.0), "p is 2.0"),
        (lambda: augment.ColorJitter(brightness=-1.0), "brightness is -1.0"),
        (lambda: augment.ColorJitter(saturation=math.nan), "saturation is nan"),
        (lambda: augment.ColorJitter(hue=0.6), "hue is 0.6"),
        (lambda: augment.GaussianBlur(4), "odd"),
        (lambda: augment.GaussianBlur(3, sigma=(0.0, 1.0)), "0 < low"),
        (lambda: augment.GaussianBlur(3, sigma=(2.0, 1.0)), "sigma is"),
        (lambda: augment.GaussianNoise(-0.1), "std is -0.1"),
        (lambda: augment.RandomAffine(-5.0), "degrees is -5.0"),
        (lambda: augment.RandomAffine(translate=(0.0, 2.0)), "translate is"),
        (lambda: augment.RandomAffine(scale=(0.0, 1.0)), "scale is"),
        (lambda: augment.Normalize((0.5,), (0.5, 0.5)), "one length"),
        (lambda: augment.Normalize((0.5,), (0.0,)), "positive"),
        (lambda: augment.Views(()), "at least one"),
        (
            lambda: augment.RandomApply(augment.RandomResizedCrop(4))(KEY, jnp.zeros((8, 8, 3))),
            "changes shape",
        ),
        (
            lambda: augment.batch_views(RECIPE, KEY, jnp.zeros((8, 28, 28)), jnp.arange(8)),
            r"\[N, H, W, C\]",
        ),
        (
            lambda: augment.batch_views(RECIPE, KEY, jnp.zeros((8, 28, 28, 3)), jnp.arange(4)),
            r"expected \(8,\)",
        ),
    ],
)
def test_arguments_are_checked(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("wrap", [augment.Compose, augment.Views])
def test_only_transforms_compose(wrap):
    with pytest.raises(TypeError, match="expected a Transform"):
        wrap((augment.horizontal_flip,))
