"""Contrastive methods: frozen dataclasses of hyper-parameters with pure functions over explicit
state."""

from jaxcl.methods.method import Batch, Method
from jaxcl.methods.moco import MoCo, MoCoV3
from jaxcl.methods.plain_memory import PlainMemory
from jaxcl.methods.schedules import Cosine
from jaxcl.methods.simclr import SimCLR

__all__ = ["Batch", "Cosine", "Method", "MoCo", "MoCoV3", "PlainMemory", "SimCLR"]
