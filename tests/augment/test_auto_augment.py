"""RandAugment and AutoAugment: operations, magnitudes and policies against torchvision's."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxcl import augment
from jaxcl.augment.auto_augment import POLICIES, Operation, apply_operation, magnitude_table
from jaxcl.training.config_json import from_data, to_data

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "reference" / "auto_augment.npz")
NAMES = {  # torchvision's
    "Identity": Operation.IDENTITY,
    "ShearX": Operation.SHEAR_X,
    "ShearY": Operation.SHEAR_Y,
    "TranslateX": Operation.TRANSLATE_X,
    "TranslateY": Operation.TRANSLATE_Y,
    "Rotate": Operation.ROTATE,
    "Brightness": Operation.BRIGHTNESS,
    "Color": Operation.COLOR,
    "Contrast": Operation.CONTRAST,
    "Sharpness": Operation.SHARPNESS,
    "Posterize": Operation.POSTERIZE,
    "Solarize": Operation.SOLARIZE,
    "AutoContrast": Operation.AUTOCONTRAST,
    "Equalize": Operation.EQUALIZE,
    "Invert": Operation.INVERT,
}
CASES = sorted({"/".join(name.split("/")[1:3]) for name in GOLDEN.files if "apply/" in name})
KEY = jax.random.key(3)
IMAGE = GOLDEN["image"].astype(np.float32) / 255
TONES = {
    "Posterize": augment.posterize,
    "AutoContrast": lambda image, _: augment.autocontrast(image),
    "Equalize": lambda image, _: augment.equalize(image),
    "Invert": lambda image, _: augment.invert(image),
    "Sharpness": lambda image, magnitude: augment.adjust_sharpness(image, 1 + magnitude),
}


def expected(case: str) -> np.ndarray:
    out = GOLDEN[f"apply/{case}/out"]
    return out.astype(np.float32) / 255 if out.dtype == np.uint8 else out


@pytest.fixture(scope="module")
def applied() -> dict[str, np.ndarray]:
    """Every case, in one batch whose examples take an operation each."""
    operations = np.array([NAMES[case.split("/")[0]] for case in CASES])
    magnitudes = np.array([GOLDEN[f"apply/{case}/magnitude"] for case in CASES])
    program = jax.jit(jax.vmap(apply_operation, in_axes=(None, 0, 0)))
    return dict(zip(CASES, np.asarray(program(IMAGE, operations, magnitudes)), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_operations_equal_torchvision(applied, case):
    # Affine maps: places of up to 34 pixels in float32 times steps of up to 0.5 a pixel.
    moved = case.split("/")[0] in ("ShearX", "ShearY", "Rotate")
    np.testing.assert_allclose(applied[case], expected(case), rtol=0, atol=1e-5 if moved else 1e-6)


def test_every_operation_has_a_case():
    assert {NAMES[case.split("/")[0]] for case in CASES} == set(Operation) - {Operation.IDENTITY}


@pytest.mark.parametrize("case", [case for case in CASES if case.split("/")[0] in TONES])
def test_functions_equal_torchvision(case):
    function = TONES[case.split("/")[0]]
    found = jax.jit(function)(IMAGE, GOLDEN[f"apply/{case}/magnitude"])
    np.testing.assert_allclose(found, expected(case), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "function"), [("AutoContrast", augment.autocontrast), ("Equalize", augment.equalize)]
)
def test_channels_with_hardly_any_contrast(name, function):
    flat = GOLDEN["flat"].astype(np.float32) / 255
    out = GOLDEN[f"flat/{name}"]
    wanted = out.astype(np.float32) / 255 if out.dtype == np.uint8 else out
    assert np.ptp(flat[..., 0]) == 0
    np.testing.assert_allclose(function(jnp.asarray(flat)), wanted, rtol=0, atol=1e-6)


def test_identity_leaves_the_image():
    same = jax.jit(apply_operation)(IMAGE, Operation.IDENTITY, 3.0)
    np.testing.assert_array_equal(same, IMAGE)


def test_images_of_fewer_than_three_pixels_a_side_have_no_sharpness():
    image = jnp.asarray(IMAGE[:2])
    np.testing.assert_allclose(augment.adjust_sharpness(image, 1.9), image, atol=1e-6)


@pytest.mark.parametrize("bins", [10, 31])
@pytest.mark.parametrize(("height", "width"), [(224, 224), (32, 40)])
def test_magnitudes_equal_torchvision(bins, height, width):
    table = magnitude_table(bins, height, width)
    prefix = f"table/{bins}/{height}x{width}/"
    names = [name.removeprefix(prefix) for name in GOLDEN.files if name.startswith(prefix)]
    assert len(names) == 14
    for name in names:
        wanted = GOLDEN[prefix + name]
        if "Translate" in name:
            wanted = np.trunc(wanted)  # what its _apply_op makes of them
        if name == "Solarize":
            wanted = wanted / 255
        np.testing.assert_allclose(table[NAMES[name]], wanted, atol=1e-6)


@pytest.mark.parametrize("policy", ["imagenet", "cifar10"])
def test_policies_equal_torchvision(policy):
    names = GOLDEN[f"policy/{policy}/operations"]
    levels = np.maximum(GOLDEN[f"policy/{policy}/levels"], 0)
    probabilities = GOLDEN[f"policy/{policy}/probabilities"]
    for pair, ours in enumerate(POLICIES[policy]):
        assert [step[0] for step in ours] == [NAMES[name] for name in names[pair]]
        assert [step[1] for step in ours] == probabilities[pair].tolist()
        assert [step[2] for step in ours] == levels[pair].tolist()
    assert len(POLICIES[policy]) == len(names) == 25


def draws(transform, keys, height, width):
    program = jax.jit(jax.vmap(lambda key: transform.draw(key, height, width)))
    operations, magnitudes = program(keys)
    return np.asarray(operations), np.asarray(magnitudes)


def test_rand_augment_draws_each_operation_and_sign_as_often():
    operations, magnitudes = draws(
        augment.RandAugment(num_ops=2, magnitude=9), jax.random.split(KEY, 14_000), 32, 40
    )
    names = GOLDEN["rand_augment_operations"]
    counts = np.bincount(operations.ravel(), minlength=len(Operation))
    assert set(np.flatnonzero(counts)) == {NAMES[name] for name in names}
    assert scipy.stats.chisquare(counts[counts > 0]).pvalue > 1e-3
    table = magnitude_table(31, 32, 40)[:, 9]
    np.testing.assert_array_equal(np.abs(magnitudes), table[operations])
    for name in names:
        negative = (magnitudes < 0)[operations == NAMES[name]]
        if GOLDEN[f"signed/{name}"]:
            assert scipy.stats.binomtest(int(negative.sum()), len(negative)).pvalue > 1e-3
        else:
            assert not negative.any()


@pytest.mark.parametrize("policy", ["imagenet", "cifar10"])
def test_auto_augment_draws_pairs_with_their_probabilities(policy):
    count = 20_000
    operations, magnitudes = draws(
        augment.AutoAugment(policy), jax.random.split(KEY, count), 32, 40
    )
    table = magnitude_table(10, 32, 40)
    wanted = np.zeros((2, len(Operation)))
    for pair in POLICIES[policy]:
        for position, (operation, probability, _) in enumerate(pair):
            wanted[position, operation] += probability / 25
            wanted[position, Operation.IDENTITY] += (1 - probability) / 25
    for position in range(2):
        counts = np.bincount(operations[:, position], minlength=len(Operation))
        drawn = wanted[position] > 0
        assert not counts[~drawn].any()
        chance = scipy.stats.chisquare(counts[drawn], count * wanted[position][drawn])
        assert chance.pvalue > 1e-3
        for operation in Operation:
            levels = {p[position][2] for p in POLICIES[policy] if p[position][0] == operation}
            found = np.unique(np.abs(magnitudes[operations[:, position] == operation, position]))
            if operation != Operation.IDENTITY:
                assert {*found} <= {*np.abs(table[operation, [*levels]])}


@pytest.mark.slow
@pytest.mark.parametrize(
    "transform",
    [
        augment.RandAugment(num_ops=3, magnitude=12, fill=0.5),
        augment.AutoAugment("imagenet", fill=0.5),
        augment.AutoAugment("cifar10"),
    ],
    ids=["RandAugment", "ImageNet", "CIFAR-10"],
)
def test_each_image_of_a_batch_gets_the_operations_that_it_drew(transform):
    keys = jax.random.split(KEY, 24)
    found = jax.jit(jax.vmap(transform, in_axes=(0, None)))(keys, IMAGE)
    operations, magnitudes = draws(transform, keys, *IMAGE.shape[:2])
    one = jax.jit(lambda *arguments: apply_operation(*arguments, fill=transform.fill))
    for row in range(24):
        image = jnp.asarray(IMAGE)
        for operation, magnitude in zip(operations[row], magnitudes[row], strict=True):
            image = one(image, operation, magnitude)
        # A value may round to the level beside it before a posterize or an equalize.
        differs = np.abs(found[row] - image) > 1e-5
        assert differs.mean() < 0.005
    assert 0 <= found.min() <= found.max() <= 1


@pytest.mark.slow
def test_fill_is_what_stands_outside():
    moved = apply_operation(jnp.asarray(IMAGE), Operation.TRANSLATE_X, 5.0, fill=0.5)
    np.testing.assert_allclose(moved[:, :5], 0.5, atol=1e-6)
    np.testing.assert_allclose(moved[:, 5:], IMAGE[:, :-5], atol=1e-6)


def test_grey_images_keep_one_channel():
    grey = jnp.asarray(IMAGE[..., :1])
    program = jax.jit(jax.vmap(apply_operation, in_axes=(None, 0, None)))
    changed = program(grey, np.arange(len(Operation)), 0.4)
    assert changed.shape == (15, *grey.shape)
    np.testing.assert_allclose(changed[Operation.COLOR], grey, atol=1e-6)
    np.testing.assert_allclose(
        changed[Operation.CONTRAST], np.clip(1.4 * grey - 0.4 * grey.mean(), 0, 1), atol=1e-6
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: augment.RandAugment(num_ops=0), "num_ops is 0, expected at least 1"),
        (lambda: augment.RandAugment(magnitude=31), "magnitude is 31, expected 0 to 30"),
        (lambda: augment.RandAugment(num_magnitude_bins=1), "num_magnitude_bins is 1"),
        (lambda: augment.AutoAugment("svhn"), "policy is 'svhn', expected 'imagenet' or 'cifar10'"),
        (
            lambda: augment.RandAugment()(jax.random.key(0), jnp.zeros((8, 8, 4))),
            "RandAugment is defined for 1 or 3 channels, got 4",
        ),
        (lambda: augment.equalize(jnp.zeros((8, 8))), r"equalize takes one image \[H, W, C\]"),
    ],
)
def test_wrong_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_supcon_prints_the_published_parameters():
    view = (
        "  RandomResizedCrop(size=224, scale=(0.08, 1.0), ratio=(0.75, 1.3333333333333333), "
        "method='bilinear')\n"
        "  RandomHorizontalFlip(p=0.5)\n"
        "  AutoAugment(policy='imagenet', fill=0.0)\n"
        "  Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))"
    )
    assert str(augment.supcon(224)) == f"view 0:\n{view}\nview 1:\n{view}"
    stacked = augment.supcon(32, augment.RandAugment(magnitude=5), mean=None)
    assert "RandAugment(num_ops=2, magnitude=5, num_magnitude_bins=31, fill=0.0)" in str(stacked)


@pytest.mark.slow
def test_supcon_survives_the_config_file_and_small_crops():
    views = augment.multi_crop(augment.supcon(16, augment.AutoAugment("cifar10")), 8, crops=1)
    assert from_data(to_data(views)) == views
    drawn = jax.eval_shape(
        lambda *batch: augment.batch_views(views, jax.random.key(0), *batch),
        jnp.zeros((2, 24, 24, 3), jnp.uint8),
        jnp.arange(2),
    )
    assert [view.shape for view in drawn] == [(2, 16, 16, 3), (2, 16, 16, 3), (2, 8, 8, 3)]
