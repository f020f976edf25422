"""How good is a representation? Measures on plain arrays: features [N, D] and labels [N].

Nothing here knows methods, training or data; every function is deterministic, seeded where it
draws, and takes NumPy or JAX arrays.
"""

from jaxcl.evaluation.clustering import Clustering, clustering
from jaxcl.evaluation.few_labels import FewLabels, label_efficiency, nearest_class_mean
from jaxcl.evaluation.geometry import (
    alignment,
    dimension_std,
    effective_rank,
    lidar,
    rankme,
    spread,
    uniformity,
)
from jaxcl.evaluation.knn import knn_accuracy, knn_classify, knn_scores, nearest_neighbours
from jaxcl.evaluation.linear import LinearClassifier, LinearProbe, fit_linear, linear_probe
from jaxcl.evaluation.neighbours import neighbour_sheet
from jaxcl.evaluation.regression import linear_regression
from jaxcl.evaluation.report import (
    Report,
    Scores,
    measure_representations,
    report_cells,
    report_markdown,
    report_table,
)
from jaxcl.evaluation.retrieval import (
    mean_average_precision_at_r,
    mean_reciprocal_rank,
    recall_at_k,
)
from jaxcl.evaluation.times import alignment_error, kendalls_tau
from jaxcl.evaluation.verification import equal_error_rate, min_dcf
from jaxcl.evaluation.whitening import Whitening, fit_whitening

__all__ = [
    "Clustering",
    "FewLabels",
    "LinearClassifier",
    "LinearProbe",
    "Report",
    "Scores",
    "Whitening",
    "alignment",
    "alignment_error",
    "clustering",
    "dimension_std",
    "effective_rank",
    "equal_error_rate",
    "fit_linear",
    "fit_whitening",
    "kendalls_tau",
    "knn_accuracy",
    "knn_classify",
    "knn_scores",
    "label_efficiency",
    "lidar",
    "linear_probe",
    "linear_regression",
    "mean_average_precision_at_r",
    "mean_reciprocal_rank",
    "measure_representations",
    "min_dcf",
    "nearest_class_mean",
    "nearest_neighbours",
    "neighbour_sheet",
    "rankme",
    "recall_at_k",
    "report_cells",
    "report_markdown",
    "report_table",
    "spread",
    "uniformity",
]
