"""Weights from and to other libraries."""

from jaxcl.pretrained.clip import PretrainedClip, load_clip
from jaxcl.pretrained.files import read_weights
from jaxcl.pretrained.images import ImageWeights, PretrainedImages, load_images
from jaxcl.pretrained.saving import save_images
from jaxcl.pretrained.text import (
    HuggingFaceText,
    PretrainedText,
    load_text,
    save_text,
    text_encoder,
)

__all__ = [
    "HuggingFaceText",
    "ImageWeights",
    "PretrainedClip",
    "PretrainedImages",
    "PretrainedText",
    "load_clip",
    "load_images",
    "load_text",
    "read_weights",
    "save_images",
    "save_text",
    "text_encoder",
]
