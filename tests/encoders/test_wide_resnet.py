"""Wide residual networks against their definition in NumPy."""

import jax
import numpy as np
import pytest

from jaxcl.encoders import WideResNet

KEY = jax.random.key(0)


def convolve(x, kernel, stride=1):
    """Convolution with zeros around that keep the size, in float64."""
    size = kernel.shape[0]
    edge = size // 2
    x = np.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return np.einsum("nhwcij,ijco->nhwo", windows[:, ::stride, ::stride], kernel)


@pytest.mark.slow
def test_features_are_the_definitions():
    encoder = WideResNet(10, factor=2)
    images = jax.random.normal(KEY, (2, 9, 8, 3))  # an odd side tells paddings apart
    draw = np.random.default_rng(0)
    shapes = jax.eval_shape(encoder.init, KEY, images)
    variables = jax.tree.map(lambda leaf: np.float32(draw.uniform(-0.2, 0.6, leaf.shape)), shapes)
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
    found = jax.jit(encoder.apply)(variables, images)
    params, stats = jax.tree.map(np.float64, (variables["params"], variables["batch_stats"]))

    def activate(x, p, s):
        x = (x - s["mean"]) / np.sqrt(s["var"] + 1e-5)
        return np.maximum(x * p["scale"] + p["bias"], 0)

    x = convolve(np.float64(images), params["conv1"]["kernel"])
    for stage in (1, 2, 3):  # WRN-10 has one block a stage, and each changes shapes
        p, s = params[f"stage{stage}_0"], stats[f"stage{stage}_0"]
        stride = 1 if stage == 1 else 2
        activated = activate(x, p["bn1"], s["bn1"])
        y = convolve(activated, p["conv1"]["kernel"], stride)
        y = convolve(activate(y, p["bn2"], s["bn2"]), p["conv2"]["kernel"])
        x = y + convolve(activated, p["downsample_conv"]["kernel"], stride)
    x = activate(x, params["bn"], stats["bn"]).mean((1, 2))
    np.testing.assert_allclose(found, x, rtol=1e-4)


def test_published_parameter_counts():
    for factor, with_classifier in ((2, 1_467_610), (10, 36_479_194)):  # of ten classes
        params = jax.eval_shape(WideResNet(28, factor).init, KEY, np.ones((1, 32, 32, 3)))["params"]
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        assert count + 64 * factor * 10 + 10 == with_classifier
