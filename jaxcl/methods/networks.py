"""Networks in a row over plain dictionaries: one entry of parameters and statistics for each."""

import contextlib
import inspect
import itertools
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcl.encoders.numbered_rows import drop_nothing
from jaxcl.methods.draws import Draws


def chain(**modules: nn.Module | None) -> dict[str, nn.Module]:
    """The networks that exist, in order: `chain(encoder=..., projector=None)` has one."""
    return {name: module for name, module in modules.items() if module is not None}


def init_networks(
    modules: Mapping[str, nn.Module], key: jax.Array, inputs: jax.Array
) -> tuple[dict[str, Any], dict[str, Any], jax.Array]:
    """Initializes networks that feed one another.

    Args:
      modules: networks by name, in order.
      key: a key for all of them.
      inputs: [N, ...] inputs of the first.

    Returns:
      Parameters and batch statistics by name, and the last one's outputs for the first input
      [1, D], whose shape tells what follows.
    """
    params, batch_stats = {}, {}
    outputs = jnp.asarray(inputs[:1])
    for position, (name, module) in enumerate(modules.items()):
        init = jax.jit(module.init_with_output)
        outputs, variables = init(jax.random.fold_in(key, position), outputs)
        params[name] = variables.get("params", {})
        batch_stats[name] = variables.get("batch_stats", {})
    return params, batch_stats, outputs


def forward(
    modules: Mapping[str, nn.Module],
    params: Mapping[str, Any],
    batch_stats: Mapping[str, Any],
    inputs: jax.Array,
    *,
    train: bool = False,
    axis_name: str | None = None,
    draws: Draws | None = None,
) -> tuple[jax.Array, dict[str, Any]]:
    """Applies networks in a row.

    Args:
      modules: networks by name, in order.
      params: parameters by name; names of other networks are allowed.
      batch_stats: batch statistics by name, likewise.
      inputs: [N, ...] inputs of the first.
      train: use the batch's statistics and update the running ones.
      axis_name: mapped axis that batch statistics cross.
      draws: what drop path and dropout draw while training; None: they drop nothing. The inputs are
        one or several views of its examples, one after another.

    Returns:
      [N, D] outputs of the last, and all batch statistics.
    """
    outputs, batch_stats = inputs, dict(batch_stats)
    for name, module in modules.items():
        variables = {"params": params[name], "batch_stats": batch_stats[name]}
        if train:
            with network_streams(draws, name, len(outputs)) as rngs:
                outputs, updated = module.apply(
                    variables,
                    outputs,
                    train=True,
                    axis_name=axis_name,
                    mutable=["batch_stats"],
                    rngs=rngs,
                )
            batch_stats[name] = updated.get("batch_stats", {})
        else:
            outputs = jnp.asarray(module.apply(variables, outputs, train=False))
    return outputs, batch_stats


def stream(
    modules: Mapping[str, nn.Module],
    params: Mapping[str, Any],
    batch_stats: Mapping[str, Any],
    inputs: jax.Array,
    carry: tuple[Any, ...] = (),
) -> tuple[jax.Array, tuple[Any, ...]]:
    """Applies causal networks in a row to the next part of a stream.

    Args:
      modules: networks by name, in order, which take a `carry`
        (`encoders.SampleConvolutions`, `Recurrence`, `TemporalConvolutions`).
      params: parameters by name; names of other networks are allowed.
      batch_stats: batch statistics by name, likewise.
      inputs: [N, T, ...] the next inputs of the first, however many.
      carry: what the call before returned; () at the beginning.

    Returns:
      [N, F, D] outputs of the last that are complete now, and the carry for the next call.

    Raises:
      ValueError: naming a network that cannot stream.
    """
    outputs, carried = inputs, []
    before = carry or ((),) * len(modules)
    for (name, module), own in zip(modules.items(), before, strict=True):
        if "carry" not in inspect.signature(type(module).__call__).parameters:
            raise ValueError(f"{type(module).__name__} ({name}) takes no carry: it cannot stream")
        variables = {"params": params[name], "batch_stats": batch_stats[name]}
        outputs, after = module.apply(variables, outputs, carry=own)
        carried.append(after)
    return outputs, tuple(carried)


def network_streams(
    draws: Draws | None, name: str, rows: int
) -> contextlib.AbstractContextManager[dict[str, jax.Array] | None]:
    """Streams of random numbers for one call of a network, which is made within.

    Args:
      draws: what is drawn; None: no streams.
      name: of the network, for each to draw on its own.
      rows: as in `Draws.streams`.
    """
    if draws is None:
        return drop_nothing()
    return draws.part(zlib.crc32(name.encode())).streams(rows)


def forward_each(
    modules: Mapping[str, nn.Module],
    params: Mapping[str, Any],
    batch_stats: Mapping[str, Any],
    views: Iterable[jax.Array],
    *,
    axis_name: str | None = None,
    draws: Draws | None = None,
) -> tuple[list[jax.Array], dict[str, Any]]:
    """Trains on several views: `forward` on one after the other, each with statistics of its own.

    Args:
      modules: networks by name, in order.
      params: parameters by name; names of other networks are allowed.
      batch_stats: batch statistics by name, likewise; they pass from view to view.
      views: inputs [N, ...] of each.
      axis_name: mapped axis that batch statistics cross.
      draws: as in `forward`; others for each view.

    Returns:
      [N, D] outputs of each view, and all batch statistics.
    """
    outputs, stats = [], dict(batch_stats)
    for number, view in enumerate(views):
        own = None if draws is None else draws.part(number)
        rows, stats = forward(
            modules, params, stats, view, train=True, axis_name=axis_name, draws=own
        )
        outputs.append(rows)
    return outputs, stats


def forward_sizes(
    modules: Mapping[str, nn.Module],
    params: Mapping[str, Any],
    batch_stats: Mapping[str, Any],
    views: Sequence[jax.Array],
    *,
    axis_name: str | None = None,
    draws: Draws | None = None,
) -> tuple[list[jax.Array], dict[str, Any]]:
    """Trains on views of several sizes: the first network runs once a size, the others once.

    So batch statistics are of all views of one size, and after the first network of all views
    (multi-crop: Caron et al., 2020).

    Args:
      modules: networks by name, in order.
      params: parameters by name; names of other networks are allowed.
      batch_stats: batch statistics by name, likewise; they pass from size to size.
      views: inputs [N, ...] of each, those of one size side by side.
      axis_name: mapped axis that batch statistics cross.
      draws: as in `forward`; others for each view.

    Returns:
      [N, D] outputs of each view, and all batch statistics.
    """
    first, *others = modules
    of_size = [list(group) for _, group in itertools.groupby(views, key=jnp.shape)]
    features, stats = forward_each(
        {first: modules[first]},
        params,
        batch_stats,
        map(jnp.concatenate, of_size),
        axis_name=axis_name,
        draws=draws,
    )
    outputs, stats = forward(
        {name: modules[name] for name in others},
        params,
        stats,
        jnp.concatenate(features),
        train=True,
        axis_name=axis_name,
        draws=draws,
    )
    return jnp.split(outputs, len(views)), stats
