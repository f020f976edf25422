"""Losses between times of one recording: what is near in time is near in embedding."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcl.losses.contrastive import nt_xent
from jaxcl.losses.distances import distance_function
from jaxcl.losses.matched import only_counted
from jaxcl.losses.pairwise import distances_to_all
from jaxcl.similarity import AxisName, gather_rows, row_numbers
from jaxcl.similarity.checks import Scalar, check_embeddings, check_scalar, check_where


def time_nce(
    earlier: jax.Array,
    later: jax.Array,
    last: jax.Array,
    *,
    temperature: Scalar = 1.0,
    distance: str = "euclidean",
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """Order in time as InfoNCE: of three times, the nearer one is the positive (R3M: Nair et al.,
    2022, eq. 1).

    -log of exp(s(earlier, later)) over the sum of that, exp(s(earlier, last)), and
    exp(s(earlier, earlier of another recording)), s = -distance / temperature. The paper has one
    other recording; here all others of the batch are negatives. Memory is rows times rows.

    Args:
      earlier: [N, D] embeddings of a time in each recording, as they are; gradients flow into all
        three.
      later: [N, D] of a later time of the same recording.
      last: [N, D] of one later still.
      temperature: divides distances; float or scalar array, > 0.
      distance: "euclidean", "squared_euclidean" or "cosine" (1 - cosine).
      axis_name: mapped axis whose other devices' recordings are negatives too.
      where: [N] bool, recordings that count, or None: all.

    Returns:
      [N] loss of each recording, in nats; 0 where `where` is False.

    Raises:
      ValueError: if shapes disagree, temperature <= 0, or distance or axis name are unknown.
      TypeError: if embeddings are not floating point or `where` is not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> start, near, far = jnp.array([[0.0]]), jnp.array([[1.0]]), jnp.array([[3.0]])
      >>> print(time_nce(start, near, far).round(4))  # log(1 + exp(1 - 3))
      [0.1269]
    """
    sizes: dict[str, int] = {}
    rows = {"earlier": earlier, "later": later, "last": last}
    earlier, later, last = (
        check_embeddings(name, array, "N D", sizes) for name, array in rows.items()
    )
    check_scalar("temperature", temperature, above=0)
    between = distance_function(distance)
    where = check_where(where, sizes)
    if where is not None:
        earlier, later, last = (jnp.where(where[:, None], x, 0) for x in (earlier, later, last))
    counts = gather_rows(jnp.ones(sizes["N"], bool) if where is None else where, axis_name)

    positive = -between(earlier, later) / temperature
    in_time = -between(earlier, last) / temperature
    elsewhere = -distances_to_all(earlier, distance, axis_name) / temperature  # [N, G]
    own = row_numbers(sizes["N"], axis_name)
    is_negative = counts & (own[:, None] != jnp.arange(len(counts)))
    differences = jnp.concatenate([in_time[:, None], elsewhere], axis=1) - positive[:, None]
    counted = jnp.concatenate([jnp.ones((sizes["N"], 1), bool), is_negative], axis=1)
    return only_counted(
        jax.nn.softplus(jax.nn.logsumexp(differences, axis=1, where=counted)), where
    )


def hierarchical(
    z0: jax.Array,
    z1: jax.Array,
    *,
    alpha: Scalar = 0.5,
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """TS2Vec's loss of two views of series at every scale of time (Yue et al., 2022, eq. 1 to 3).

    Of each time NT-Xent over the series of the batch, of each series NT-Xent over its times, by dot
    products; then again of both series halved by the larger of two neighbours, until one time is
    left; the mean over these scales.

    Args:
      z0: [N, T, D] embeddings of each time in one view, as they are; gradients flow into both.
      z1: [N, T, D] of the same times in the other.
      alpha: weight of the contrast between series, 0 to 1; that between times has the rest.
      axis_name: mapped axis whose other devices' series are negatives too.
      where: [N] bool, series that count, or None: all.

    Returns:
      [N] loss of each series, in nats; 0 where `where` is False.

    Raises:
      ValueError: if shapes disagree, alpha is not 0 to 1 or the axis name is unknown.
      TypeError: if embeddings are not floating point or `where` is not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> series = jnp.array([[[1.0, 0.0]], [[0.0, 1.0]]])
      >>> print(hierarchical(series, series).round(4))  # 0.5 log(1 + 2 exp(0 - 1)): one time
      [0.2757 0.2757]
    """
    sizes: dict[str, int] = {}
    z0 = check_embeddings("z0", z0, "N T D", sizes)
    z1 = check_embeddings("z1", z1, "N T D", sizes)
    check_scalar("alpha", alpha, at_least=0, at_most=1)
    where = check_where(where, sizes)
    if where is not None:
        z0, z1 = (jnp.where(where[:, None, None], z, 0) for z in (z0, z1))

    def between_series(x: jax.Array, y: jax.Array) -> jax.Array:
        options: dict[str, Any] = {"axis_name": axis_name, "where": where}
        return nt_xent(x, y, temperature=1.0, similarity="dot", **options)

    def between_times(x: jax.Array, y: jax.Array) -> jax.Array:
        return nt_xent(x, y, temperature=1.0, similarity="dot")

    scales = []
    while True:
        of_series = jax.vmap(between_series, in_axes=1)(z0, z1)  # [T, 2N]
        own = of_series.mean(0).reshape(2, -1).mean(0)
        of_times = jax.vmap(between_times)(z0, z1).mean(1)  # [N]
        scales.append(alpha * own + (1 - alpha) * of_times)
        if z0.shape[1] == 1:
            return only_counted(jnp.stack(scales).mean(0), where)
        z0, z1 = (_halved(z) for z in (z0, z1))


def _halved(z: jax.Array) -> jax.Array:
    """[N, T // 2, D], of two neighbours the larger; an odd last one is left out."""
    pairs = z[:, : z.shape[1] // 2 * 2].reshape(len(z), -1, 2, z.shape[2])
    return pairs.max(2)
