"""Where a training state lies: whole on every device, or spread over them where it can be.

Spread are parameters (prototypes among them), the optimizer's state, target networks and banks. A
device keeps an equal part of each of their arrays, has networks whole only while they encode (an
all-gather each), and moves its part by its part of the mean gradient (a reduce-scatter): the
exchanges of ZeRO (Rajbhandari et al., 2020, section 5), with the gather before a step instead of
after it. Nothing else of a step is different, so that `make_step` is written once for both layouts.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from jaxcl.memory import Bank, ShardedBank
from jaxcl.training.optimizers import leaf_norms
from jaxcl.training.state import TrainState, name_leaves, path_name

_TILE = 8 * 128
_LARGE = 2**20
"""Bytes of an array from which it is exchanged by itself: of what goes together there is a copy."""

Constrain: TypeAlias = Callable[[Any, Any], Any]
"""`Method.constrain` at a step: of parameters after the update and before it."""


@dataclasses.dataclass(frozen=True)
class WholeState:
    """Every device has the whole state."""

    axis_name: str | None
    """Mapped axis of the devices; None for one device, unmapped."""

    def opened(self, state: Any) -> Any:
        """The method's state as the method reads it."""
        return state

    def closed(self, after: Any, before: Any) -> Any:
        """The method's new state as it is kept, from what the method made of the one `opened`."""
        del before
        return after

    def mean(self, grads: Any, metrics: Any) -> tuple[Any, Any]:
        """Means over devices: of gradients what this device keeps of them, and metrics."""
        if self.axis_name is None:
            return grads, metrics
        means: tuple[Any, Any] = jax.lax.pmean((grads, metrics), self.axis_name)
        return means

    def whole_params(self, params: Any) -> Any:
        """All parameters, as networks read them."""
        return params

    def constrained(self, constrain: Constrain, params: Any, before: Any) -> Any:
        """`constrain(params, before)`, of what this device keeps and all that it was before."""
        return constrain(params, before)

    def norm(self, parts: Any) -> jax.Array:
        """The norm of all numbers of which this device has a part."""
        return optax.tree.norm(parts)

    def specs(self) -> Any:
        """How the axis cuts the arrays of a `TrainState`: not at all."""
        return P()

    def packed(self, state: Any) -> Any:
        """A state, of a host or within a program, as it is placed on the devices."""
        return state

    def unpacked(self, state: Any, fetch: Callable[[Any], np.ndarray]) -> Any:
        """A state on devices as the host's: what `packed` was made of. `fetch` reads an array."""
        return jax.tree.map(fetch, state)


