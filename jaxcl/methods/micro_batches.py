"""Gradient caching for methods: which of them a micro-batch can stand in for, and how."""

import dataclasses
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax

from jaxcl.encoders import BatchNorm
from jaxcl.methods.gradient_cache import check_rows, row_count, split_rows, two_passes
from jaxcl.methods.method import Batch, Method, Metrics, Params

_GROUPS = "batch_norm_groups"
"""The field of a network that sets the groups of its batch statistics."""

LossAndGrad = Callable[..., tuple[tuple[jax.Array, tuple[Any, Metrics]], Params]]
"""(params, state, batch, *, key, progress, axis_name) -> ((loss, (state, metrics)), gradient)."""


def cached_loss_and_grad(method: Method, *, micro_batch: int | None) -> LossAndGrad:
    """`jax.value_and_grad(method.loss, has_aux=True)`, encoding a micro-batch at a time.

    Gradient caching (Gao et al., 2021; see `grad_cache`): loss, gradient, new state and metrics are
    those of the whole batch, up to floating-point order. So every part of `represent` must treat
    examples by themselves:

    - Batch normalization has to have groups (`batch_norm_groups`) that lie within micro-batches.
      Then each micro-batch normalizes its groups as the whole batch would, and running statistics
      are the average over micro-batches. Statistics of the whole batch are refused: they are not
      those of its parts, so neither would the gradient be.
    - What moves examples within the batch is said by `Method.row_by_row`: MoCo's keys are shuffled
      over the whole batch before it is cut.
    - `key` comes to every micro-batch as it comes to every device: the same. Draws have to hang on
      it and the example's number (`jax.random.fold_in(key, index)`), not on places in the batch.
      Those of drop path and flax's `Dropout` do, where the batch has an `index`.

    Args:
      method: any method.
      micro_batch: examples of this device encoded at a time; divides its batch. None, or at least
        the batch: all at once.

    Returns:
      A function of the arguments of `method.loss`, which returns ((loss, (state, metrics)),
      gradient). It raises ValueError, while tracing, where `micro_batch` does not divide the batch
      or `represent` mixes examples of several micro-batches.

    Example:
      >>> import jax
      >>> from jaxcl.encoders import MLP
      >>> from jaxcl.methods import Batch, SimCLR
      >>> method = SimCLR(MLP((16, 8)))
      >>> batch = Batch(tuple(jax.random.normal(jax.random.key(0), (2, 32, 5))))
      >>> params, state = method.init(jax.random.key(1), batch)
      >>> step = jax.jit(cached_loss_and_grad(method, micro_batch=4))
      >>> (loss, (state, metrics)), grads = step(params, state, batch, key=jax.random.key(2))
      >>> bool(abs(loss - method.loss(params, state, batch, key=jax.random.key(2))[0]) < 1e-5)
      True
    """
    direct = jax.value_and_grad(method.loss, has_aux=True)
    if micro_batch is None:
        return direct
    size = micro_batch

    def loss_and_grad(
        params: Params,
        state: Any,
        batch: Batch,
        *,
        key: jax.Array,
        progress: jax.Array | float = 0.0,
        axis_name: str | None = None,
    ) -> tuple[tuple[jax.Array, tuple[Any, Metrics]], Params]:
        if row_count(split_rows(batch, size)) == 1:
            return direct(params, state, batch, key=key, progress=progress, axis_name=axis_name)
        by_rows, arranged, restore = method.row_by_row(batch, key=key, axis_name=axis_name)
        chunks = split_rows(arranged, size)
        count = row_count(chunks)
        chunk_method = _for_micro_batches(by_rows, params, state, arranged, count, key)
        changed: list[int] = []

        def represent(params: Params, chunk: Batch) -> tuple[Any, list[jax.Array]]:
            embeddings, after = chunk_method.represent(
                params, state, chunk, key=key, axis_name=axis_name
            )
            check_rows(embeddings, size)
            changed[:] = _changed(state, after)
            leaves = jax.tree.leaves(after)
            return embeddings, [leaves[place] for place in changed]

        def objective(
            params: Params, embeddings: Any, statistics: list[jax.Array]
        ) -> tuple[jax.Array, tuple[Any, Metrics]]:
            leaves, structure = jax.tree.flatten(state)
            # Each holds the same share of the old value and of the mean over its own groups.
            for place, values in zip(changed, statistics, strict=True):
                leaves[place] = values.mean(0)
            loss, after, metrics = method.objective(
                params,
                jax.tree.unflatten(structure, leaves),
                restore(embeddings),
                batch,
                progress=progress,
                axis_name=axis_name,
            )
            return loss, (after, metrics)

        return two_passes(represent, objective, params, chunks)

    return loss_and_grad


