"""Losses as pure functions, from embeddings to one value per anchor: take the mean."""

from jaxcl.losses.clusters import dino, sinkhorn, swav, update_center
from jaxcl.losses.contrastive import info_nce, nt_xent
from jaxcl.losses.covariance import mmcr, tico, w_mse
from jaxcl.losses.decoupled import dcl, dclw
from jaxcl.losses.hard_negatives import hard_nt_xent
from jaxcl.losses.image_text import clip, siglip
from jaxcl.losses.negative_free import negative_cosine
from jaxcl.losses.redundancy import barlow_twins, vicreg
from jaxcl.losses.scales import (
    ScaleAndBias,
    init_learnable_temperature,
    init_scale_and_bias,
    learnable_temperature,
)
from jaxcl.losses.supervised import sup_con
from jaxcl.losses.triplet import distance_difference, triplet

__all__ = [
    "ScaleAndBias",
    "barlow_twins",
    "clip",
    "dcl",
    "dclw",
    "dino",
    "distance_difference",
    "hard_nt_xent",
    "info_nce",
    "init_learnable_temperature",
    "init_scale_and_bias",
    "learnable_temperature",
    "mmcr",
    "negative_cosine",
    "nt_xent",
    "siglip",
    "sinkhorn",
    "sup_con",
    "swav",
    "tico",
    "triplet",
    "update_center",
    "vicreg",
    "w_mse",
]
