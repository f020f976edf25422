"""Losses between two kinds of inputs, such as images and their captions."""

import jax
import jax.numpy as jnp

from jaxcl.losses.matched import only_counted
from jaxcl.similarity import (
    AxisName,
    Backend,
    Execution,
    Pairs,
    matched_similarity,
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


def _prepare(
    image: jax.Array,
    text: jax.Array,
    similarity: str,
    where: jax.Array | None,
    ids: jax.Array | None,
    axis_name: AxisName | None,
) -> tuple[jax.Array, jax.Array, jax.Array, Pairs]:
    """Checked and prepared rows, each pair's similarity, and which are negatives of which."""
    sizes: dict[str, int] = {}
    image = check_embeddings("image", image, "N D", sizes)
    text = check_embeddings("text", text, "N D", sizes)
    where = check_where(where, sizes)
    if ids is None:
        ids = row_numbers(sizes["N"], axis_name)
    else:
        ids = check_integers("ids", ids, "N", sizes)
    return (
        prepare(image, similarity, where),
        prepare(text, similarity, where),
        matched_similarity(image, text, similarity, where),
        Pairs(ids, ids, where, where),
    )


def clip(
    image: jax.Array,
    text: jax.Array,
    *,
    logit_scale: Scalar,
    similarity: str = "cosine",
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
    ids: jax.Array | None = None,
    ignore_above: Scalar | None = None,
    block_size: int | None = None,
    backend: Backend = "auto",
) -> jax.Array:
    """CLIP's loss: each image against all texts, and each text against all images.

    -log(exp(s_ii) / sum_j exp(s_ij)) for image i, the same with s_ji for text i, and s = cosine *
    exp(logit_scale) (Radford et al., 2021, figure 3).

    Args:
      image: [N, D] embeddings; gradients flow into both.
      text: [N, D]; row i describes what row i of `image` shows.
      logit_scale: log of what multiplies similarities; CLIP learns it from log(1 / 0.07), and keeps
        it below log(100).
      similarity: "cosine", or "dot" for embeddings that are normalized already.
      axis_name: mapped axis whose other devices' rows are negatives too.
      where: [N] bool, rows that count, or None: all.
      ids: [N] integers; rows with equal ids, of one caption say, are never each other's negatives.
      ignore_above: negatives more similar than this, before they are scaled, are
        taken for false ones and left out (as by a threshold: Huynh et al., 2022); scalar, or None:
        all count.
      block_size: rows of similarities held at a time; None: by size.
      backend: "dense", "tiled", "ring", or "auto": by size (`jaxcl.similarity.Execution`).

    Returns:
      [2N] loss of each anchor, the images' first, in nats; 0 where `where` is False or nothing is
      left as a negative. The paper's loss is its mean over the rows that count.

    Raises:
      ValueError: if shapes disagree, similarity, axis name or backend are unknown.
      TypeError: if embeddings are not floating point, ids not integers or `where` not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> rows = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> print(clip(rows, rows, logit_scale=0.0))  # log(1 + exp(0 - 1))
      [0.3132617 0.3132617 0.3132617 0.3132617]
    """
    execution = Execution(axis_name, block_size, backend)
    check_scalar("logit_scale", logit_scale)
    image, text, positive, pairs = _prepare(image, text, similarity, where, ids, axis_name)
    temperature = jnp.exp(-jnp.asarray(logit_scale))
    [losses] = mutual_similarity_rows(
        "log1p_sumexp",
        jnp.concatenate([image, text]),
        halves=True,
        temperatures=[temperature],
        shift=jnp.tile(positive / temperature, 2),
        pairs=Pairs(*(None if part is None else jnp.tile(part, 2) for part in pairs)),
        ignore_above=ignore_above,
        execution=execution,
    )
    return losses


def siglip(
    image: jax.Array,
    text: jax.Array,
    *,
    logit_scale: Scalar,
    logit_bias: Scalar,
    similarity: str = "cosine",
    axis_name: AxisName | None = None,
    where: jax.Array | None = None,
    ids: jax.Array | None = None,
    block_size: int | None = None,
    backend: Backend = "auto",
) -> jax.Array:
    """SigLIP's loss: each pair of an image and a text is a yes or a no of its own.

    Of image i: log(1 + exp(-l_ii)) + sum over j != i of log(1 + exp(l_ij)), with l = cosine *
    exp(logit_scale) + logit_bias (Zhai et al., 2023, algorithm 1; the sign of the bias in the
    equation of section 3.2 is another).

    Args:
      image: [N, D] embeddings; gradients flow into both.
      text: [N, D]; row i describes what row i of `image` shows.
      logit_scale: log of what multiplies similarities; starts at log(10).
      logit_bias: added to them; starts at -10, since nearly all pairs are a no.
      similarity: "cosine", or "dot" for embeddings that are normalized already.
      axis_name: mapped axis whose other devices' texts are negatives too.
      where: [N] bool, rows that count, or None: all.
      ids: [N] integers; pairs with equal ids in different rows are left out.
      block_size: rows of similarities held at a time; None: by size.
      backend: "dense", "tiled", "ring", or "auto": by size (`jaxcl.similarity.Execution`).

    Returns:
      [N] loss of each image, in nats; 0 where `where` is False.
      The paper's loss is its mean over the rows that count.

    Raises:
      ValueError: if shapes disagree, similarity, axis name or backend are unknown.
      TypeError: if embeddings are not floating point, ids not integers or `where` not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> rows = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> print(siglip(rows, rows, logit_scale=0.0, logit_bias=0.0))  # log(1 + 1/e) + log(2)
      [1.0064089 1.0064089]
    """
    execution = Execution(axis_name, block_size, backend)
    check_scalar("logit_scale", logit_scale)
    check_scalar("logit_bias", logit_bias)
    image, text, positive, pairs = _prepare(image, text, similarity, where, ids, axis_name)
    temperature = jnp.exp(-jnp.asarray(logit_scale))
    bias = jnp.broadcast_to(jnp.asarray(logit_bias, image.dtype), len(image))
    negatives = similarity_rows(
        "sum_softplus",
        image,
        text,
        temperature=temperature,
        shift=-bias,
        pairs=pairs,
        execution=execution,
    )
    positives = jax.nn.softplus(-(positive / temperature + bias))
    losses = positives + negatives
    return only_counted(losses, where)
