"""3x3 convolution in fewer multiplications, where XLA's compiler for CPU would do them all.

Winograd's minimal filtering F(4x4, 3x3) (Lavin & Gray, 2016): a tile of 6x6 inputs and a kernel are
each carried to 36 values, whose products are carried back to 4x4 outputs; 36 multiplications for
each pair of channels instead of 144. A tile is a polynomial known by its values at six points:
0, ±2/3, ±3/2 and infinity, among which rounding is amplified five times beside the plain sum; by
the usual 0, ±1, ±2 and infinity it is eleven times. What is not finite, or larger than all else by
far, is felt in all 16 outputs of its tiles.

With few channels only the kernel's gradient goes another way here, by one product of neighbouring
columns with neighbouring rows, which is plainly summed.

On several CPU devices this is for `pmap` and `shard_map`: where the compiler cuts a program itself
(`jax.jit` of sharded arrays), every device would compute the whole batch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax.interpreters import ad, batching, mlir

from jaxcl.encoders.once import once

_POINTS = (0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)
_OUT, _TAPS = 4, 3
_IN = _OUT + _TAPS - 1
_MANY = 64
"""Channels from which on multiplications saved are worth carrying tiles there and back."""
_TILES = 128
"""Tiles from which on they are worth carrying the kernel."""
_FEW = 32
"""Channels below which the compiler's own gradient of a kernel is slow."""
_PART = 2**20
"""Values of the images that are carried at once, or one image: what is made of so many stays in a
cache."""
_PART_TIMES_3 = 2**18
"""Likewise, where of both arrays each value is copied three times."""


def _carriers() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices that carry inputs [6, 6], taps [6, 3] and products [4, 6] (Toom-Cook)."""
    others = [[q for q in _POINTS if q != p] for p in _POINTS]
    inputs = np.zeros((_IN, _IN))
    for row, roots in enumerate(others):
        inputs[row, :-1] = np.poly(roots)[::-1]
    inputs[-1] = np.poly(_POINTS)[::-1]
    infinity = np.eye(_IN)[-1:]
    taps = np.vander(_POINTS, _TAPS, increasing=True)
    taps /= [[np.prod(np.subtract(p, rest))] for p, rest in zip(_POINTS, others, strict=True)]
    products = np.vander(_POINTS, _OUT, increasing=True)
    return (
        inputs.astype(np.float32),
        np.vstack([taps, infinity[:, -_TAPS:]]).astype(np.float32),
        np.vstack([products, infinity[:, -_OUT:]]).T.astype(np.float32),
    )


_INPUTS, _TAP_VALUES, _PRODUCTS = _carriers()


def convolve_3x3(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution with a 3x3 kernel, stride 1 and a border of one zero; on CPU by Winograd where
    there are channels and tiles enough.

    Args:
      images: [N, H, W, C] float32.
      kernel: [3, 3, C, F] float32.

    Returns:
      [N, H, W, F].
    """
    return convolve_3x3_p.bind(images, kernel, turned=False)


