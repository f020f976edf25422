"""Losses as pure functions, from embeddings to one value per anchor: take the mean."""

from jaxcl.losses.contrastive import info_nce, nt_xent
from jaxcl.losses.decoupled import dcl, dclw
from jaxcl.losses.negative_free import negative_cosine
from jaxcl.losses.triplet import distance_difference, triplet

__all__ = [
    "dcl",
    "dclw",
    "distance_difference",
    "info_nce",
    "negative_cosine",
    "nt_xent",
    "triplet",
]
