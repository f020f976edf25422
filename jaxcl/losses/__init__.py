"""Losses as pure functions, from embeddings to one value per anchor: take the mean."""

from jaxcl.losses.contrastive import info_nce, nt_xent
from jaxcl.losses.decoupled import dcl, dclw
from jaxcl.losses.hard_negatives import hard_nt_xent
from jaxcl.losses.image_text import clip, siglip
from jaxcl.losses.negative_free import negative_cosine
from jaxcl.losses.supervised import sup_con
from jaxcl.losses.triplet import distance_difference, triplet

__all__ = [
    "clip",
    "dcl",
    "dclw",
    "distance_difference",
    "hard_nt_xent",
    "info_nce",
    "negative_cosine",
    "nt_xent",
    "siglip",
    "sup_con",
    "triplet",
]
