"""Gradient caching: the exact gradient of a large batch, with the memory of a small one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def grad_cache(
    represent: Callable[..., Any],
    objective: Callable[..., Any],
    *,
    micro_batch: int,
    has_aux: bool = False,
) -> Callable[..., Any]:
    """Loss and gradient of a large batch whose rows are encoded a micro-batch at a time.

    Contrastive losses compare all rows of a batch, so gradients of parts of it do not add up to its
    own. They do once each row's embedding gradient is known (Gao, Zhang, Han & Callan, 2021,
    sections 3.2 and 3.3; Pham et al., 2021): encode without keeping activations, differentiate the
    objective with respect to all embeddings, then encode each micro-batch again and pull its part
    of that gradient back. The encoder runs forward twice, and holds the activations of one
    micro-batch.

    Equal to the direct gradient up to floating-point order, as long as `represent` treats each row
    by itself. Statistics over rows (BatchNorm in training) would be those of the micro-batch: keep
    them out of `represent`, or see `cached_loss_and_grad`.

    Under `pmap`, `shard_map` or `vmap(axis_name=...)`, a micro-batch is one of this device's rows:
    close `objective` over the axis name, and `pmean` what comes out, as after `jax.grad`.

    Args:
      represent: (params, inputs) -> embeddings, or (params, inputs, key) where a key is given; a
        pytree of [n, ...] arrays for n rows of inputs. Called with `micro_batch` rows.
      objective: (params, embeddings, *rest) -> scalar loss. Gradients reach params through it too,
        so temperatures and prototypes may be learned.
      micro_batch: rows encoded at a time; divides the batch. One at least as large as the batch
        differentiates directly.
      has_aux: whether `objective` returns (loss, aux) instead.

    Returns:
      loss_and_grad(params, inputs, *rest, key=None) -> (loss, gradient), or ((loss, aux),
      gradient), as from `jax.value_and_grad`. `inputs` is a pytree of [N, ...] arrays, cut along N;
      `rest` goes to `objective` whole. Micro-batch i gets `jax.random.fold_in(key, i)`, the same in
      both passes: the draws hang on `micro_batch`. For draws that do not, let each row bring its
      own key: put `jax.random.split(key, N)` among the inputs. Gradients are summed in float32.

    Raises:
      ValueError: if `micro_batch` is below 1 or does not divide the batch, inputs differ in rows,
        embeddings are not one a row, or the loss is no scalar. All while tracing.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcl.losses import info_nce
      >>> params = {"weights": jnp.eye(4), "log_temperature": jnp.float32(-2)}
      >>> def represent(params, views):
      ...     return views[0] @ params["weights"], views[1] @ params["weights"]
      >>> def objective(params, embeddings):
      ...     return info_nce(*embeddings, temperature=jnp.exp(params["log_temperature"])).mean()
      >>> views = tuple(jax.random.normal(jax.random.key(0), (2, 64, 4)))
      >>> loss, grads = jax.jit(grad_cache(represent, objective, micro_batch=8))(params, views)
      >>> direct = jax.grad(lambda params: objective(params, represent(params, views)))(params)
      >>> bool(jnp.allclose(grads["weights"], direct["weights"], atol=1e-5))
      True
    """
    check_micro_batch(micro_batch)

    def loss_and_grad(params: Any, inputs: Any, *rest: Any, key: jax.Array | None = None) -> Any:
        chunks = split_rows(inputs, micro_batch)

        def of_chunk(params: Any, chunk: tuple[Any, jax.Array]) -> tuple[Any, None]:
            rows, number = chunk
            drawn = () if key is None else (jax.random.fold_in(key, number),)
            embeddings = represent(params, rows, *drawn)
            check_rows(embeddings, row_count(rows))
            return embeddings, None

        def of_all(params: Any, embeddings: Any, _: None) -> tuple[jax.Array, Any]:
            result = objective(params, embeddings, *rest)
            return result if has_aux else (result, None)

        numbers = jnp.arange(row_count(chunks))
        (loss, aux), grads = two_passes(of_chunk, of_all, params, (chunks, numbers))
        return ((loss, aux) if has_aux else loss), grads

    return loss_and_grad


def two_passes(
    represent: Callable[[Any, Any], tuple[Any, Any]],
    objective: Callable[[Any, Any, Any], tuple[jax.Array, Any]],
    params: Any,
    chunks: Any,
) -> tuple[tuple[jax.Array, Any], Any]:
    """Gradient caching over rows that are cut already, with what `represent` says beside.

    Args:
      represent: (params, chunk) -> (embeddings [m, ...], extras); no gradient through the extras.
      objective: (params, embeddings [k * m, ...], extras [k, ...]) -> (loss, aux).
      params: a pytree of floating arrays.
      chunks: a pytree of [k, m, ...] arrays or [k] ones.

    Returns:
      ((loss, aux), gradient with respect to params).
    """
    objective = _scalar(objective)
    count = row_count(chunks)
    if count == 1:
        only = jax.tree.map(lambda x: x[0], chunks)

        def direct(params: Any) -> tuple[jax.Array, Any]:
            embeddings, extras = represent(params, only)
            return objective(params, embeddings, jax.tree.map(lambda x: x[None], extras))

        return jax.value_and_grad(direct, has_aux=True)(params)

    def encode(_: None, chunk: Any) -> tuple[None, tuple[Any, Any]]:
        return None, represent(params, chunk)

    _, (embeddings, extras) = jax.lax.scan(encode, None, chunks)
    smooth, rest = _partition(embeddings)

    def of_embeddings(params: Any, smooth: Any) -> tuple[jax.Array, Any]:
        return objective(params, jax.tree.map(_join, _combine(smooth, rest)), extras)

    value, (own, cotangents) = jax.value_and_grad(of_embeddings, (0, 1), has_aux=True)(
        params, smooth
    )

    def pull_back(total: Any, chunk_and_cotangents: tuple[Any, Any]) -> Any:
        chunk, cotangents = chunk_and_cotangents
        _, pull = jax.vjp(lambda params: _partition(represent(params, chunk)[0])[0], params)
        return jax.tree.map(lambda x, y: x + y.astype(x.dtype), total, *pull(cotangents))

    # Many small numbers are added: in float32 also where parameters are narrower.
    wide = jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), own)
    in_line = _has_convolutions(represent, params, chunks)
    total = fold(pull_back, wide, (chunks, cotangents), in_line_on_cpu=in_line)
    return value, jax.tree.map(lambda x, y: x.astype(y.dtype), total, own)


def fold(
    advance: Callable[[Any, Any], Any], start: Any, chunks: Any, *, in_line_on_cpu: bool
) -> Any:
    """`start` advanced by one chunk after another, the memory of one chunk held at a time.

    Args:
      advance: (total, chunk) -> total.
      start: the first total, a pytree of arrays.
      chunks: a pytree of [k, ...] arrays.
      in_line_on_cpu: without a loop there: XLA's CPU compiler leaves gradients of convolutions
        inside loops a hundred times slower.
    """

    def loop(total: Any, chunks: Any) -> Any:
        return jax.lax.scan(lambda total, chunk: (advance(total, chunk), None), total, chunks)[0]

    def in_line(total: Any, chunks: Any) -> Any:
        for number in range(row_count(chunks)):
            total = advance(total, _chunk_after(chunks, number, total))
        return total

    if in_line_on_cpu:
        return jax.lax.platform_dependent(start, chunks, cpu=in_line, default=loop)
    return loop(start, chunks)


def check_micro_batch(
    micro_batch: int, rows: int | None = None, *, name: str = "micro_batch"
) -> None:
    """Raises, naming sizes that fit, where rows cannot be cut in micro-batches of this size."""
    if micro_batch < 1:
        raise ValueError(f"{name} must be at least 1, got {micro_batch}")
    if rows is None or micro_batch >= rows or rows % micro_batch == 0:
        return
    lower = next(size for size in range(micro_batch, 0, -1) if rows % size == 0)
    upper = next(size for size in range(micro_batch, rows + 1) if rows % size == 0)
    raise ValueError(
        f"{name} {micro_batch} does not divide a device's batch of {rows} rows: use {lower} or "
        f"{upper}"
    )


def split_rows(inputs: Any, micro_batch: int) -> Any:
    """Cuts [N, ...] arrays into [N / micro_batch, micro_batch, ...]; a larger one is one chunk."""
    rows = row_count(inputs)
    check_micro_batch(micro_batch, rows)
    size = min(micro_batch, rows)
    return jax.tree.map(lambda x: x.reshape(rows // size, size, *x.shape[1:]), inputs)


def row_count(inputs: Any) -> int:
    """Length of the first axis, which all arrays share.

    Raises:
      ValueError: if they do not, or there are no rows.
    """
    shapes = {
        jax.tree_util.keystr(path): jnp.shape(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(inputs)
    }
    counts = {shape[0] if shape else None for shape in shapes.values()}
    count = counts.pop() if len(counts) == 1 else None
    if not count:
        found = ", ".join(f"{shape} at inputs{path}" for path, shape in shapes.items())
        raise ValueError(
            f"inputs must be arrays [N, ...] with the same N > 0, got {found or 'no array'}: give "
            "what belongs to no row to the functions themselves"
        )
    return count


def check_rows(embeddings: Any, rows: int) -> None:
    """Raises where embeddings are not one a row."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(embeddings):
        if jnp.shape(leaf)[:1] != (rows,):
            raise ValueError(
                f"embeddings{jax.tree_util.keystr(path)} have shape {jnp.shape(leaf)} for a "
                f"micro-batch of {rows} rows, expected [{rows}, ...]: return one embedding a row, "
                "those of several views apart, as in a tuple"
            )