def _changed(before: Any, after: Any) -> list[int]:
    """Which leaves of the state `represent` has replaced; only statistics can be put together."""
    chex.assert_trees_all_equal_structs(
        before,
        after,
        exception_type=ValueError,
        custom_message="represent changes the structure of the state",
    )
    changed = []
    leaves = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    for place, ((path, leaf), replaced) in enumerate(leaves):
        if leaf is replaced:
            continue
        name = jax.tree_util.keystr(path)
        if "batch_stats" not in name:
            raise ValueError(
                f"represent changes state{name}, which cannot be put together from micro-batches: "
                "change it in objective, which sees the whole batch, or encode all at once "
                "(micro_batch=None)"
            )
        changed.append(place)
    return changed


@dataclasses.dataclass(frozen=True)
class _Norm:
    """A module that took statistics of a batch, as seen in one call."""

    network: str
    """The field of the method that it belongs to."""
    module: nn.Module
    rows: int

    @property
    def name(self) -> str:
        """Where it stands in the parameters."""
        return "/".join((self.network, *self.module.path))

    @property
    def groups(self) -> int | None:
        """Groups of a norm of ours that has them."""
        return self.module.groups if isinstance(self.module, BatchNorm) else None


def _for_micro_batches(
    method: Method, params: Params, state: Any, batch: Batch, count: int, key: jax.Array
) -> Method:
    """The method with as many groups of batch statistics less as a micro-batch is smaller.

    Raises:
      ValueError: if a norm's statistics go beyond a micro-batch.
    """
    whole = _norms(method, params, state, batch, key)
    if not whole:
        return method
    networks = method.networks
    rows = len(batch.views[0]) // count
    for norm in whole:
        _check_norm(norm, rows, type(method).__name__)
        _check_groups(norm, norm.groups == getattr(networks.get(norm.network), _GROUPS, None))
    smaller = {
        name: network.clone(**{_GROUPS: groups // count})
        for name, network in networks.items()
        if (groups := getattr(network, _GROUPS, None)) is not None
    }
    grouped = method.with_networks(smaller)
    first = jax.tree.map(lambda x: x[:rows], batch)
    parts = _norms(grouped, params, state, first, key)
    for norm, part in zip(whole, parts, strict=True):
        _check_groups(norm, part.groups is not None and norm.groups == part.groups * count)
    return grouped


def _check_norm(norm: _Norm, rows: int, method: str) -> None:
    """Raises where statistics go beyond micro-batches of so many rows."""
    if norm.groups is None:
        ours = isinstance(norm.module, BatchNorm)
        raise ValueError(
            f"{method}: {norm.name} ({type(norm.module).__name__}) normalizes by statistics of the "
            f"whole batch; those of micro-batches of {rows} differ, and so would the gradient: "
            + (f"set {_GROUPS}" if ours else "use jaxcl.encoders.BatchNorm with groups")
            + ", or a norm without batch statistics, or micro_batch=None (all at once)"
        )
    group = norm.rows // norm.groups
    if rows % group:
        raise ValueError(
            f"{method}: {norm.name} shares statistics among {group} rows, which micro-batches of "
            f"{rows} cut apart: use a micro_batch that {group} divides, or more {_GROUPS}"
        )


def _check_groups(norm: _Norm, shared: bool) -> None:
    """Raises where a micro-batch cannot be given its share of the groups."""
    if not shared:
        raise ValueError(
            f"{norm.name} has {norm.groups} groups of batch statistics, and no field {_GROUPS} of "
            "its network sets them: a micro-batch cannot be given its share. Give the network such "
            "a field, or encode all at once (micro_batch=None)"
        )


def _norms(method: Method, params: Params, state: Any, batch: Batch, key: jax.Array) -> list[_Norm]:
    """Every module that changes statistics of its own while the batch is encoded, in order.

    Raises:
      ValueError: if statistics change by no module that can be seen.
    """
    norms: list[_Norm] = []
    networks = method.networks
    network = "network"  # the name of the one that is being called

    def watch(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        nonlocal network
        module = context.module
        if context.method_name != "__call__" or module.scope is None:
            return call(*args, **kwargs)
        if not module.path:
            same = [name for name, known in networks.items() if known == module.clone()]
            network = same[0] if same else type(module).__name__
        before = _own_statistics(module)
        result = call(*args, **kwargs)
        if any(before.get(name) is not value for name, value in _own_statistics(module).items()):
            inputs = args[0] if args else next(iter(kwargs.values()))
            norms.append(_Norm(network, module, len(inputs)))
        return result

    def represent(params: Params, batch: Batch) -> None:
        with nn.intercept_methods(watch):
            _, after = method.represent(params, state, batch, key=key)
        if _changed(state, after) and not norms:
            raise ValueError(
                f"{type(method).__name__} changes batch statistics in modules that are jitted, or "
                "not flax's: gradient caching cannot tell which rows they are of"
            )

    jax.eval_shape(represent, params, batch)
    return norms


def _own_statistics(module: nn.Module) -> dict[str, Any]:
    """Variables of the module itself, not those of modules inside it."""
    statistics = module.variables.get("batch_stats", {})
    return {name: value for name, value in statistics.items() if not hasattr(value, "items")}
