"""What ConvNeXt, EfficientNet-Lite and wide residual networks share: sizes, gradients, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl.encoders import ConvNeXt, EfficientNetLite, ResNet, WideResNet

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).uniform(size=(2, 16, 16, 3)).astype(np.float32)


def count(encoder, size):
    shapes = jax.eval_shape(encoder.init, KEY, jnp.ones((1, size, size, 3)))["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("size", "first", "third", "timm"),
    [("tiny", 96, 9, 27_820_128), ("small", 96, 27, 49_454_688), ("base", 128, 27, 87_566_464)],
)
def test_convnext_has_as_many_parameters_as_timms(size, first, third, timm):
    widths = [first * 2**stage for stage in range(4)]
    total = (4 * 4 * 3 + 1) * first + 2 * first  # stem and its norm
    for stage, (width, blocks) in enumerate(zip(widths, (3, 3, third, 3), strict=True)):
        if stage:
            total += 2 * widths[stage - 1] + (4 * widths[stage - 1] + 1) * width
        depthwise, norm, scale = 50 * width, 2 * width, width
        total += blocks * (depthwise + norm + (8 * width + 4 + 1) * width + scale)
    total += 2 * widths[-1]
    assert count(ConvNeXt(size), 64) == total == timm


@pytest.mark.parametrize(
    ("size", "timm"),  # its tf_efficientnet_lite0 to 4, less 1,281,000 of classification
    [(0, 4_652_008), (1, 5_416_680), (2, 6_092_072), (3, 8_197_096), (4, 13_006_568)],
)
def test_efficientnets_have_as_many_parameters_as_timms(size, timm):
    encoder = EfficientNetLite(size)
    total = 27 * 32 + 2 * 32 + 1280 * encoder.blocks[-1][0][-1] + 2 * 1280
    width = 32
    for stage in encoder.blocks:
        for kernel, _, expansion, out in stage:
            inner = width * expansion
            total += 0 if expansion == 1 else width * inner + 2 * inner
            total += kernel * kernel * inner + 2 * inner + inner * out + 2 * out
            width = out
    assert count(encoder, 64) == total == timm - 1_281_000


@pytest.mark.slow
def test_an_efficientnet_computes_again_what_it_kept():
    """By running statistics: those of few small maps are too steep to compare gradients by."""
    variables = jax.jit(EfficientNetLite(0, width=16).init)(KEY, IMAGES)

    def gradient(remat):
        encoder = EfficientNetLite(0, width=16, remat=remat)

        def loss(params):
            return jnp.square(encoder.apply(variables | {"params": params}, IMAGES)).sum()

        return jax.jit(jax.grad(loss))(variables["params"])

    for remat in ("blocks", "products"):
        jax.tree.map(
            lambda one, other: np.testing.assert_allclose(
                one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max()
            ),
            gradient(remat),
            gradient("none"),
        )


@pytest.mark.slow
def test_paddings_of_an_efficientnet_differ_where_a_stride_leaves_a_pixel_over():
    variables = jax.jit(EfficientNetLite(0).init)(KEY, IMAGES)
    same, symmetric = (
        EfficientNetLite(0, padding=padding).apply(variables, IMAGES)
        for padding in ("same", "symmetric")
    )
    assert same.shape == symmetric.shape == (2, 1280)
    assert np.abs(same - symmetric).max() > 1e-3 * np.abs(same).max()


@pytest.mark.slow
def test_wide_resnets_have_as_many_parameters_as_their_layers():
    def layers(depth, factor):
        total, width = 3 * 9 * 16, 16
        for stage in (16, 32, 64):
            for block in range((depth - 4) // 6):
                out = stage * factor
                inside = width if block == 0 else out
                total += 2 * inside + 9 * inside * out + 2 * out + 9 * out * out
                total += inside * out if inside != out else 0
            width = out
        return total + 2 * width

    for depth, factor in ((28, 2), (28, 10)):
        assert count(WideResNet(depth, factor), 32) == layers(depth, factor)
    # torchvision's wide_resnet50_2 without its 2,049,000 of classification.
    assert count(ResNet(50, bottleneck_factor=2), 64) == 68_883_240 - 2_049_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoder",
    [ConvNeXt(width=8, depths=(1, 1, 1, 1), patch=1), WideResNet(10, factor=1)],
    ids=["convnext", "wide resnet"],
)
def test_gradients_reach_every_parameter(encoder):
    variables = jax.jit(encoder.init)(KEY, IMAGES)
    width = encoder.apply(variables, IMAGES).shape[-1]
    weights = jax.random.normal(KEY, (width,))

    @jax.jit
    def gradient(params):
        def loss(params):
            out, _ = encoder.apply(
                variables | {"params": params}, IMAGES, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(out @ weights)

        return jax.grad(loss)(params)

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(variables["params"])):
        assert np.abs(leaf).max() > 0, path


@pytest.mark.parametrize(
    ("encoder", "shape", "message"),
    [
        (ConvNeXt(), (1, 16, 16, 3), "ConvNeXt with patch 4 shrinks images 32 times; got 16x16"),
        (WideResNet(27), (1, 32, 32, 3), "WideResNet depth 27"),
        (ResNet(18, bottleneck_factor=2), (1, 64, 64, 3), "ResNet bottleneck_factor 2 with depth"),
    ],
)
def test_what_does_not_fit_is_named(encoder, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(encoder.init, KEY, jnp.ones(shape))
