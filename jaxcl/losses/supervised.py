"""Contrastive losses that know the classes of their anchors."""

import jax
import jax.numpy as jnp

from jaxcl.losses.class_sums import class_numbers, similarity_to_class
from jaxcl.similarity import (
    AxisName,
    Backend,
    Execution,
    Pairs,
    gather_rows,
    logaddexp,
    mutual_similarity_rows,
    prepare,
    row_numbers,
    similarity_rows,
)
from jaxcl.similarity.checks import (
    Scalar,
    check_embeddings,
    check_integers,
    check_scalar,
    check_where,
)


def sup_con(
    embeddings: jax.Array,
    labels: jax.Array,
    memory: jax.Array | None = None,
    memory_labels: jax.Array | None = None,
    *,
    temperature: Scalar = 0.1,
    similarity: str = "cosine",
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
    block_size: int | None = None,
    backend: Backend = "auto",
) -> jax.Array:
    """SupCon: every other row of an anchor's class is a positive (Khosla et al., 2020, eq. 2).

    log sum over all other rows a of exp(s_ia) - mean over the anchor's positives p of s_ip, with s
    = cosine / temperature: the form that the paper calls L_out, its sum over positives outside the
    logarithm. Views of one image are rows with one label.

    Args:
      embeddings: [N, D]; gradients flow.
      labels: [N] integers, the rows' classes.
      memory: [M, D] more rows that are compared with but are no anchors, such as a queue, the same
        on every device (cross-batch memory: Wang et al., 2020); or None.
      memory_labels: [M] integers, their classes; goes with `memory`.
      temperature: divides similarities; float or scalar array, > 0.
      similarity: "cosine", or "dot" for embeddings that are normalized already.
      axis_name: mapped axis whose other devices' rows are positives and negatives too. The sums of
        classes are formed of all devices' rows, gathered, under every backend.
      where: [N] bool, rows that count, or None: all.
      block_size: rows of similarities held at a time; None: by size.
      backend: "dense", "tiled", "ring", or "auto": by size (`jaxcl.similarity.Execution`).

    Returns:
      [N] loss of each anchor, in nats; 0 where `where` is False or an anchor has no positive. The
      paper's loss is its mean, where every anchor has one.

    Raises:
      ValueError: if shapes disagree, temperature <= 0, only one of `memory` and `memory_labels` is
        there, or similarity, axis name or backend are unknown.
      TypeError: if embeddings are not floating point, labels not integers or `where` not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> rows = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
      >>> print(sup_con(rows, jnp.array([0, 0, 1]), temperature=1.0))  # log(e + 1) - 1
      [0.31326163 0.31326163 0.        ]
    """
    execution = Execution(axis_name, block_size, backend)
    sizes: dict[str, int] = {}
    embeddings = check_embeddings("embeddings", embeddings, "N D", sizes)
    labels = check_integers("labels", labels, "N", sizes)
    check_scalar("temperature", temperature, above=0)
    where = check_where(where, sizes)
    if (memory is None) != (memory_labels is None):
        missing = "memory" if memory is None else "memory_labels"
        raise ValueError(f"memory and memory_labels go together: {missing} is missing")
    anchors = prepare(embeddings, similarity, where)
    counts = jnp.ones(sizes["N"], bool) if where is None else where

    keys = [gather_rows(anchors, axis_name)]
    classes, counted = [gather_rows(labels, axis_name)], [gather_rows(counts, axis_name)]
    if memory is not None and memory_labels is not None:
        memory = prepare(check_embeddings("memory", memory, "M D", sizes), similarity)
        memory_labels = check_integers("memory_labels", memory_labels, "M", sizes)
        keys.append(memory)
        classes.append(memory_labels)
        counted.append(jnp.ones(sizes["M"], bool))
    numbers = row_numbers(sizes["N"], axis_name)
    class_of, is_counted = class_numbers(jnp.concatenate(classes)), jnp.concatenate(counted)
    members = jax.ops.segment_sum(is_counted.astype(jnp.int32), class_of, len(class_of))
    positives = members[class_of[numbers]] - 1  # but for the anchor itself
    is_anchor = counts & (positives > 0)
    rows = jnp.where(is_counted[:, None], jnp.concatenate(keys), 0)
    positive = similarity_to_class(sizes["N"], rows, class_of, numbers[0])
    positive = positive / jnp.maximum(positives, 1)

    pairs = Pairs(numbers, numbers, is_anchor, where)
    [normalizer] = mutual_similarity_rows(
        "logsumexp", anchors, temperatures=[temperature], pairs=pairs, execution=execution
    )
    if memory is not None:
        more = similarity_rows(
            "logsumexp",
            anchors,
            memory,
            temperature=temperature,
            pairs=Pairs(query_where=is_anchor),
            execution=execution.on_this_device(),
            uniform=False,
        )
        normalizer = logaddexp(normalizer, more)
    losses = normalizer - positive / temperature
    return jnp.where(is_anchor, losses, 0)
