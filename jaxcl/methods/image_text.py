"""Images and texts: the cases of `MultiModal` that have names of their own."""

from typing import Any

import flax.linen as nn

from jaxcl.encoders import MLP
from jaxcl.methods.multi_modal import MultiModal
from jaxcl.methods.towers import Tower


def clip(
    image: nn.Module,
    text: nn.Module,
    *,
    dim: int = 512,
    temperature: float = 0.07,
    **others: Any,
) -> MultiModal:
    """CLIP (Radford et al., 2021): images and texts, each projected by a matrix.

    Args:
      image: encoder of images, the first view.
      text: encoder of texts, the second.
      dim: width of the common space.
      temperature: to begin with.
      **others: other fields of `MultiModal`.
    """
    towers = (Tower("image", image, linear(dim)), Tower("text", text, linear(dim)))
    return MultiModal(towers, temperature=temperature, **others)


def siglip(image: nn.Module, text: nn.Module, *, dim: int = 512, **others: Any) -> MultiModal:
    """SigLIP (Zhai et al., 2023): as `clip`, each pair of image and text a yes or a no."""
    return clip(image, text, dim=dim, contrast="siglip", **others)


def lit(image: nn.Module, text: nn.Module, *, dim: int, **others: Any) -> MultiModal:
    """LiT (Zhai et al., 2022): as `clip`, with an image encoder that keeps its weights.

    Args:
      image: encoder of images, which starts from weights that are worth keeping.
      text: encoder of texts, projected to the image encoder's features (the paper's "Lu").
      dim: width of these.
      **others: other fields of `MultiModal`.
    """
    towers = (Tower("image", image, frozen="all"), Tower("text", text, linear(dim)))
    return MultiModal(towers, **others)


def linear(dim: int) -> MLP:
    """A projection by a matrix, without bias."""
    return MLP((dim,), output_bias=False)