def _plain(images: jax.Array, kernel: jax.Array, *, turned: bool) -> jax.Array:
    """`convolve_3x3`, or of images [N, H, W, F] by the turned kernel: the former's transpose."""
    if turned:
        kernel = kernel[::-1, ::-1].swapaxes(2, 3)
    return jax.lax.conv_general_dilated(
        images, kernel, (1, 1), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _plain_kernel_gradient(images: jax.Array, outputs: jax.Array) -> jax.Array:
    """[3, 3, C, F]: by images [N, H, W, C] and the gradient by the outputs [N, H, W, F]."""
    kernel = jax.ShapeDtypeStruct((3, 3, images.shape[-1], outputs.shape[-1]), images.dtype)
    transpose = jax.linear_transpose(lambda kernel: _plain(images, kernel, turned=False), kernel)
    return transpose(outputs)[0]


def _on_cpu(images: jax.Array, kernel: jax.Array, *, turned: bool) -> jax.Array:
    if not _pays(images.shape, kernel.shape[2:]):
        return _plain(images, kernel, turned=turned)
    contraction = "ijtf,ijcf->ijtc" if turned else "ijtc,ijcf->ijtf"
    carried = _combine_both(_TAP_VALUES, kernel[::-1, ::-1] if turned else kernel)

    def convolve(part: jax.Array) -> jax.Array:
        count, height, width, _ = part.shape
        products = jnp.einsum(contraction, _carry_images(part), carried)
        tiles = (count, -(-height // _OUT), -(-width // _OUT))
        return _carry_back(products.reshape(_IN, _IN, *tiles, -1))[:, :height, :width]

    (parts,) = _parts(_PART, images)
    found = jax.lax.map(convolve, parts)
    return found.reshape(-1, *found.shape[2:])[: len(images)]


def _kernel_gradient_on_cpu(images: jax.Array, outputs: jax.Array) -> jax.Array:
    channels = (images.shape[-1], outputs.shape[-1])
    if min(channels) < _FEW and _is_known(images.shape):
        summed = _sum_over_parts(_of_neighbours, _PART_TIMES_3, images, outputs)
        summed = summed.reshape(_TAPS, channels[0], _TAPS, channels[1])  # column, C, row, F
        return summed.transpose(2, 0, 1, 3)
    if not _pays(images.shape, channels):
        return _plain_kernel_gradient(images, outputs)
    summed = _sum_over_parts(_of_tiles, _PART, images, outputs)
    return _combine_both(_TAP_VALUES.T, summed)


def _of_tiles(images: jax.Array, outputs: jax.Array) -> jax.Array:
    return jnp.einsum("ijtc,ijtf->ijcf", _carry_images(images), _carry_outputs(outputs))


def _of_neighbours(images: jax.Array, outputs: jax.Array) -> jax.Array:
    """[3 C, 3 F]: three columns of images beside each other, and three rows of outputs."""
    _, height, width, channels = images.shape
    images = jnp.pad(images, ((0, 0), (0, 0), (1, 1), (0, 0)))
    outputs = jnp.pad(outputs, ((0, 0), (1, 1), (0, 0), (0, 0)))
    columns = [images[:, :, tap : tap + width] for tap in range(_TAPS)]
    rows = [outputs[:, tap : tap + height] for tap in reversed(range(_TAPS))]
    beside = jnp.concatenate(columns, -1).reshape(-1, _TAPS * channels)
    return beside.T @ jnp.concatenate(rows, -1).reshape(len(beside), -1)


def _pays(shape: tuple[int, ...], channels: tuple[int, ...]) -> bool:
    if min(channels) < _MANY or not _is_known(shape):
        return False
    count, height, width, _ = shape
    return count * -(-height // _OUT) * -(-width // _OUT) >= _TILES


def _is_known(shape: tuple[Any, ...]) -> bool:
    """Whether there is something to compute, and sizes are numbers, not `jax.export`'s symbols."""
    return all(isinstance(size, int) and size > 0 for size in shape)


def _parts(most: int, *arrays: jax.Array) -> list[jax.Array]:
    """Each [parts, rows, ...] in as few parts as hold `most` values of the widest, or a row; the
    last one is filled with zeros."""
    count, values = len(arrays[0]), max(array.size for array in arrays)
    rows = -(-count // min(count, -(-values // most)))
    parts = -(-count // rows)
    ends = [(0, parts * rows - count), (0, 0), (0, 0), (0, 0)]
    return [jnp.pad(array, ends).reshape(parts, rows, *array.shape[1:]) for array in arrays]


def _sum_over_parts(
    function: Callable[..., jax.Array], most: int, images: jax.Array, outputs: jax.Array
) -> jax.Array:
    parts = _parts(most, images, outputs)
    start = jnp.zeros_like(jax.eval_shape(function, *(part[0] for part in parts)))
    return jax.lax.scan(lambda total, part: (total + function(*part), None), start, parts)[0]


def _carry_images(images: jax.Array) -> jax.Array:
    """[6, 6, tiles, C]: every tile of 6x6, of which the next one shares two rows and columns."""
    _, height, width, channels = images.shape
    down, right = -(-height // _OUT), -(-width // _OUT)
    ends = ((1, down * _OUT + 1 - height), (1, right * _OUT + 1 - width))
    padded = jnp.pad(images, ((0, 0), *ends, (0, 0)))
    lines = [padded[:, p : p + _OUT * down - 3 : _OUT] for p in range(_IN)]
    rows = once(_combine(_INPUTS, lines, axis=0))  # [6, N, down, W, C]
    columns = [rows[:, :, :, p : p + _OUT * right - 3 : _OUT] for p in range(_IN)]
    return _combine(_INPUTS, columns, axis=1).reshape(_IN, _IN, -1, channels)


def _carry_back(products: jax.Array) -> jax.Array:
    """[N, 4 * down, 4 * right, F] of products [6, 6, N, down, right, F]."""
    _, _, count, down, right, channels = products.shape
    rows = once(_combine(_PRODUCTS, list(products), axis=0))  # [4, 6, N, down, right, F]
    columns = [rows[:, p].transpose(1, 2, 0, 3, 4) for p in range(_IN)]
    outputs = _combine(_PRODUCTS, columns, axis=4)  # [N, down, 4, right, 4, F]
    return outputs.reshape(count, down * _OUT, right * _OUT, channels)


def _carry_outputs(outputs: jax.Array) -> jax.Array:
    """[6, 6, tiles, F]: the transpose of `_carry_back`."""
    count, height, width, channels = outputs.shape
    down, right = -(-height // _OUT), -(-width // _OUT)
    ends = ((0, down * _OUT - height), (0, right * _OUT - width))
    outputs = jnp.pad(outputs, ((0, 0), *ends, (0, 0)))
    outputs = outputs.reshape(count, down, _OUT, right, _OUT, channels)
    rows = once(_combine(_PRODUCTS.T, [outputs[:, :, p] for p in range(_OUT)], axis=0))
    columns = [rows[..., p, :] for p in range(_OUT)]  # each [6, N, down, right, F]
    return _combine(_PRODUCTS.T, columns, axis=1).reshape(_IN, _IN, -1, channels)


def _combine(matrix: np.ndarray, arrays: list[jax.Array], axis: int) -> jax.Array:
    """The linear combinations of arrays that a matrix [rows, arrays] names, along a new axis."""
    ones = [1] * arrays[0].ndim
    columns = [column.reshape(*ones[:axis], -1, *ones[axis:]) for column in matrix.T]
    terms = zip(columns, arrays, strict=True)
    first, *rest = (column * jnp.expand_dims(array, axis) for column, array in terms)
    return sum(rest, start=first)


def _combine_both(matrix: np.ndarray, arrays: jax.Array) -> jax.Array:
    """Linear combinations along the first axis and along the second."""
    rows = once(_combine(matrix, list(arrays), axis=0))
    return _combine(matrix, [rows[:, column] for column in range(rows.shape[1])], axis=1)


def _batch_convolution(
    arrays: tuple[jax.Array, ...], axes: tuple[int | None, ...], *, turned: bool
) -> tuple[jax.Array, int]:
    """A batch of images for one kernel is more images; of kernels, it is left to the compiler."""
    images, kernel = arrays
    if axes[0] is None or axes[1] is not None:
        return jax.vmap(partial(_plain, turned=turned), axes)(images, kernel), 0
    images = jnp.moveaxis(images, axes[0], 0)
    found = convolve_3x3_p.bind(images.reshape(-1, *images.shape[2:]), kernel, turned=turned)
    return found.reshape(*images.shape[:2], *found.shape[1:]), 0


def _batch_kernel_gradient(
    arrays: tuple[jax.Array, ...], axes: tuple[int | None, ...]
) -> tuple[jax.Array, int]:
    return jax.vmap(_plain_kernel_gradient, axes)(*arrays), 0


def _operation(
    name: str, plain: Callable[..., jax.Array], on_cpu: Callable[..., jax.Array]
) -> jax.extend.core.Primitive:
    primitive = jax.extend.core.Primitive(name)

    def shape(*arrays: Any, **options: bool) -> Any:
        assert all(array.dtype == jnp.float32 for array in arrays), arrays
        return arrays[0].update(shape=jax.eval_shape(partial(plain, **options), *arrays).shape)

    def chosen(*arrays: jax.Array, **options: bool) -> jax.Array:
        return jax.lax.platform_dependent(
            *arrays, cpu=partial(on_cpu, **options), default=partial(plain, **options)
        )

    primitive.def_impl(jax.jit(chosen, static_argnames="turned"))
    primitive.def_abstract_eval(shape)
    mlir.register_lowering(primitive, mlir.lower_fun(chosen, multiple_results=False))
    return primitive


# Operations of their own, so that both are chosen by the platform that a program is compiled for,
# and derivatives of any kind and order are again of these two.
convolve_3x3_p = _operation("convolve_3x3", _plain, _on_cpu)
kernel_gradient_3x3_p = _operation(
    "kernel_gradient_3x3", _plain_kernel_gradient, _kernel_gradient_on_cpu
)
batching.primitive_batchers[convolve_3x3_p] = _batch_convolution
batching.primitive_batchers[kernel_gradient_3x3_p] = _batch_kernel_gradient


def _by_kernel(outputs: jax.Array, images: jax.Array, _: Any, *, turned: bool) -> jax.Array:
    return kernel_gradient_3x3_p.bind(*((outputs, images) if turned else (images, outputs)))


ad.defbilinear(
    convolve_3x3_p,
    lambda outputs, _, kernel, *, turned: convolve_3x3_p.bind(outputs, kernel, turned=not turned),
    _by_kernel,
)
ad.defbilinear(
    kernel_gradient_3x3_p,
    lambda kernel, _, outputs: convolve_3x3_p.bind(outputs, kernel, turned=True),
    lambda kernel, images, _: convolve_3x3_p.bind(images, kernel, turned=False),
)
