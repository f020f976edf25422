"""Contrastive methods: frozen dataclasses of hyper-parameters with pure functions over explicit
state."""

from jaxcl.methods.gradient_cache import grad_cache
from jaxcl.methods.method import Batch, Method
from jaxcl.methods.micro_batches import cached_loss_and_grad
from jaxcl.methods.moco import MoCo, MoCoV3
from jaxcl.methods.plain_memory import PlainMemory
from jaxcl.methods.schedules import Cosine
from jaxcl.methods.simclr import SimCLR

__all__ = [
    "Batch",
    "Cosine",
    "Method",
    "MoCo",
    "MoCoV3",
    "PlainMemory",
    "SimCLR",
    "cached_loss_and_grad",
    "grad_cache",
]
