"""What a representation looks like without labels: figures to report, not losses to train on.

Everything here runs on the host over whole data sets and gives Python floats.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcl.evaluation.blocks import normalized_rows, padded_tiles
from jaxcl.evaluation.validation import as_features


def alignment(x: ArrayLike, y: ArrayLike, *, alpha: float = 2.0) -> float:
    """Mean distance between the two views of each example (Wang & Isola, 2020, section 4.1.1).

    E ||f(x) - f(y)||^alpha on the unit sphere; 0 is best. Rows are normalized here.

    Args:
      x: [N, D] features of one view.
      y: [N, D] features of the other; row i matches row i.
      alpha: power of the distance, > 0.

    Returns:
      Mean over pairs, 0 to 2**alpha.

    Raises:
      ValueError: if shapes differ, alpha is not positive, or a feature is not finite.

    Example:
      >>> alignment([[1.0, 0.0]], [[0.0, 5.0]])
      2.0
    """
    first = as_features("x", x)
    second = as_features("y", y, width=first.shape[1])
    if len(first) != len(second):
        raise ValueError(f"x has {len(first)} rows and y {len(second)}: row i must match row i")
    if not alpha > 0:
        raise ValueError(f"alpha is {alpha}, expected more than 0")
    difference = normalized_rows(first).astype(np.float64) - normalized_rows(second)
    return float(np.mean(np.sum(difference**2, axis=1) ** (alpha / 2)))


def uniformity(x: ArrayLike, *, t: float = 2.0, block_size: int = 2048) -> float:
    """How evenly features fill the sphere (Wang & Isola, 2020, section 4.1.2); lower is more even.

    log of the mean of exp(-t ||f(x_i) - f(x_j)||^2) over all pairs i != j. Rows are normalized
    here. 0 is complete collapse; a uniform sphere of many dimensions has about -2t.

    Args:
      x: [N, D] features, N >= 2.
      t: > 0.
      block_size: rows a tile; changes memory and speed, not the result.

    Returns:
      The logarithm, at most 0.

    Raises:
      ValueError: if there are fewer than two rows, t is not positive, or a feature is not finite.

    Example:
      >>> round(uniformity([[1.0, 0.0], [-1.0, 0.0]]), 4)
      -8.0
    """
    features = as_features("x", x)
    count = len(features)
    if count < 2:
        raise ValueError("x has 1 row, expected at least 2: uniformity is over pairs")
    if not t > 0:
        raise ValueError(f"t is {t}, expected more than 0")
    tiles = padded_tiles(normalized_rows(features), block_size)
    on_device = jnp.asarray(tiles)
    starts = range(0, tiles.shape[0] * tiles.shape[1], tiles.shape[1])
    per_row = np.concatenate(
        [
            np.asarray(_potentials(on_device, block, start, count, t))
            for block, start in zip(tiles, starts, strict=True)
        ]
    )[:count]
    # Rows are summed in float64: a float32 sum over all pairs would lose the small terms.
    return float(np.log(per_row.astype(np.float64).sum() / (count * (count - 1.0))))


@jax.jit
def _potentials(tiles: jax.Array, block: jax.Array, start: int, count: int, t: float) -> jax.Array:
    """[B]: for each row of the block the sum of exp(-t d^2) over the other rows of all tiles."""
    own_rows = start + jnp.arange(block.shape[0])

    def add(
        total: jax.Array, tile_and_start: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, None]:
        tile, tile_start = tile_and_start
        rows = tile_start + jnp.arange(tile.shape[0])
        cosines = jnp.matmul(block, tile.T, precision=jax.lax.Precision.HIGHEST)  # [B, C]
        potentials = jnp.exp(-2 * t * jnp.maximum(1 - cosines, 0))
        counted = (rows < count) & (rows != own_rows[:, None])
        return total + jnp.sum(potentials, axis=1, where=counted), None

    tile_starts = jnp.arange(tiles.shape[0]) * tiles.shape[1]
    return jax.lax.scan(add, jnp.zeros(block.shape[0]), (tiles, tile_starts))[0]


def rankme(features: ArrayLike, *, epsilon: float = 1e-7) -> float:
    """RankMe: a smooth rank of the features (Garrido et al., 2023, eq. 1).

    exp(-sum_k p_k log p_k) with p_k = sigma_k / sum(sigma) + epsilon over the singular values
    of the matrix, which is neither centred nor normalized. The paper takes 25,600 examples.

    Args:
      features: [N, D].
      epsilon: the paper's, for float32.

    Returns:
      About 1 (one direction) to min(N, D); 0.0 where every feature is zero.

    Raises:
      ValueError: if it is not a matrix or a feature is not finite.

    Example:
      >>> round(rankme([[1.0, 0.0], [0.0, 1.0]]), 3)
      2.0
    """
    matrix = as_features("features", features).astype(np.float64)
    return _exp_entropy(np.linalg.svd(matrix, compute_uv=False), epsilon)


def lidar(views: ArrayLike, *, epsilon: float = 1e-7, regularizer: float = 1e-4) -> float:
    """LiDAR: a smooth rank of what tells examples apart (Thilak et al., 2024).

    RankMe's exp-entropy, of the eigenvalues of the linear discriminant matrix S_w^-1/2 S_b
    S_w^-1/2, where examples are the classes and their views the members: noise that views add does
    not count as rank. The paper takes 1,000 examples of 50 views for joint-embedding methods.

    Args:
      views: [N, V, D] features of V views of each of N examples.
      epsilon: added to each share, as in `rankme`.
      regularizer: added to the diagonal of the covariance within examples, S_w.

    Returns:
      About 1 to D; 0.0 where examples do not differ.

    Raises:
      ValueError: if there are fewer than two examples or views, or a feature is not finite.

    Example:
      >>> rows = np.repeat(np.eye(3)[:, None], 4, axis=1)
      >>> round(lidar(rows), 2)  # three examples differ along two axes
      2.0
    """
    array = np.asarray(views, np.float64)
    if array.ndim != 3 or min(array.shape[:2]) < 2:
        raise ValueError(
            f"views has shape {array.shape}, expected [N, V, D] with at least two examples and two "
            "views of each"
        )
    if not np.isfinite(array).all():
        raise ValueError("views holds values that are not finite")
    width = array.shape[2]
    rows = (array - array.mean(axis=(0, 1))).reshape(-1, width)
    if len(rows) < width:  # no direction but those of the rows counts: pixels have thousands
        array = array @ np.linalg.qr(rows.T).Q
    means = array.mean(axis=1)
    between = np.cov(means, rowvar=False, ddof=0).reshape(array.shape[2], -1)
    residuals = (array - means[:, None]).reshape(-1, array.shape[2])
    within = residuals.T @ residuals / (len(array) * (array.shape[1] - 1))
    variances, axes = np.linalg.eigh(within + regularizer * np.eye(len(within)))
    whiten = axes / np.sqrt(variances) @ axes.T
    values = np.linalg.eigvalsh(whiten @ between @ whiten).clip(0)
    return _exp_entropy(np.pad(values, (0, width - len(values))), epsilon)


def effective_rank(features: ArrayLike) -> float:
    """Effective rank of what varies between examples (Roy & Vetterli, 2007, definition 1).

    As `rankme`, but of the centred features and without epsilon: an offset that all examples share
    counts as no direction here, and as the largest one there.

    Args:
      features: [N, D].

    Returns:
      1 to min(N - 1, D); 0.0 where all rows are equal.

    Raises:
      ValueError: if it is not a matrix or a feature is not finite.

    Example:
      >>> round(effective_rank([[5.0, 1.0], [5.0, -1.0]]), 3)
      1.0
    """
    matrix = as_features("features", features).astype(np.float64)
    matrix -= matrix[0]  # first, so that equal rows become exact zeros
    matrix -= matrix.mean(axis=0)
    return _exp_entropy(np.linalg.svd(matrix, compute_uv=False), 0.0)


def _exp_entropy(singular_values: np.ndarray, epsilon: float) -> float:
    total = singular_values.sum()
    if total == 0:
        return 0.0
    shares = singular_values / total + epsilon
    shares = shares[shares > 0]
    return float(np.exp(-np.sum(shares * np.log(shares))))


def dimension_std(features: ArrayLike) -> np.ndarray:
    """Standard deviation of each dimension of the normalized features (Chen & He, 2021, figure 2).

    Args:
      features: [N, D]; rows are normalized here.

    Returns:
      [D] float64; 1 / sqrt(D) each for directions spread evenly, 0 for collapse.

    Raises:
      ValueError: if it is not a matrix or a feature is not finite.
    """
    normalized = normalized_rows(as_features("features", features)).astype(np.float64)
    return (normalized - normalized[0]).std(axis=0)


def spread(features: ArrayLike) -> float:
    """The collapse indicator: mean of `dimension_std` times sqrt(D).

    Args:
      features: [N, D].

    Returns:
      0 (every example in one direction: collapse) to 1 (directions spread evenly).

    Raises:
      ValueError: if it is not a matrix or a feature is not finite.

    Example:
      >>> spread([[1.0, 2.0], [2.0, 4.0]])
      0.0
    """
    deviations = dimension_std(features)
    return float(deviations.mean() * np.sqrt(len(deviations)))
