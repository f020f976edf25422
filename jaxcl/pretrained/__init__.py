"""Weights from and to other libraries: Hugging Face's text models."""

from jaxcl.pretrained.text import (
    HuggingFaceText,
    PretrainedText,
    load_text,
    save_text,
    text_encoder,
)

__all__ = ["HuggingFaceText", "PretrainedText", "load_text", "save_text", "text_encoder"]
