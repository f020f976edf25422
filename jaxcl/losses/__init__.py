"""Losses as pure functions, from embeddings to one value per anchor: take the mean."""

from jaxcl.losses.bilinear import bilinear_nce
from jaxcl.losses.clusters import dino, sinkhorn, swav, update_center
from jaxcl.losses.contrastive import info_nce, nt_xent
from jaxcl.losses.covariance import mmcr, tico, w_mse
from jaxcl.losses.decoupled import dcl, dclw
from jaxcl.losses.gaussianity import sig_reg
from jaxcl.losses.hard_negatives import hard_nt_xent
from jaxcl.losses.image_text import clip, siglip
from jaxcl.losses.labelled_pairs import circle, lifted_structure, multi_similarity
from jaxcl.losses.miners import (
    MinedTriplets,
    distance_weighted_pairs,
    hard_pairs,
    mined_triplets,
    multi_similarity_pairs,
    semi_hard_pairs,
)
from jaxcl.losses.n_pairs import n_pairs
from jaxcl.losses.negative_free import negative_cosine
from jaxcl.losses.pairs import pair_margin
from jaxcl.losses.pairwise import PairMasks, label_pairs
from jaxcl.losses.redundancy import barlow_twins, vicreg
from jaxcl.losses.scales import (
    ScaleAndBias,
    init_learnable_temperature,
    init_scale_and_bias,
    learnable_temperature,
)
from jaxcl.losses.speakers import ge2e
from jaxcl.losses.spread import alignment, koleo, uniformity
from jaxcl.losses.supervised import sup_con
from jaxcl.losses.times import hierarchical, time_nce
from jaxcl.losses.triplet import distance_difference, triplet

__all__ = [
    "MinedTriplets",
    "PairMasks",
    "ScaleAndBias",
    "alignment",
    "barlow_twins",
    "bilinear_nce",
    "circle",
    "clip",
    "dcl",
    "dclw",
    "dino",
    "distance_difference",
    "distance_weighted_pairs",
    "ge2e",
    "hard_nt_xent",
    "hard_pairs",
    "hierarchical",
    "info_nce",
    "init_learnable_temperature",
    "init_scale_and_bias",
    "koleo",
    "label_pairs",
    "learnable_temperature",
    "lifted_structure",
    "mined_triplets",
    "mmcr",
    "multi_similarity",
    "multi_similarity_pairs",
    "n_pairs",
    "negative_cosine",
    "nt_xent",
    "pair_margin",
    "semi_hard_pairs",
    "sig_reg",
    "siglip",
    "sinkhorn",
    "sup_con",
    "swav",
    "tico",
    "time_nce",
    "triplet",
    "uniformity",
    "update_center",
    "vicreg",
    "w_mse",
]
