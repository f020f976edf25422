"""Similarities between embeddings: normalization, reductions over rows, and rows across devices."""

from jaxcl.similarity.gather import AxisName, axis_size, gather_rows, row_numbers
from jaxcl.similarity.measures import (
    at_least_float32,
    l2_normalize,
    matched_similarity,
    prepare,
    row_similarity,
)
from jaxcl.similarity.reduce import Backend, Execution, mutual_similarity_rows, similarity_rows
from jaxcl.similarity.rows import Pairs, Reduction, logaddexp, reduce_rows

__all__ = [
    "AxisName",
    "Backend",
    "Execution",
    "Pairs",
    "Reduction",
    "at_least_float32",
    "axis_size",
    "gather_rows",
    "l2_normalize",
    "logaddexp",
    "matched_similarity",
    "mutual_similarity_rows",
    "prepare",
    "reduce_rows",
    "row_numbers",
    "row_similarity",
    "similarity_rows",
]
