"""Contrastive methods: frozen dataclasses of hyper-parameters with pure functions over explicit
state."""

from jaxcl.methods import criteria
from jaxcl.methods.accumulation import accumulated_loss_and_grad
from jaxcl.methods.byol import BYOL
from jaxcl.methods.cola import COLA
from jaxcl.methods.cpc import CPC
from jaxcl.methods.curl import CURL
from jaxcl.methods.dense import DenseCL
from jaxcl.methods.ge2e import GE2E
from jaxcl.methods.gradient_cache import grad_cache
from jaxcl.methods.image_text import clip, lit, siglip
from jaxcl.methods.instance_discrimination import InstanceDiscrimination
from jaxcl.methods.joint_embedding import JointEmbedding
from jaxcl.methods.method import Batch, EncoderMethod, Method
from jaxcl.methods.micro_batches import cached_loss_and_grad
from jaxcl.methods.moco import MoCo, MoCoV2Plus, MoCoV3
from jaxcl.methods.multi_modal import MultiModal
from jaxcl.methods.plain_memory import PlainMemory
from jaxcl.methods.prototypes import DINO, SwAV
from jaxcl.methods.ressl import ReSSL
from jaxcl.methods.schedules import Cosine, Linear
from jaxcl.methods.siamese import NNCLR, SimSiam
from jaxcl.methods.simclr import SimCLR
from jaxcl.methods.simcse import SimCSE
from jaxcl.methods.supcon import SupCon
from jaxcl.methods.time_contrastive import TimeContrastive
from jaxcl.methods.towers import Pair, Tower
from jaxcl.methods.ts2vec import TS2Vec
from jaxcl.methods.wav2vec2 import Wav2Vec2

__all__ = [
    "BYOL",
    "COLA",
    "CPC",
    "CURL",
    "DINO",
    "GE2E",
    "NNCLR",
    "Batch",
    "Cosine",
    "DenseCL",
    "EncoderMethod",
    "InstanceDiscrimination",
    "JointEmbedding",
    "Linear",
    "Method",
    "MoCo",
    "MoCoV2Plus",
    "MoCoV3",
    "MultiModal",
    "Pair",
    "PlainMemory",
    "ReSSL",
    "SimCLR",
    "SimCSE",
    "SimSiam",
    "SupCon",
    "SwAV",
    "TS2Vec",
    "TimeContrastive",
    "Tower",
    "Wav2Vec2",
    "accumulated_loss_and_grad",
    "cached_loss_and_grad",
    "clip",
    "criteria",
    "grad_cache",
    "lit",
    "siglip",
]
