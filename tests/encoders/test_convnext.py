"""ConvNeXt against torchvision's at the same weights."""

import sys
from pathlib import Path

import jax
import numpy as np

from jaxcl.encoders import ConvNeXt

REFERENCE = Path(__file__).parents[1] / "reference"
sys.path.append(str(REFERENCE))
from formula_weights import formula_images, formula_weights  # noqa: E402

KEY = jax.random.key(0)
SMALL = {"width": 8, "depths": (1, 2, 1)}
OF_BLOCK = {"conv_dw": "block.0", "norm": "block.2", "mlp_fc1": "block.3", "mlp_fc2": "block.5"}


def torch_name(path):
    """`stages_1_blocks_0/conv_dw/kernel` as torchvision names it."""
    module, *inner, leaf = [key.key for key in path]
    parts = module.split("_")
    if module == "head_norm":
        place = "classifier.0"
    elif parts[0] == "stem":
        place = f"features.0.{parts[1]}"
    elif parts[2] == "downsample":
        place = f"features.{2 * int(parts[1])}.{parts[3]}"
    else:
        place = f"features.{2 * int(parts[1]) + 1}.{parts[3]}"
    inside = [OF_BLOCK[name] for name in inner]
    renamed = {"kernel": "weight", "scale": "weight", "bias": "bias", "gamma": "layer_scale"}
    return ".".join([place, *inside, renamed[leaf]])


def formula_leaf(path, leaf):
    name, shape = torch_name(path), leaf.shape
    if name.endswith("layer_scale"):
        return formula_weights(name, (*shape, 1, 1))[:, 0, 0]
    if len(shape) == 4:  # HWIO here, OIHW there
        values = formula_weights(name, (shape[3], shape[2], shape[0], shape[1]))
        return values.transpose(2, 3, 1, 0)
    return formula_weights(name, shape[::-1]).T


def test_outputs_are_torchvisions_at_the_same_weights():
    golden = np.load(REFERENCE / "transformers.npz")["convnext"]
    encoder, images = ConvNeXt(**SMALL), formula_images()
    shapes = jax.eval_shape(lambda: encoder.init(KEY, images))
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: formula_leaf(path[1:], leaf), shapes
    )
    features = jax.jit(encoder.apply)(variables, images)
    np.testing.assert_allclose(features, golden, rtol=1e-4, atol=1e-5)
