"""The map that encoders keep for those who ask: what is averaged into the features."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl.encoders import (
    MLP,
    ConvNeXt,
    EfficientNetLite,
    ResNet,
    SmallCNN,
    ViT,
    WideResNet,
    features_and_map,
    keep_feature_map,
)

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).uniform(size=(4, 16, 16, 3)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "side"),
    [
        (SmallCNN((4, 8), batch_norm_groups=2), 8),
        (ResNet(18, stem="cifar", width=2), 2),
        (ConvNeXt(width=8, depths=(1, 1), patch=2), 4),
        (WideResNet(10, factor=1), 4),
        (EfficientNetLite(0, width=16), 1),
    ],
    ids=["small cnn", "resnet", "convnext", "wide resnet", "efficientnet"],
)
def test_features_are_the_mean_of_the_map(encoder, side):
    variables = jax.jit(encoder.init)(KEY, IMAGES)
    assert set(variables) <= {"params", "batch_stats"}
    features, feature_map, statistics = jax.jit(
        lambda variables: features_and_map(encoder, variables, IMAGES, train=True)
    )(variables)
    plain, updated = jax.jit(
        lambda variables: encoder.apply(variables, IMAGES, train=True, mutable=["batch_stats"])
    )(variables)

    def same(found, wanted):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)

    same(features, plain)
    jax.tree.map(same, statistics, updated.get("batch_stats", {}))
    assert feature_map.shape == (4, side, side, features.shape[-1])
    pooled = feature_map.mean((1, 2))
    if isinstance(encoder, ConvNeXt):  # a norm follows, which starts as a plain one
        centered = pooled - pooled.mean(-1, keepdims=True)
        pooled = centered / np.sqrt(np.square(centered).mean(-1, keepdims=True) + 1e-6)
    same(features, pooled)


@pytest.mark.slow
def test_running_statistics_serve_outside_training():
    encoder = SmallCNN((4,), pool=False)
    variables = encoder.init(KEY, IMAGES)
    shifted = jax.tree.map(lambda x: x + 1, variables["batch_stats"])
    features, feature_map, statistics = features_and_map(
        encoder, variables | {"batch_stats": shifted}, IMAGES
    )
    jax.tree.map(np.testing.assert_array_equal, statistics, shifted)
    np.testing.assert_array_equal(features, feature_map.reshape(4, -1))
    assert np.abs(features - encoder.apply(variables, IMAGES).reshape(4, -1)).max() > 0.1


def test_maps_are_float32_whatever_the_encoder_computes_in():
    encoder = SmallCNN((4,), dtype="bfloat16")
    kept = jax.eval_shape(lambda: features_and_map(encoder, encoder.init(KEY, IMAGES), IMAGES)[1])
    assert kept.dtype == jnp.float32


def test_an_encoder_of_ones_own_keeps_its_map():
    class Halves(nn.Module):
        @nn.compact
        def __call__(self, images, *, train=False, axis_name=None):
            keep_feature_map(self, images / 2)
            return images.mean((1, 2))

    _, feature_map, _ = features_and_map(Halves(), {}, IMAGES)
    np.testing.assert_array_equal(feature_map, IMAGES / 2)


@pytest.mark.parametrize("encoder", [MLP((4,)), ViT("tiny", patch=8, image_size=16, depth=1)])
def test_encoders_without_a_map_are_named(encoder):
    with pytest.raises(ValueError, match=rf"{type(encoder).__name__} keeps no feature map: choose"):
        jax.eval_shape(lambda: features_and_map(encoder, encoder.init(KEY, IMAGES), IMAGES))
