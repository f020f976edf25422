"""For tests of losses across devices, ours and those of our users."""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxcl.similarity.checks import check_choice

Mapping = Literal["pmap", "shard_map", "vmap"]

Outputs = tuple[jax.Array, tuple[jax.Array, ...]]

_AXIS = "devices"


def check_device_invariance(
    loss: Callable[..., jax.Array],
    *arrays: jax.Array,
    replicated: Sequence[jax.Array] = (),
    devices: Sequence[int] = (1, 2, 4, 8),
    mapping: Sequence[Mapping] = ("pmap", "shard_map", "vmap"),
    tolerance: float = 1e-5,
) -> None:
    """Checks that a loss is the same on any number of devices, value and gradients.

    The loss of the whole batch without an axis is compared with the loss of the batch split over
    devices: each value, and, for every floating point array, the `pmean` over devices of the
    gradient of the mean local loss.

    Args:
      loss: called as `loss(*arrays, *replicated, axis_name=...)` with this device's rows of each
        array. Returns [n] or [V * n] values for n local rows (V views, one after the other), or a
        scalar.
      *arrays: [N, ...] the whole batch, split by rows over the devices.
      replicated: arrays that every device has whole, such as a queue or a temperature.
      devices: numbers of devices to split over.
      mapping: how they are mapped. "vmap" needs no devices; the others need as many as the numbers
        say.
      tolerance: largest difference allowed, relative to the largest entry of what is compared.

    Raises:
      AssertionError: if something differs; says what, where, by how much and, where it looks like
        one of the usual mistakes, which: rows not gathered, row numbers without the device's
        offset, rows in another order, no gradient through the gather, a gradient scaled by the
        number of devices.
      ValueError: if the rows do not divide over the devices, or there are too few devices.

    Example:
      >>> import jax
      >>> from jaxcl import losses
      >>> z0, z1 = jax.random.normal(jax.random.key(0), (2, 8, 4))
      >>> check_device_invariance(losses.nt_xent, z0, z1, mapping=["vmap"])
    """
    arrays = tuple(jnp.asarray(array) for array in arrays)
    replicated = tuple(jnp.asarray(array) for array in replicated)
    rows = arrays[0].shape[0]
    for kind in mapping:
        check_choice("mapping", kind, get_args(Mapping))
    for count in devices:
        if rows % count:
            raise ValueError(f"{rows} rows do not divide over {count} devices")

    expected = _values_and_gradients(loss, arrays, replicated, None, 1)
    for kind in mapping:
        for count in devices:
            found = _values_and_gradients(loss, arrays, replicated, kind, count)
            for name, want in expected.items():
                place = f"{name} under {kind} on {count} devices"
                complaint = _difference(place, found[name], want, tolerance)
                if complaint:
                    mistake = _mistake(name, found, expected, rows, count, tolerance)
                    if name == "value" and _is_local(
                        loss, arrays, replicated, count, found[name], tolerance
                    ):
                        mistake = (
                            "the losses are those of each device's rows alone: the other devices' "
                            "rows were not gathered"
                        )
                    raise AssertionError(complaint + (f". {mistake}" if mistake else ""))


