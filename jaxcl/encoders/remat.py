"""What a backward pass keeps of the forward one, and what it computes again."""

from typing import Any, Literal

import flax.linen as nn
import jax

from jaxcl.encoders.winograd import convolve_3x3_p

Remat = Literal["none", "blocks", "products"]
"""none: keep all that gradients need. blocks: keep only the inputs of blocks and compute the rest
again: least memory, about a third more compute. products: keep what convolutions and matrix
products give, too, and compute norms and activations again: less memory, little more compute, and
less to move between chip and main memory."""

_PRODUCTS = (jax.lax.conv_general_dilated_p, jax.lax.dot_general_p, convolve_3x3_p)


def remat_block(block: type[nn.Module], remat: Remat, *, static: tuple[int, ...]) -> Any:
    """A block's class whose activations are kept as said.

    Args:
      block: the class.
      remat: what is kept.
      static: which arguments of its call are no arrays; the first after the module itself is 1.
    """
    if remat == "none":
        return block
    policy = None if remat == "blocks" else _is_product
    return nn.remat(block, policy=policy, static_argnums=static)


def _is_product(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive in _PRODUCTS
