"""Softmax contrastive losses: the positive against the negatives."""

import jax
import jax.numpy as jnp

from jaxcl.losses.two_views import two_views
from jaxcl.similarity import (
    AxisName,
    Backend,
    Execution,
    Pairs,
    logaddexp,
    matched_similarity,
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


def _check_negatives(
    negatives: jax.Array,
    ids: jax.Array | None,
    negative_ids: jax.Array | None,
    sizes: dict[str, int],
) -> tuple[jax.Array, jax.Array | None]:
    if jnp.ndim(negatives) not in (2, 3):
        raise ValueError(
            f"negatives has shape {jnp.shape(negatives)}, expected [M, D] shared by all queries or "
            "[N, M, D], one set for each"
        )
    axes = "M D" if jnp.ndim(negatives) == 2 else "N M D"
    negatives = check_embeddings("negatives", negatives, axes, sizes)
    _check_both(ids, negative_ids)
    if negative_ids is not None:
        shared = jnp.ndim(negative_ids) == 1
        negative_ids = check_integers("negative_ids", negative_ids, "M" if shared else "N M", sizes)
    return negatives, negative_ids


def _check_both(ids: jax.Array | None, negative_ids: jax.Array | None) -> None:
    """Raises where negatives are given and one kind of ids alone."""
    if (ids is None) != (negative_ids is None):
        raise ValueError(
            "ids and negative_ids go together where negatives are given: "
            f"{'ids' if ids is None else 'negative_ids'} is missing"
        )


def info_nce(
    queries: jax.Array,
    positives: jax.Array,
    negatives: jax.Array | None = None,
    *,
    temperature: Scalar = 0.07,
    similarity: str = "cosine",
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
    ids: jax.Array | None = None,
    negative_ids: jax.Array | None = None,
    ignore_above: Scalar | None = None,
    block_size: int | None = None,
    backend: Backend = "auto",
) -> jax.Array:
    """InfoNCE: each query against its positive and negatives (van den Oord et al., 2018, eq. 4).

    -log(exp(s+) / (exp(s+) + sum over negatives of exp(s-))), s = similarity / temperature.

    With `negatives` a queue, MoCo's loss (He et al., 2020, eq. 1). With None, the loss over a batch
    that SimCSE and MoCo v3 use, and one half of CLIP's.

    Args:
      queries: [N, D] embeddings; gradients flow into all three.
      positives: [N, D]; row i matches query i.
      negatives: [M, D] shared by all queries, [N, M, D] one set a query, in place of the batch's;
        or None: the other rows' positives.
      temperature: divides similarities; float or scalar array, > 0.
      similarity: "cosine", or "dot" for embeddings that are normalized already.
      axis_name: mapped axis whose other devices' positives are negatives too. Negatives that are
        given are all there are: they are not gathered, so a shared queue is to be the same on every
        device.
      where: [N] bool, rows that count, or None: all.
      ids: [N] integers; rows with equal ids are never each other's negatives.
      negative_ids: the negatives' ids, [M], or [N, M] where they differ by query.
      ignore_above: negatives more similar than this, before division by the temperature, are
        taken for false ones and left out (as by a threshold: Huynh et al., 2022); scalar, or None:
        all count.
      block_size: rows of similarities held at a time; None: by size.
      backend: "dense", "tiled", "ring", or "auto": by size (`jaxcl.similarity.Execution`).

    Returns:
      [N] loss of each query, in nats; 0 where `where` is False or nothing is left as a negative.
      The paper's loss is its mean over the rows that count.

    Raises:
      ValueError: if shapes disagree, temperature <= 0, similarity or axis name are unknown, or only
        one of `ids` and `negative_ids` is there beside negatives.
      TypeError: if embeddings are not floating point, ids not integers or `where` not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> queries = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> print(info_nce(queries, queries, temperature=1.0))  # log(1 + exp(0 - 1))
      [0.3132617 0.3132617]
    """
    execution = Execution(axis_name, block_size, backend)
    sizes: dict[str, int] = {}
    queries = check_embeddings("queries", queries, "N D", sizes)
    positives = check_embeddings("positives", positives, "N D", sizes)
    check_scalar("temperature", temperature, above=0)
    where = check_where(where, sizes)
    if ids is not None:
        ids = check_integers("ids", ids, "N", sizes)

    if negatives is None:
        if negative_ids is not None:
            raise ValueError("negative_ids came without negatives: the other rows' ids are `ids`")
        ids = row_numbers(sizes["N"], axis_name) if ids is None else ids
        negatives = prepare(positives, similarity, where)
        pairs = Pairs(ids, ids, where, where)
    else:
        negatives, negative_ids = _check_negatives(negatives, ids, negative_ids, sizes)
        negatives = prepare(negatives, similarity, where if negatives.ndim == 3 else None)
        pairs = Pairs(ids, negative_ids, where)
        execution = execution.on_this_device()  # what is given is all there is
    positive = matched_similarity(queries, positives, similarity, where) / temperature
    return similarity_rows(
        "log1p_sumexp",
        prepare(queries, similarity, where),
        negatives,
        temperature=temperature,
        shift=positive,
        pairs=pairs,
        ignore_above=ignore_above,
        execution=execution,
    )


def nt_xent(
    z0: jax.Array,
    z1: jax.Array,
    negatives: jax.Array | None = None,
    *,
    temperature: Scalar = 0.5,
    similarity: str = "cosine",
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
    ids: jax.Array | None = None,
    negative_ids: jax.Array | None = None,
    ignore_above: Scalar | None = None,
    block_size: int | None = None,
    backend: Backend = "auto",
) -> jax.Array:
    """NT-Xent, SimCLR's loss: both views of every row are anchors (Chen et al., 2020, eq. 1).

    -log(exp(s+) / (exp(s+) + sum over negatives of exp(s-))), s = similarity / temperature.

    Each anchor's positive is its row's other view; its negatives are both views of all other rows,
    and those of a memory where one is given (SimCLR v2: Chen et al., 2020b, section 2).

    Args:
      z0: [N, D] embeddings of one view; gradients flow into both.
      z1: [N, D] of the other; row i shows what row i of z0 shows.
      negatives: [M, D] negatives of every anchor beside those of the batch, such as a queue, the
        same on every device; or None.
      temperature: divides similarities; float or scalar array, > 0.
      similarity: "cosine", or "dot" for embeddings that are normalized already.
      axis_name: mapped axis whose other devices' rows are negatives too.
      where: [N] bool, rows that count, or None: all.
      ids: [N] integers; rows with equal ids are never each other's negatives.
      negative_ids: [M] integers, the ids of `negatives`; goes with `ids`.
      ignore_above: negatives more similar than this, before division by the temperature, are
        taken for false ones and left out (as by a threshold: Huynh et al., 2022); scalar, or None:
        all count.
      block_size: rows of similarities held at a time; None: by size.
      backend: "dense", "tiled", "ring", or "auto": by size (`jaxcl.similarity.Execution`).

    Returns:
      [2N] loss of each anchor, z0's first, in nats; 0 where `where` is False or an anchor has no
      negatives. The paper's loss is its mean over the rows that count.

    Raises:
      ValueError: if shapes disagree, temperature <= 0, similarity or axis name are unknown, or only
        one of `ids` and `negative_ids` is there beside negatives.
      TypeError: if embeddings are not floating point, ids not integers or `where` not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> views = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> print(nt_xent(views, views, temperature=1.0))  # log(1 + 2 exp(0 - 1))
      [0.5514447 0.5514447 0.5514447 0.5514447]
    """
    execution = Execution(axis_name, block_size, backend)
    views = two_views(
        z0,
        z1,
        temperature=temperature,
        similarity=similarity,
        execution=execution,
        where=where,
        ids=ids,
    )
    positive = jnp.tile(views.similarity / temperature, 2)
    if negatives is None:
        if negative_ids is not None:
            raise ValueError("negative_ids came without negatives: the batch's ids are `ids`")
        [losses] = views.negatives(
            "log1p_sumexp", [temperature], execution, shift=positive, ignore_above=ignore_above
        )
        return losses
    sizes = {"D": views.anchors.shape[1]}
    negatives = check_embeddings("negatives", negatives, "M D", sizes)
    _check_both(ids, negative_ids)
    if negative_ids is not None:
        negative_ids = check_integers("negative_ids", negative_ids, "M", sizes)
    of_memory = similarity_rows(
        "logsumexp",
        views.anchors,
        prepare(negatives, similarity),
        temperature=temperature,
        pairs=views.pairs._replace(
            query_ids=None if negative_ids is None else views.pairs.query_ids,
            key_ids=negative_ids,
            key_where=None,
        ),
        ignore_above=ignore_above,
        execution=execution.on_this_device(),
        uniform=False,
    )
    [of_batch] = views.negatives(
        "logsumexp", [temperature], execution, ignore_above=ignore_above, uniform=False
    )
    return jax.nn.softplus(logaddexp(of_batch, of_memory) - positive)