def _values_and_gradients(
    loss: Callable[..., jax.Array],
    arrays: tuple[jax.Array, ...],
    replicated: tuple[jax.Array, ...],
    kind: Mapping | None,
    count: int,
) -> dict[str, np.ndarray]:
    """The loss' values in the order of the whole batch, and its gradients, by name."""
    axis_name = None if kind is None else _AXIS
    rows = arrays[0].shape[0]
    inputs = arrays + replicated
    names = [f"array {i}" for i in range(len(arrays))]
    names += [f"replicated {i}" for i in range(len(replicated))]
    floating = [i for i, x in enumerate(inputs) if jnp.issubdtype(x.dtype, jnp.floating)]

    def mean_loss(device: jax.Array, *inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        local = rows // count
        split = tuple(
            jax.lax.dynamic_slice_in_dim(x, device * local, local) for x in inputs[: len(arrays)]
        )
        values = loss(*split, *inputs[len(arrays) :], axis_name=axis_name)
        return jnp.mean(values), values

    def per_device(device: jax.Array, inputs: tuple[jax.Array, ...]) -> Outputs:
        argnums = [1 + i for i in floating]
        gradients, values = jax.grad(mean_loss, argnums, has_aux=True)(device, *inputs)
        return values, gradients if axis_name is None else jax.lax.pmean(gradients, axis_name)

    # Every mapping gives its outputs stacked by device; pmean has made the gradients all alike.
    values, gradients = _mapped(per_device, kind, count)(jnp.arange(count), inputs)
    found = {
        f"gradient of {names[i]}": np.asarray(g[0])
        for i, g in zip(floating, gradients, strict=True)
    }
    return {"value": _in_batch_order(np.asarray(values), rows), **found}


def _mapped(
    function: Callable[..., Outputs], kind: Mapping | None, count: int
) -> Callable[..., Outputs]:
    """`function(device, inputs)` on each of `count` devices; outputs stacked by device."""

    def with_device_axis(device: jax.Array, inputs: tuple[jax.Array, ...]) -> Outputs:
        return jax.tree.map(lambda x: x[None], function(device[0], inputs))

    if kind is None:
        return jax.jit(with_device_axis)
    if kind == "vmap":
        return jax.jit(jax.vmap(function, in_axes=(0, None), axis_name=_AXIS))
    if jax.device_count() < count:
        raise ValueError(
            f"{kind} over {count} devices needs as many, found {jax.device_count()}: on CPU set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={count} before jax is imported"
        )
    devices = jax.devices()[:count]
    if kind == "pmap":
        return jax.pmap(function, in_axes=(0, None), axis_name=_AXIS, devices=devices)
    spec = jax.sharding.PartitionSpec
    return jax.jit(
        jax.shard_map(
            with_device_axis,
            mesh=jax.sharding.Mesh(np.array(devices), (_AXIS,)),
            in_specs=(spec(_AXIS), spec()),
            out_specs=spec(_AXIS),
            check_vma=False,
        )
    )


def _in_batch_order(values: np.ndarray, rows: int) -> np.ndarray:
    """[devices, V * n] values as [V * N]: view after view; scalars of all devices as their mean."""
    if values.ndim == 1:
        return values.mean()
    count = values.shape[0]
    if values.shape[1] * count % rows:
        raise ValueError(
            f"the loss returned {values.shape[1]} values for {rows // count} rows, expected a "
            "scalar or a whole number of values a row"
        )
    return values.reshape(count, -1, rows // count).swapaxes(0, 1).reshape(-1)


def _difference(place: str, found: np.ndarray, want: np.ndarray, tolerance: float) -> str | None:
    """What differs, where and by how much; None if nothing does."""
    if found.shape != want.shape:
        return f"{place} has shape {found.shape}, on one device {want.shape}"
    if _equal(found, want, tolerance):
        return None
    difference = np.abs(found.astype(np.float64) - want.astype(np.float64))
    scale = _scale(want)
    worst = np.unravel_index(np.argmax(difference), difference.shape)
    return (
        f"{place} differs from one device's: {found[worst]:.6g} instead of {want[worst]:.6g} at "
        f"{tuple(map(int, worst))}, off by {difference[worst] / scale:.2g} of the largest entry; "
        f"{np.sum(difference > tolerance * scale)} of {difference.size} entries are off by more "
        f"than {tolerance:g}"
    )


def _scale(want: np.ndarray) -> float:
    return max(np.max(np.abs(want), initial=0), np.finfo(np.float32).tiny)


def _equal(found: np.ndarray, want: np.ndarray, tolerance: float) -> bool:
    difference = np.abs(found.astype(np.float64) - want.astype(np.float64))
    return bool(np.all(difference <= tolerance * _scale(want)))  # NaN is not


def _mistake(
    name: str,
    found: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    rows: int,
    count: int,
    tolerance: float,
) -> str | None:
    """Which of the usual mistakes looks like this one, in words."""
    ours, want = found[name], expected[name]
    if name == "value":
        if not ours.ndim:
            return None
        # One row of values for each view; the columns are the batch's rows, device after device.
        by_view, by_view_wanted = ours.reshape(-1, rows), want.reshape(-1, rows)
        local = rows // count
        if count > 1 and _equal(by_view[:, :local], by_view_wanted[:, :local], tolerance):
            return (
                "only the first device is right: row numbers or labels lack the offset of the "
                "device (axis_index * rows)"
            )
        if _equal(np.sort(ours), np.sort(want), tolerance):
            return (
                "the values are right but stand at other rows: rows are gathered in another order"
            )
        return None
    for factor, word in ((count, "large"), (1 / count, "small")):
        if count > 1 and _equal(ours, factor * want, tolerance):
            return f"it is {count} times too {word}: the number of devices scales the gradient"
    if count > 1 and not np.any(ours):
        return "it is zero: no gradient comes back through the gather"
    if count > 1 and _equal(found["value"], expected["value"], tolerance):
        return (
            "the values are right: what the losses of the other devices say about these rows does "
            "not come back through the gather, or not as it is"
        )
    return None


def _is_local(
    loss: Callable[..., jax.Array],
    arrays: tuple[jax.Array, ...],
    replicated: tuple[jax.Array, ...],
    count: int,
    found: np.ndarray,
    tolerance: float,
) -> bool:
    """Whether values are those of each device's rows by themselves."""
    rows = arrays[0].shape[0]
    parts = [array.reshape(count, rows // count, *array.shape[1:]) for array in arrays]
    alone = [
        loss(*(part[device] for part in parts), *replicated, axis_name=None)
        for device in range(count)
    ]
    return count > 1 and _equal(found, _in_batch_order(np.stack(alone), rows), tolerance)