@dataclasses.dataclass(frozen=True)
class SpreadState:
    """Every device has an equal part of what can be spread, and all else whole.

    An array of a network is kept as one row, [1, ..., 1, chunk] on each device, as many axes as it
    has, so that what is decided by their number (weight decay, say) stays as it was. A bank is kept
    by its rows.
    """

    axis_name: str
    """Mapped axis of the devices."""
    devices: int
    """How many there are."""
    whole: TrainState
    """Shapes and types of the state of one device."""
    averages: tuple[str, ...]
    """`Method.averages`."""
    banks: tuple[str, ...]
    """`Method.banks`."""

    def opened(self, state: Any) -> Any:
        parts = self._averages(state)
        networks = join_parts(parts, self._averages(self.whole.method), self.axis_name)

        def read(path: tuple[Any, ...], leaf: Any) -> Any:
            name = path_name(path)
            if isinstance(leaf, Bank) and name in self.banks:
                return ShardedBank(leaf.embeddings, self._bank_size(name))
            return networks.get(name, leaf)

        return jax.tree_util.tree_map_with_path(read, state, is_leaf=_is_bank)

    def closed(self, after: Any, before: Any) -> Any:
        kept = self._averages(before)

        def put_back(path: tuple[Any, ...], leaf: Any) -> Any:
            if isinstance(leaf, ShardedBank):
                return Bank(leaf.embeddings)
            return kept.get(path_name(path), leaf)

        return jax.tree_util.tree_map_with_path(put_back, after, is_leaf=_is_bank)

    def mean(self, grads: Any, metrics: Any) -> tuple[Any, Any]:
        means = jax.lax.pmean(metrics, self.axis_name)
        return mean_parts(grads, self.axis_name), means

    def whole_params(self, params: Any) -> Any:
        return join_parts(params, self.whole.params, self.axis_name)

    def constrained(self, constrain: Constrain, params: Any, before: Any) -> Any:
        # One exchange for each array, so that of those that are not read the compiler makes none.
        after = jax.tree.map(
            lambda part, like: join_parts(part, like, self.axis_name), params, self.whole.params
        )

        def keep(part: jax.Array, whole: jax.Array, new: jax.Array) -> jax.Array:
            if new is whole:
                return self._without_tail(part, whole.size)
            mine: jax.Array = own_parts(new, self.axis_name)
            return mine

        return jax.tree.map(keep, params, after, constrain(after, before))

    def norm(self, parts: Any) -> jax.Array:
        return optax.tree.norm(leaf_norms(parts, self.axis_name))

    def specs(self) -> Any:
        def spec(path: tuple[Any, ...], leaf: Any) -> P:
            kind = self._kind(path_name(path), leaf)
            if kind == "network":
                return P(*(None,) * (leaf.ndim - 1), self.axis_name)
            return P(self.axis_name) if kind == "bank" else P()

        return jax.tree_util.tree_map_with_path(spec, self.whole)

    def packed(self, state: Any) -> Any:
        def pack(path: tuple[Any, ...], leaf: Any) -> Any:
            kind = self._kind(path_name(path), leaf)
            if kind is None:
                return leaf
            pad = np.pad if isinstance(leaf, np.ndarray) else jnp.pad
            if kind == "bank":
                rows = -(-len(leaf) // self.devices) * self.devices
                return pad(leaf, ((0, rows - len(leaf)), (0, 0)))
            size = self.devices * _chunk(leaf, self.devices)
            row = pad(leaf.ravel(), (0, size - leaf.size))
            return row.reshape((1,) * (leaf.ndim - 1) + (size,))

        return jax.tree_util.tree_map_with_path(pack, state)

    def unpacked(self, state: Any, fetch: Callable[[Any], np.ndarray]) -> Any:
        def unpack(path: tuple[Any, ...], leaf: Any, whole: jax.ShapeDtypeStruct) -> np.ndarray:
            if self._kind(path_name(path), whole) is None:
                return fetch(leaf)
            return fetch(leaf).ravel()[: whole.size].reshape(whole.shape)

        return jax.tree_util.tree_map_with_path(unpack, state, self.whole)

    def _kind(self, name: str, leaf: Any) -> str | None:
        """How an array of a `TrainState` is spread; None: it is not."""
        if not (leaf.ndim and leaf.size):
            return None
        if any(name == f"method/{bank}/embeddings" for bank in self.banks):
            return "bank"
        averages = (f"method/{path}/" for path in self.averages)
        return "network" if name.startswith(("params/", "optimizer/", *averages)) else None

    def _without_tail(self, part: jax.Array, size: int) -> jax.Array:
        """Zeros after the last number of an array, where an optimizer may have left its own."""
        if not part.ndim or part.size * self.devices == size:
            return part
        place = jax.lax.axis_index(self.axis_name) * part.size + jnp.arange(part.size)
        return jnp.where(place.reshape(part.shape) < size, part, 0)

    def _averages(self, state: Any) -> dict[str, Any]:
        """The arrays of the networks that averages are, by name."""
        paths = tuple(f"{path}/" for path in self.averages)
        return {name: x for name, x in name_leaves(state).items() if name.startswith(paths)}

    def _bank_size(self, name: str) -> int:
        return len(name_leaves(self.whole.method)[f"{name}/embeddings"])


Layout: TypeAlias = WholeState | SpreadState


def own_parts(tree: Any, axis_name: str) -> Any:
    """This device's part of each array that all have; scalars stay whole."""
    device = jax.lax.axis_index(axis_name)

    def own(x: jax.Array) -> jax.Array:
        if not jnp.ndim(x):
            return x
        rows = _rows(x, jax.lax.axis_size(axis_name))
        return _as_part(jax.lax.dynamic_index_in_dim(rows, device, keepdims=False), x.ndim)

    return jax.tree.map(own, tree)


def mean_parts(tree: Any, axis_name: str) -> Any:
    """This device's part of the means over devices."""
    devices = jax.lax.axis_size(axis_name)

    def exchange(arrays: list[jax.Array], shapes: list[tuple[int, ...]]) -> list[jax.Array]:
        rows = [_rows(x, devices) for x in arrays]  # each [devices, chunk]
        ends = np.cumsum([x.shape[1] for x in rows])
        total = jax.lax.psum_scatter(_in_tiles(jnp.concatenate(rows, 1)), axis_name)
        means = jnp.split(total.ravel()[: ends[-1]] / devices, ends[:-1])
        return [_as_part(mean, len(shape)) for mean, shape in zip(means, shapes, strict=True)]

    return _exchanged(tree, tree, exchange, lambda scalars: jax.lax.pmean(scalars, axis_name))


def join_parts(parts: Any, like: Any, axis_name: str) -> Any:
    """All of the arrays of which each device has a part.

    Args:
      parts: as `own_parts` makes them.
      like: a tree of the same structure; arrays, or shapes and types, of the whole.
      axis_name: mapped axis of the devices.
    """

    def exchange(arrays: list[jax.Array], shapes: list[tuple[int, ...]]) -> list[jax.Array]:
        ends = np.cumsum([x.size for x in arrays])
        own = _in_tiles(jnp.concatenate([x.ravel() for x in arrays])[None])[0]
        rows = jax.lax.all_gather(own, axis_name)
        rows = rows.reshape(len(rows), -1)[:, : ends[-1]]
        return [
            columns.ravel()[: math.prod(shape)].reshape(shape)
            for columns, shape in zip(jnp.split(rows, ends[:-1], axis=1), shapes, strict=True)
        ]

    return _exchanged(parts, like, exchange, lambda scalars: scalars)


def _exchanged(
    tree: Any,
    like: Any,
    exchange: Callable[[list[jax.Array], list[tuple[int, ...]]], list[jax.Array]],
    of_scalars: Callable[[list[jax.Array]], list[jax.Array]],
) -> Any:
    """Maps large arrays one by one, the others of a type together, each with the shape of its like;
    and the scalars."""
    leaves, structure = jax.tree.flatten(tree)
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(like)]
    together: dict[Any, list[int]] = {}
    for place, (leaf, shape) in enumerate(zip(leaves, shapes, strict=True)):
        is_large = math.prod(shape) * leaf.dtype.itemsize >= _LARGE
        together.setdefault(place if is_large else leaf.dtype if shape else None, []).append(place)
    for what, some in together.items():
        arrays = [leaves[place] for place in some]
        if what is None:
            mapped = of_scalars(arrays)
        else:
            mapped = exchange(arrays, [shapes[place] for place in some])
        for place, leaf in zip(some, mapped, strict=True):
            leaves[place] = leaf
    return jax.tree.unflatten(structure, leaves)


def _rows(x: jax.Array, devices: int) -> jax.Array:
    """[devices, chunk]: one row for each, zeros after the last number."""
    chunk = _chunk(x, devices)
    return jnp.pad(x.ravel(), (0, devices * chunk - x.size)).reshape(devices, chunk)


def _in_tiles(rows: jax.Array) -> jax.Array:
    """[n, size] -> [n, k, 128], with zeros: whole tiles, of which TPU's compiler makes a
    reduce-scatter where it would else reduce all on every device."""
    columns = -(-rows.shape[1] // _TILE) * _TILE
    return jnp.pad(rows, ((0, 0), (0, columns - rows.shape[1]))).reshape(len(rows), -1, 128)


def _as_part(row: jax.Array, axes: int) -> jax.Array:
    # The numbers lie along the last axis, which TPUs keep dense.
    return row.reshape((1,) * (axes - 1) + (-1,))


def _chunk(x: Any, devices: int) -> int:
    return -(-math.prod(x.shape) // devices)


def _is_bank(x: Any) -> bool:
    return isinstance(x, Bank | ShardedBank)
