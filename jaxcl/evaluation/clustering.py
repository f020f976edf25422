"""Do the classes lie in clusters? K-means on features, compared with the labels."""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from jaxcl.evaluation.blocks import normalized_rows
from jaxcl.evaluation.validation import as_features, as_labels, check_count


class Clustering(NamedTuple):
    """How clusters agree with classes; both are 1 where they are the same partition.

    Attributes:
      nmi: normalized mutual information, 0 to 1 (of the mean of both entropies).
      ari: adjusted Rand index, 0 for a random partition, at most 1.
      assignments: [N] cluster of each row.
    """

    nmi: float
    ari: float
    assignments: np.ndarray


def clustering(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    clusters: int | None = None,
    restarts: int = 10,
    seed: int = 0,
) -> Clustering:
    """K-means (scikit-learn's) of unit features, and how its clusters agree with the classes.

    Args:
      features: [N, D], normalized here.
      labels: [N] integers.
      clusters: how many, 1 to N; None: as many as there are classes.
      restarts: k-means from so many starts; the best by its own measure counts.
      seed: decides the starts.

    Returns:
      The agreement and the clusters.

    Raises:
      ValueError: if shapes do not fit or a number is out of range.

    Example:
      >>> found = clustering([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]], [3, 3, 5, 5])
      >>> found.nmi, found.ari
      (1.0, 1.0)
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    rows = normalized_rows(as_features("features", features))
    classes = as_labels("labels", labels, len(rows))
    count = len(np.unique(classes)) if clusters is None else clusters
    check_count("clusters", count, most=len(rows), of="rows")
    check_count("restarts", restarts)
    found = KMeans(count, n_init=restarts, random_state=seed).fit_predict(rows)
    return Clustering(
        nmi=float(normalized_mutual_info_score(classes, found)),
        ari=float(adjusted_rand_score(classes, found)),
        assignments=found,
    )
