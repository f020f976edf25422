"""Similarities between embeddings: normalization, softmax normalizers, and rows across devices."""

from jaxcl.similarity.dense import masked_logsumexp, similarity_logsumexp
from jaxcl.similarity.gather import AxisName, axis_size, gather_rows, row_numbers
from jaxcl.similarity.measures import at_least_float32, l2_normalize, prepare, row_similarity

__all__ = [
    "AxisName",
    "at_least_float32",
    "axis_size",
    "gather_rows",
    "l2_normalize",
    "masked_logsumexp",
    "prepare",
    "row_numbers",
    "row_similarity",
    "similarity_logsumexp",
]
