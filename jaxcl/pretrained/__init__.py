"""Weights from and to other libraries."""

from jaxcl.pretrained.clip import PretrainedClip, load_clip
from jaxcl.pretrained.files import read_weights
from jaxcl.pretrained.hub import local_path, push_to_hub
from jaxcl.pretrained.images import ImageWeights, PretrainedImages, load_images
from jaxcl.pretrained.own import Pretrained, from_pretrained, save_pretrained
from jaxcl.pretrained.saving import save_images
from jaxcl.pretrained.speech import SpeechWeights, load_speaker, load_speech
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
    "Pretrained",
    "PretrainedClip",
    "PretrainedImages",
    "PretrainedText",
    "SpeechWeights",
    "from_pretrained",
    "load_clip",
    "load_images",
    "load_speaker",
    "load_speech",
    "load_text",
    "local_path",
    "push_to_hub",
    "read_weights",
    "save_images",
    "save_pretrained",
    "save_text",
    "text_encoder",
]
