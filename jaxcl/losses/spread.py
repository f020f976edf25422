"""Losses that see how a batch lies on the unit sphere: matches close, rows spread evenly."""

import jax
import jax.numpy as jnp

from jaxcl.losses.distances import euclidean, squared_euclidean
from jaxcl.losses.matched import prepare_matched
from jaxcl.losses.moments import count_rows
from jaxcl.similarity import (
    AxisName,
    Backend,
    Execution,
    Pairs,
    gather_rows,
    prepare,
    reduce_rows,
    row_numbers,
    similarity_rows,
)
from jaxcl.similarity.checks import Scalar, check_embeddings, check_scalar, check_where
from jaxcl.similarity.rows import similarity_logits
from jaxcl.similarity.tiled import block_rows


def alignment(
    x: jax.Array, y: jax.Array, *, alpha: Scalar = 2.0, where: jax.Array | None = None
) -> jax.Array:
    """Alignment: the distance of two views of an example (Wang & Isola, 2020, section 4.1.1).

    |x_i - y_i|^alpha of unit vectors. Together with `uniformity` it is what contrastive losses
    tend to with many negatives; alone, it collapses.

    Args:
      x: [N, D] embeddings of one view, normalized here; gradients flow into both.
      y: [N, D] of the other; row i shows what row i of x shows.
      alpha: power of the distance; float or scalar array, > 0.
      where: [N] bool, rows that count, or None: all.

    Returns:
      [N], 0 to 2**alpha; 0 where `where` is False. The paper's loss is its mean, the figure of
      `jaxcl.evaluation.geometry.alignment`.

    Raises:
      ValueError: if shapes disagree or alpha <= 0.
      TypeError: if embeddings are not floating point or `where` is not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> print(alignment(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 5.0]])))
      [2.]
    """
    check_scalar("alpha", alpha, above=0)
    # Rows that do not count are zero from here on, and so is their distance.
    x, y, _ = prepare_matched({"x": x, "y": y}, where, "cosine")
    squared = squared_euclidean(x, y)
    is_zero = squared == 0  # where powers below 2 have no gradient
    return jnp.where(is_zero, 0, jnp.where(is_zero, 1, squared) ** (alpha / 2))


def uniformity(
    x: jax.Array,
    *,
    t: Scalar = 2.0,
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
    block_size: int | None = None,
    backend: Backend = "auto",
) -> jax.Array:
    """Uniformity: how evenly rows fill the unit sphere (Wang & Isola, 2020, section 4.1.2).

    log of the mean of exp(-t |x_i - x_j|^2) over pairs i != j of unit vectors. With two views, the
    paper's loss is alignment plus `(uniformity(x) + uniformity(y)) / 2`, weighted.

    Args:
      x: [N, D] embeddings of one view, normalized here; gradients flow.
      t: sharpness; float or scalar array, > 0.
      axis_name: mapped axis whose other devices' rows are part of the batch.
      where: [N] bool, rows that count, or None: all.
      block_size: rows of similarities held at a time; None: by size.
      backend: "dense", "tiled", "ring", or "auto": by size (`jaxcl.similarity.Execution`).

    Returns:
      Scalar, the loss of the whole batch, the same on every device: 0 where all rows are equal,
      below 0 the more even they are; the figure of `jaxcl.evaluation.geometry.uniformity`. 0 where
      fewer than two rows count.

    Raises:
      ValueError: if the shape is another, t <= 0, or axis name or backend are unknown.
      TypeError: if embeddings are not floating point or `where` is not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> print(uniformity(jnp.array([[1.0, 0.0], [-1.0, 0.0]])))  # -2 * 2^2
      -8.0
    """
    execution = Execution(axis_name, block_size, backend)
    sizes: dict[str, int] = {}
    x = check_embeddings("x", x, "N D", sizes)
    check_scalar("t", t, above=0)
    where = check_where(where, sizes)
    rows = prepare(x, "cosine", where)
    numbers = row_numbers(sizes["N"], axis_name)
    # Of unit vectors -t |x - y|^2 = 2t x.y - 2t.
    potentials = similarity_rows(
        "logsumexp",
        rows,
        rows,
        temperature=1 / (2 * t),
        shift=jnp.broadcast_to(jnp.asarray(2 * t, rows.dtype), len(rows)),
        pairs=Pairs(numbers, numbers, where, where),
        execution=execution,
        uniform=False,
    )  # [N]
    total = reduce_rows("logsumexp", gather_rows(potentials, axis_name)[None])[0][0]
    count = count_rows(sizes["N"], where, axis_name)
    enough = count > 1
    pairs = jnp.where(enough, count * (count - 1), 1)
    return jnp.where(enough, total - jnp.log(pairs), 0)


def koleo(
    x: jax.Array,
    *,
    epsilon: Scalar = 1e-8,
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """KoLeo: rows away from their nearest neighbour (Sablayrolles et al., 2019).

    -log(min_j |x_i - x_j| + epsilon) of unit vectors, an estimate of their entropy but for
    constants; DINOv2 adds it with a small weight. Gradients flow into both of a pair. Two equal
    rows have a gradient of zero, for want of a direction; what is nearest is told by cosines, and
    so at random among rows closer than about 5e-4; to a zero row all are alike.

    Args:
      x: [N, D] embeddings, normalized here; gradients flow.
      epsilon: keeps the logarithm of equal rows finite; float or scalar array, > 0.
      axis_name: mapped axis whose other devices' rows may be nearest too. DINOv2 leaves them out:
        None, on each device.
      where: [N] bool, rows that count, or None: all.

    Returns:
      [N] loss of each row; 0 where `where` is False or there is no other row. The paper's loss is
      its mean.

    Raises:
      ValueError: if the shape is another, epsilon <= 0, or the axis name is unknown.
      TypeError: if embeddings are not floating point or `where` is not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> print(koleo(jnp.array([[1.0, 0.0], [-3.0, 0.0]])))  # -log(2)
      [-0.6931472 -0.6931472]
    """
    sizes: dict[str, int] = {}
    x = check_embeddings("x", x, "N D", sizes)
    check_scalar("epsilon", epsilon, above=0)
    where = check_where(where, sizes)
    rows = prepare(x, "cosine", where)
    others = gather_rows(rows, axis_name)
    numbers = row_numbers(sizes["N"], axis_name)
    other_numbers = gather_rows(numbers, axis_name)
    others_count = None if where is None else gather_rows(where, axis_name)

    def nearest_of(row: tuple[jax.Array, jax.Array]) -> jax.Array:
        own, number = (array[None] for array in row)
        pairs = Pairs(number, other_numbers, None, others_count)
        return jnp.argmax(similarity_logits(own, jax.lax.stop_gradient(others), None, pairs)[0])

    # A block of rows at a time: [N, G] is never held.
    nearest = jax.lax.map(
        nearest_of, (jax.lax.stop_gradient(rows), numbers), batch_size=block_rows(len(others))
    )
    losses = -jnp.log(euclidean(rows, others[nearest]) + epsilon)
    has_other = count_rows(sizes["N"], where, axis_name) > 1
    return jnp.where(has_other if where is None else has_other & where, losses, 0)
