"""Devices: the one place where a per-device step becomes a program over all of them."""

import dataclasses
import math
import os
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = "devices"
"""Name of the mapped axis inside a step."""

Mapping = Literal["pmap", "shard_map"]

RUNS_ONCE = {"xla_backend_optimization_level": 1}
"""Options of the compiler for a program that takes longer to compile than to run: half the time,
and on a CPU the same bits."""

_WHOLE = P()


@dataclasses.dataclass(frozen=True)
class DeviceMap:
    """A row of devices and the transformation that maps a step over them.

    Under both mappings a state has no device axis; a batch is split along its first axis. The two
    give the same numbers. Of a state every device has the whole, or by shard_map a part of what
    `specs`, a tree of `PartitionSpec`s, cuts along `AXIS`.
    """

    devices: tuple[jax.Device, ...]
    mapping: Mapping = "pmap"

    def compile(self, step: Callable[[Any, Any], tuple[Any, Any]], specs: Any = _WHOLE) -> Any:
        """Maps `step(state, batch) -> (state, metrics)`, the state donated, and jits it.

        Args:
          step: what one device does, with collectives over `AXIS`; its results are equal on all
            devices, but for the parts of a state that is cut.
          specs: how the state is cut.

        Returns:
          A function of a state from `place` and a batch from `split`, with `.lower`.
        """
        if self.mapping == "pmap":
            return jax.pmap(
                step,
                axis_name=AXIS,
                in_axes=(None, 0),
                out_axes=(None, None),
                donate_argnums=0,
                devices=self.devices,
            )
        mapped = jax.shard_map(
            step,
            mesh=self._mesh,
            in_specs=(specs, P(AXIS)),
            out_specs=(specs, P()),
            check_vma=False,
        )
        return jax.jit(mapped, donate_argnums=0)

    def trace(self, program: Any, state: Any, batch: Any) -> None:
        """Traces what `compile` returned, for its first call to find it done where it can.

        Args:
          program: the function.
          state: from `placed_shapes`.
          batch: from `split_shapes`.
        """
        if self.mapping == "shard_map":
            program.trace(state, batch)
        elif jax.process_count() == 1:
            program.lower(state, batch)  # pmap has no trace that a call would find
        else:  # pmap over several processes cannot be lowered ahead: the first call traces again
            jax.eval_shape(program, state, batch)

    def place(self, state: Any, specs: Any = _WHOLE) -> Any:
        """Places a host's state on the devices, in buffers of its own."""
        host = jax.tree.map(np.asarray, state)
        return jax.device_put(host, self._shardings(specs))

    def make(self, maker: Callable[[Any], Any], arguments: Any, specs: Any = _WHOLE) -> Any:
        """The state that `maker(arguments)` returns, computed where `place` would put it."""
        places = self._shardings(specs)
        return jax.jit(maker, out_shardings=places, compiler_options=RUNS_ONCE)(arguments)

    def split(self, batch: Any) -> Any:
        """Places a host batch of [b, ...] arrays, without waiting: this process's rows, a part on
        each of its devices."""
        mesh = self._batch_mesh
        if self.mapping == "pmap":
            count = mesh.size
            batch = jax.tree.map(lambda x: x.reshape(count, len(x) // count, *x.shape[1:]), batch)
        sharding = NamedSharding(mesh, P(AXIS))
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)

    def split_shapes(self, batch: Any) -> Any:
        """What `split` makes of a whole batch, that of all processes: shapes, types, places."""
        mesh, count = self._batch_mesh, len(self.devices)
        sharding = NamedSharding(mesh, P(AXIS))

        def split(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            shape = x.shape
            if self.mapping == "pmap":
                shape = (mesh.size, len(x) // count, *shape[1:])
            return jax.ShapeDtypeStruct(shape, x.dtype, sharding=sharding)

        return jax.tree.map(split, batch)

    def placed_shapes(self, state: Any, specs: Any = _WHOLE) -> Any:
        """As `split_shapes`, of what `place` makes of a state."""
        shardings = self._shardings(specs)
        if specs is _WHOLE:
            shardings = jax.tree.map(lambda _: shardings, state)
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            state,
            shardings,
        )

    def fetch(self, array: jax.Array) -> np.ndarray:
        """A whole array on this host. Of what lies on other processes' devices too, all processes
        have to ask for it."""
        if not (array.is_fully_replicated or array.is_fully_addressable):
            array = self._gathered(array)
        return np.asarray(array)

    def _shardings(self, specs: Any) -> Any:
        return jax.tree.map(
            lambda spec: NamedSharding(self._mesh, spec),
            specs,
            is_leaf=lambda x: isinstance(x, P),
        )

    @cached_property
    def _gathered(self) -> Callable[[jax.Array], jax.Array]:
        """Puts a whole array on every device; one function, so that each shape compiles once."""
        return jax.jit(lambda x: x, out_shardings=NamedSharding(self._mesh, _WHOLE))

    @cached_property
    def _batch_mesh(self) -> Mesh:
        """The devices over which a batch is split; pmap takes what lies on this process's own."""
        if self.mapping == "shard_map":
            return self._mesh
        return Mesh(np.array(self._mesh.local_devices), (AXIS,), axis_types=(AxisType.Auto,))

    @cached_property
    def _mesh(self) -> Mesh:
        return Mesh(np.array(self.devices), (AXIS,), axis_types=(AxisType.Auto,))


def choose_devices(count: int | None = None) -> tuple[jax.Device, ...]:
    """The first `count` devices, or all.

    Raises:
      ValueError: if there are fewer.
    """
    # jax 0.10 aborts in a CPU collective when steps are dispatched without waiting. It reads this
    # when the devices are first asked for.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    devices = jax.devices()
    if count is not None and jax.process_count() > 1 and count != len(devices):
        raise ValueError(
            f"run.devices is {count}, but the {jax.process_count()} processes have {len(devices)} "
            "devices, all of which take part: leave run.devices out"
        )
    if count is not None and not 1 <= count <= len(devices):
        raise ValueError(
            f"run.devices is {count}, but there are {len(devices)} {devices[0].platform} devices. "
            "On a CPU, XLA_FLAGS=--xla_force_host_platform_device_count=8 makes eight"
        )
    return tuple(devices[:count])


def device_memory(device: jax.Device) -> float:
    """Bytes of a device; of a CPU, of the machine. NaN where nobody says."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return float(stats["bytes_limit"])
    if device.platform == "cpu" and hasattr(os, "sysconf"):
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return math.nan


def check_batch_size(batch_size: int, devices: int) -> None:
    """Raises, naming sizes that fit, where a batch does not divide over the devices."""
    if batch_size < 1:
        raise ValueError(f"train.batch_size must be positive, got {batch_size}")
    if batch_size % devices:
        lower = batch_size // devices * devices
        sizes = f"{lower} or {lower + devices}" if lower else f"{devices}"
        raise ValueError(
            f"batch_size {batch_size} does not divide over {devices} devices: use {sizes}, or set "
            "run.devices"
        )
