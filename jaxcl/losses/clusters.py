"""Losses over soft assignments to clusters: one view's is predicted from another view."""

import jax
import jax.numpy as jnp

from jaxcl.losses.moments import count_rows, sum_over_devices
from jaxcl.similarity import AxisName, at_least_float32, axis_size
from jaxcl.similarity.checks import (
    Scalar,
    check_count,
    check_embeddings,
    check_scalar,
    check_where,
)


def sinkhorn(
    scores: jax.Array,
    memory: jax.Array | None = None,
    *,
    epsilon: Scalar = 0.05,
    iterations: int = 3,
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """Assigns rows to prototypes, all prototypes about equally often (Caron et al., 2020, eq. 3-5).

    exp(scores / epsilon), with its columns and then its rows scaled to equal sums, again and again
    (Sinkhorn & Knopp). Computed with logarithms: scores of any size neither over- nor underflow.

    Args:
      scores: [N, K] similarities of rows and prototypes, taken as they are. No gradient flows.
      memory: [M, K] scores of further rows that take their share of the prototypes, such as SwAV's
        queue, the same on every device; or None.
      epsilon: divides scores: the smaller, the harder the assignments; float or scalar array, > 0.
      iterations: how often both are scaled, >= 1.
      axis_name: mapped axis whose other devices' rows share the prototypes. Devices exchange [K]
        sums, not rows.
      where: [N] bool, rows of `scores` that count, or None: all.

    Returns:
      [N, K] assignments, each row of sum 1; zero where `where` is False.

    Raises:
      ValueError: if shapes disagree, epsilon <= 0, iterations < 1 or the axis name is unknown.
      TypeError: if scores are not floating point or `where` is not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> scores = jnp.array([[0.2, 0.1], [0.3, 0.1]])  # both rows prefer the first prototype
      >>> [[round(float(x), 3) for x in row] for row in sinkhorn(scores, iterations=50)]
      [[0.269, 0.731], [0.731, 0.269]]
    """
    sizes: dict[str, int] = {}
    scores = check_embeddings("scores", scores, "N K", sizes)
    if memory is not None:
        memory = check_embeddings("memory", memory, "M K", sizes)
    where = check_where(where, sizes)
    _check_sinkhorn(epsilon, iterations)
    return _sinkhorn(scores, memory, epsilon, iterations, axis_name, where)


def _check_sinkhorn(epsilon: Scalar, iterations: int) -> None:
    check_scalar("epsilon", epsilon, above=0)
    check_count("iterations", iterations, at_least=1)


def _sinkhorn(
    scores: jax.Array,
    memory: jax.Array | None,
    epsilon: Scalar,
    iterations: int,
    axis_name: AxisName | None,
    where: jax.Array | None,
) -> jax.Array:
    """`sinkhorn` of arguments that are checked."""
    logits = at_least_float32(jax.lax.stop_gradient(scores))
    rows = len(logits)
    counts = jnp.ones(rows, bool) if where is None else where
    # Every device has the memory whole: only the first brings it into the sums.
    brings_memory = axis_size(axis_name) == 1 or jax.lax.axis_index(axis_name) == 0
    if memory is not None:
        remembered = at_least_float32(jax.lax.stop_gradient(memory))
        logits = jnp.concatenate([logits, remembered])
        counts = jnp.concatenate([counts, jnp.ones(len(remembered), bool)])
    in_sums = counts & ((jnp.arange(len(logits)) < rows) | brings_memory)
    logits = jnp.where(counts[:, None], logits, 0) / jax.lax.stop_gradient(epsilon)

    def scale_both(_: int, logits: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(_scale_columns(logits, in_sums, axis_name), axis=1)

    logits = jax.lax.fori_loop(0, iterations, scale_both, logits)
    return jnp.where(counts[:rows, None], jnp.exp(logits[:rows]), 0)


def _scale_columns(logits: jax.Array, in_sums: jax.Array, axis_name: AxisName | None) -> jax.Array:
    """Logits whose exponentials' sum over rows and devices is 1 for each column."""
    summed = jnp.where(in_sums[:, None], logits, -jnp.inf)
    largest = jnp.max(summed, axis=0)
    if axis_size(axis_name) > 1:
        largest = jax.lax.pmax(largest, axis_name)
    largest = jnp.where(jnp.isneginf(largest), 0, largest)
    total = sum_over_devices(jnp.sum(jnp.exp(summed - largest), axis=0), axis_name)
    # The largest is taken out first: of large logits, float32 would not keep the logarithm.
    return logits - largest - jnp.log(jnp.where(total == 0, 1, total))


def swav(
    scores: jax.Array,
    memory: jax.Array | None = None,
    *,
    assigned_views: int = 2,
    temperature: Scalar = 0.1,
    epsilon: Scalar = 0.05,
    iterations: int = 3,
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """SwAV: a view's assignment, predicted from every other view (Caron et al., 2020, eq. 1, 2, 6).

    The mean over the views a that are assigned and the views v != a of the cross entropy between
    view a's assignment (`sinkhorn`, a constant to the gradient) and softmax(scores of v /
    temperature).

    Args:
      scores: [V, N, K] similarities of each view's rows and the prototypes, both normalized,
        full-size crops first; a list of [N, K] is taken too. Row i of every view shows the same
        example.
      memory: [assigned_views, M, K] scores of further rows that take part in each view's
        assignments, such as a queue, the same on every device; or None.
      assigned_views: how many views, the first, are assigned to prototypes, 1 to V; the others, the
        small crops, only predict.
      temperature: divides scores in predictions; float or scalar array, > 0.
      epsilon: as of `sinkhorn`.
      iterations: as of `sinkhorn`.
      axis_name: mapped axis whose other devices' rows share the prototypes.
      where: [N] bool, rows that count, or None: all.

    Returns:
      [N] loss of each example, in nats; 0 where `where` is False. The paper sums over
      the pairs of views.

    Raises:
      ValueError: if shapes disagree, there is no second view, temperature or epsilon <= 0, or
        assigned_views, iterations or the axis name are not what they should be.
      TypeError: if scores are not floating point or `where` is not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> scores = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> losses = swav([scores, scores], temperature=1.0)
      >>> [round(float(loss), 5) for loss in losses]  # log(1 + exp(0 - 1))
      [0.31326, 0.31326]
    """
    sizes: dict[str, int] = {}
    scores = check_embeddings("scores", scores, "V N K", sizes)
    check_count("assigned_views", assigned_views, at_least=1)
    if assigned_views > sizes["V"] or sizes["V"] < 2:
        raise ValueError(
            f"scores has {sizes['V']} views and assigned_views is {assigned_views}, expected at "
            "least 2 views, of which at most all are assigned"
        )
    if memory is not None:
        memory = check_embeddings("memory", memory, "A M K", sizes | {"A": assigned_views})
    where = check_where(where, sizes)
    check_scalar("temperature", temperature, above=0)
    _check_sinkhorn(epsilon, iterations)
    assignments = jax.vmap(
        lambda scores, memory: _sinkhorn(scores, memory, epsilon, iterations, axis_name, where)
    )(scores[:assigned_views], memory)
    return _cross_entropy_of_other_views(assignments, scores, temperature, where)


def dino(
    student: jax.Array,
    teacher: jax.Array,
    center: jax.Array | None = None,
    *,
    student_temperature: Scalar = 0.1,
    teacher_temperature: Scalar = 0.04,
    where: jax.Array | None = None,
) -> jax.Array:
    """DINO: the student predicts what the teacher says of other views (Caron et al., 2021, eq. 3).

    The mean over teacher views t and student views s != t of the cross entropy between
    softmax((teacher - center) / teacher_temperature), a constant to the gradient, and
    softmax(student / student_temperature). `update_center` moves the center.

    Args:
      student: [V, N, K] logits of all views, those that the teacher sees first and in its order; a
        list of [N, K] is taken too. Gradients flow into it alone.
      teacher: [T, N, K] logits of the first T <= V views.
      center: [K], subtracted from the teacher's logits, or None: 0.
      student_temperature: float or scalar array, > 0.
      teacher_temperature: float or scalar array, > 0; smaller than the student's, it sharpens.
      where: [N] bool, rows that count, or None: all.

    Returns:
      [N] loss of each example, in nats; 0 where `where` is False. Its mean is the loss of the
      authors' code, the mean over pairs of views where the paper has their sum.

    Raises:
      ValueError: if shapes disagree, there is no pair of different views or a temperature is <= 0.
      TypeError: if logits are not floating point or `where` is not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> sharp = 100 * logits
      >>> losses = dino([logits, logits], [sharp, sharp], student_temperature=1.0)
      >>> [round(float(loss), 5) for loss in losses]  # log(1 + exp(0 - 1))
      [0.31326, 0.31326]
    """
    sizes: dict[str, int] = {}
    student = check_embeddings("student", student, "V N K", sizes)
    teacher = check_embeddings("teacher", teacher, "T N K", sizes)
    if not 1 <= sizes["T"] <= sizes["V"] or sizes["V"] < 2:
        raise ValueError(
            f"student has {sizes['V']} views and teacher {sizes['T']}, expected at least 2 and at "
            "most as many as the student's"
        )
    if center is not None:
        center = check_embeddings("center", center, "K", sizes)
    where = check_where(where, sizes)
    check_scalar("student_temperature", student_temperature, above=0)
    check_scalar("teacher_temperature", teacher_temperature, above=0)
    logits = at_least_float32(teacher)
    if center is not None:
        logits = logits - at_least_float32(center)
    targets = jax.lax.stop_gradient(jax.nn.softmax(logits / teacher_temperature, axis=-1))
    return _cross_entropy_of_other_views(targets, student, student_temperature, where)


def update_center(
    center: jax.Array,
    teacher: jax.Array,
    *,
    momentum: Scalar = 0.9,
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """Moves DINO's center towards the mean of the teacher's logits (Caron et al., 2021, eq. 4).

    The loss of a step uses the center of before it.

    Args:
      center: [K]; zeros to begin with.
      teacher: [T, N, K] the teacher's logits of this step.
      momentum: share of the old center that stays; float or scalar array, 0 to 1.
      axis_name: mapped axis whose other devices' rows enter the mean.
      where: [N] bool, rows that count, or None: all.

    Returns:
      [K] the new center in float32, the same on every device; the old one if no row counts. No
      gradient flows.

    Raises:
      ValueError: if shapes disagree, the momentum is outside 0 to 1 or the axis name is unknown.
      TypeError: if arrays are not floating point or `where` is not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> print(update_center(jnp.zeros(2), jnp.array([[[1.0, 2.0]]]), momentum=0.9))
      [0.1 0.2]
    """
    sizes: dict[str, int] = {}
    center = check_embeddings("center", center, "K", sizes)
    teacher = check_embeddings("teacher", teacher, "T N K", sizes)
    where = check_where(where, sizes)
    check_scalar("momentum", momentum, at_least=0, at_most=1)
    center = at_least_float32(center)
    count = count_rows(sizes["N"], where, axis_name)
    means = jnp.mean(at_least_float32(teacher), axis=0)  # [N, K]
    if where is not None:
        means = jnp.where(where[:, None], means, 0)
    mean = sum_over_devices(jnp.sum(means, axis=0), axis_name) / jnp.maximum(count, 1)
    moved = momentum * center + (1 - momentum) * mean
    return jax.lax.stop_gradient(jnp.where(count > 0, moved, center))


def _cross_entropy_of_other_views(
    targets: jax.Array, logits: jax.Array, temperature: Scalar, where: jax.Array | None
) -> jax.Array:
    """The mean over pairs of a target's view and another view [N].

    Targets are [A, N, K], logits [V, N, K], whose first A views are the targets'.
    """
    logits = at_least_float32(logits)
    if where is not None:
        logits = jnp.where(where[:, None], logits, 0)
        targets = jnp.where(where[:, None], targets, 0)
    log_predictions = jax.nn.log_softmax(logits / temperature, axis=-1)
    pairs = -jnp.einsum(
        "ank,vnk->avn", targets, log_predictions, precision=jax.lax.Precision.HIGHEST
    )
    assigned, views = len(targets), len(logits)
    same_view = jnp.eye(assigned, views, dtype=bool)[:, :, None]
    return jnp.sum(jnp.where(same_view, 0, pairs), axis=(0, 1)) / (assigned * (views - 1))
