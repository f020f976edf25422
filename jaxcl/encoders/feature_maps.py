"""The map over the image that convolutional encoders average at their end, beside the features."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

_COLLECTION, _NAME = "intermediates", "feature_map"


def keep_feature_map(encoder: nn.Module, x: jax.Array) -> None:
    """Lets `features_and_map` find the map; called in an encoder, before it averages.

    Costs nothing where nobody asks for the map: flax keeps what is sown only then.

    Args:
      encoder: the encoder, in its own call.
      x: [N, H, W, C].
    """
    encoder.sow(_COLLECTION, _NAME, x.astype(jnp.float32))


def features_and_map(
    encoder: nn.Module,
    variables: dict[str, Any],
    images: jax.Array,
    *,
    train: bool = False,
    axis_name: str | None = None,
    rngs: dict[str, jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array, dict[str, Any]]:
    """Applies an encoder and returns the map before its pooling too.

    ConvNeXt, ResNet, SmallCNN and WideResNet keep theirs; an encoder of your own does with
    `keep_feature_map(self, x)`.

    Args:
      encoder: the encoder.
      variables: its `params` and `batch_stats`.
      images: [N, H, W, C].
      train: use and update batch statistics.
      axis_name: mapped axis that batch statistics cross.
      rngs: streams of random numbers, as of drop path.

    Returns:
      [N, F] features, the [N, h, w, F'] map, both in float32, and the batch statistics.

    Raises:
      ValueError: if the encoder keeps no map.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcl.encoders import SmallCNN
      >>> encoder, images = SmallCNN((4, 8)), jnp.ones((2, 8, 8, 1))
      >>> variables = encoder.init(jax.random.key(0), images)
      >>> features, feature_map, _ = features_and_map(encoder, variables, images)
      >>> features.shape, feature_map.shape
      ((2, 8), (2, 4, 4, 8))
    """
    outputs, kept = encoder.apply(
        variables,
        images,
        train=train,
        axis_name=axis_name,
        mutable=["batch_stats", _COLLECTION] if train else [_COLLECTION],
        rngs=rngs,
    )
    maps = kept.get(_COLLECTION, {}).get(_NAME)
    if maps is None:
        raise ValueError(
            f"{type(encoder).__name__} keeps no feature map: choose ConvNeXt, ResNet, SmallCNN or "
            "WideResNet, or call jaxcl.encoders.keep_feature_map in the encoder before it pools"
        )
    statistics = kept if train else variables
    return outputs, maps[0], statistics.get("batch_stats", {})