def _has_convolutions(
    represent: Callable[[Any, Any], tuple[Any, Any]], params: Any, chunks: Any
) -> bool:
    chunk = jax.tree.map(lambda x: x[0], chunks)
    program = str(jax.make_jaxpr(represent)(params, chunk))
    return "conv_general_dilated" in program or "convolve_3x3" in program


def _chunk_after(parts: Any, number: int, total: Any) -> Any:
    """Chunk `number`, in a form that the compiler can reach only when `total` is done.

    Else it may work on several chunks at a time, and hold the activations of all of them.
    """
    sample = jnp.stack([x.ravel()[0] for x in jax.tree.leaves(total) if x.size]).sum()
    never = jnp.isnan(sample) & jnp.isinf(sample)  # the compiler does not know
    place = number + never.astype(jnp.int32)
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, place, keepdims=False), parts)


def _join(chunks: jax.Array) -> jax.Array:
    """[k, m, ...] -> [k * m, ...]."""
    return chunks.reshape(-1, *chunks.shape[2:])


def _partition(tree: Any) -> tuple[Any, Any]:
    """What can be differentiated, and the rest (integers, masks); None where the other has it."""
    smooth = jax.tree.map(
        lambda x: x if jnp.issubdtype(jnp.result_type(x), jnp.inexact) else None, tree
    )
    rest = jax.tree.map(lambda x, y: None if x is y else x, tree, smooth)
    return smooth, rest


def _combine(smooth: Any, rest: Any) -> Any:
    return jax.tree.map(
        lambda x, y: y if x is None else x, smooth, rest, is_leaf=lambda x: x is None
    )


def _scalar(
    objective: Callable[[Any, Any, Any], tuple[jax.Array, Any]],
) -> Callable[[Any, Any, Any], tuple[jax.Array, Any]]:
    def checked(params: Any, embeddings: Any, extras: Any) -> tuple[jax.Array, Any]:
        loss, aux = objective(params, embeddings, extras)
        if jnp.shape(loss):
            raise ValueError(
                f"objective must return a scalar loss, got shape {jnp.shape(loss)}: take its mean"
            )
        return loss, aux

    return checked
