"""3x3 convolutions on CPU are those of their definition, whatever way they are computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl.encoders import winograd
from jaxcl.encoders.convolution import convolve
from jaxcl.encoders.winograd import convolve_3x3


def by_definition(images, kernel):
    """[N, H, W, F] in float64: the sum over nine shifted images."""
    images, kernel = np.float64(images), np.float64(kernel)
    _, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
        padded[:, row : row + height, column : column + width] @ kernel[row, column]
        for row in range(3)
        for column in range(3)
    )


def kernel_gradient_by_definition(images, outputs):
    images, outputs = np.float64(images), np.float64(outputs)
    _, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [
        padded[:, row : row + height, column : column + width]
        for row in range(3)
        for column in range(3)
    ]
    found = [np.einsum("nhwc,nhwf->cf", each, outputs) for each in shifted]
    return np.stack(found).reshape(3, 3, images.shape[-1], outputs.shape[-1])


def arrays(count, height, width, channels, filters):
    keys = jax.random.split(jax.random.key(0), 3)
    images = jax.nn.relu(jax.random.normal(keys[0], (count, height, width, channels)))
    kernel = jax.random.normal(keys[1], (3, 3, channels, filters))
    return images, kernel, jax.random.normal(keys[2], (count, height, width, filters))


# Few channels; tiles, in one part and in several; a number that parts do not divide, and sides that
# four does not; one row; few tiles; nothing.
SHAPES = [
    (3, 5, 6, 2, 5),
    (2, 8, 8, 64, 64),
    (130, 4, 4, 64, 96),
    (7, 17, 18, 80, 64),
    (9, 1, 3, 64, 64),
    (2, 3, 3, 64, 64),
    (0, 8, 8, 16, 64),
    (2, 0, 8, 64, 64),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("part", [2**20, 2**14])
def test_values_and_gradients_are_those_of_the_definition(shape, part, monkeypatch):
    monkeypatch.setattr(winograd, "_PART", part)
    monkeypatch.setattr(winograd, "_PART_TIMES_3", part // 256)
    monkeypatch.setattr(winograd, "_TILES", 8)
    images, kernel, outputs = arrays(*shape)
    # A function of its own, so that no program of another part is taken.
    found, transpose = jax.jit(lambda x, k: jax.vjp(lambda *a: convolve_3x3(*a), x, k))(
        images, kernel
    )
    by_images, by_kernel = transpose(outputs)
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    for ours, exact in (
        (found, by_definition(images, kernel)),
        (by_images, by_definition(outputs, turned)),
        (by_kernel, kernel_gradient_by_definition(images, outputs)),
    ):
        largest = np.abs(exact).max(initial=0)
        np.testing.assert_allclose(ours, exact, rtol=0, atol=5e-6 * largest)


@pytest.mark.slow
def test_tiles_serve_where_there_are_enough():
    """Of a program's multiplications a quarter is left, and what carries there and back."""

    def flops(count, channels):
        images, kernel, _ = arrays(count, 8, 8, channels, channels)
        compiled = jax.jit(lambda x, k: convolve_3x3(x, k)).lower(images, kernel).compile()
        return compiled.cost_analysis()["flops"] / (2 * 9 * images.size * channels)

    assert flops(32, 128) < 0.6
    assert flops(4, 128) > 0.75  # borders are not counted
    assert flops(32, 16) > 0.75


@pytest.mark.slow
def test_derivatives_of_derivatives_and_forward_ones(monkeypatch):
    monkeypatch.setattr(winograd, "_TILES", 1)
    images, kernel, outputs = arrays(2, 4, 4, 64, 64)

    def plain(images, kernel):
        return winograd._plain(images, kernel, turned=False)

    def results(function):
        def loss(images, kernel):
            return (jnp.tanh(function(images, kernel) / 30) * outputs).sum()

        gradients = jax.grad(loss, (0, 1))
        curved = jax.grad(lambda *x: sum(jnp.square(g).sum() for g in gradients(*x)), (0, 1))
        _, tangent = jax.jvp(function, (images, kernel), (images[::-1], kernel[::-1]))
        return tangent, gradients(images, kernel), curved(images, kernel)

    for ours, theirs in zip(
        jax.tree.leaves(jax.jit(results, static_argnums=0)(convolve_3x3)),
        jax.tree.leaves(jax.jit(results, static_argnums=0)(plain)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.slow
@pytest.mark.parametrize("axes", [(0, None), (3, None), (None, 0), (1, 2)])
def test_batches_are_what_each_is(axes, monkeypatch):
    monkeypatch.setattr(winograd, "_TILES", 1)
    images, kernel, _ = arrays(2, 4, 4, 64, 64)
    several = [
        jnp.stack([x, 2 * x, -x], axis or 0) for x, axis in zip((images, kernel), axes, strict=True)
    ]
    given = [
        many if axis is not None else x
        for x, many, axis in zip((images, kernel), several, axes, strict=True)
    ]

    def of_each(images, kernel):
        return jax.grad(lambda *x: jnp.square(convolve_3x3(*x)).sum(), (0, 1))(images, kernel)

    found = jax.vmap(of_each, axes)(*given)
    for place, factor in enumerate((1, 2, -1)):
        alone = of_each(
            images * (1 if axes[0] is None else factor), kernel * (1 if axes[1] is None else factor)
        )
        for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(
                ours[place], theirs, rtol=0, atol=1e-5 * np.abs(theirs).max()
            )


def gradients(images, kernel):
    return jax.grad(
        lambda x, k: jnp.square(
            convolve(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        ).sum(),
        (0, 1),
    )(images, kernel)


def test_other_platforms_have_convolutions():
    images, kernel, _ = arrays(32, 8, 8, 128, 128)
    traced = jax.jit(gradients).trace(images, kernel)
    assert traced.lower(lowering_platforms=("tpu",)).as_text().count("stablehlo.convolution") == 3
    assert "stablehlo.convolution" not in traced.lower(lowering_platforms=("cpu",)).as_text()


def test_a_precision_that_is_asked_for_is_kept():
    images, kernel, _ = arrays(32, 8, 8, 128, 128)
    with jax.default_matmul_precision("highest"):
        traced = jax.jit(gradients).trace(images, kernel)
    program = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "HIGHEST" in program
    assert "DEFAULT" not in program


@pytest.mark.slow
def test_it_runs_without_jit_and_exports_any_batch():
    images, kernel, _ = arrays(4, 8, 8, 16, 16)
    compiled = jax.jit(gradients)(images, kernel)
    with jax.disable_jit():
        for ours, theirs in zip(gradients(images, kernel), compiled, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)
    (count,) = jax.export.symbolic_shape("count")
    any_images = jax.ShapeDtypeStruct((count, 8, 8, 16), jnp.float32)
    exported = jax.export.export(jax.jit(gradients))(any_images, kernel)
    for ours, theirs in zip(exported.call(images, kernel), compiled, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)


def test_arrays_of_an_explicit_sharding_are_convolved_by_jax():
    images, kernel, _ = arrays(8, 8, 8, 64, 64)
    mesh = jax.make_mesh((2,), ("devices",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        rows = jax.device_put(images, jax.NamedSharding(mesh, jax.P("devices")))
        whole = jax.device_put(kernel, jax.NamedSharding(mesh, jax.P()))
        found = jax.jit(
            lambda x, k: convolve(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        )(rows, whole)
    np.testing.assert_allclose(found, convolve_3x3(images, kernel), atol=1e-3)
