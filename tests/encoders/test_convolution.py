"""What the CPU is told changes no value, whatever is done with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl.encoders.convolution import convolve
from jaxcl.encoders.once import once

NUMBERS = ("NHWC", "HWIO", "NHWC")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("side", "kernel", "stride", "pad", "options"),
    [
        (8, 3, 1, 1, {}),
        (8, 3, 2, 1, {}),
        (7, 3, 2, 1, {}),
        (8, 3, 2, 0, {}),
        (8, 3, 2, 1, {"feature_group_count": 2}),
        (8, 3, 2, 1, {"rhs_dilation": (2, 2)}),
        (8, 1, 2, 0, {}),
        (7, 1, 2, 0, {}),
        (7, 1, 2, 1, {}),
        (9, 1, 3, 0, {}),
        (8, 7, 2, 3, {}),
        (8, 1, 1, "SAME", {}),
        (8, 3, 2, "SAME", {}),
        (8, 1, 2, "VALID", {}),
        (9, 3, 1, "SAME", {"rhs_dilation": (2, 2)}),
        (4, 1, 2, 0, {"lhs_dilation": (2, 2)}),
    ],
)
def test_values_and_gradients_are_those_of_jax(side, kernel, stride, pad, options, dtype):
    channels = 2 // options.get("feature_group_count", 1)
    images = jax.random.normal(jax.random.key(0), (3, side, side, 2), dtype)
    weights = jax.random.normal(jax.random.key(1), (kernel, kernel, channels, 4), dtype)
    tangents = (images[::-1], weights[::-1])

    def results(function):
        def convolution(images, weights):
            pads = pad if isinstance(pad, str) else ((pad, pad), (pad, pad))
            found = function(
                images, weights, (stride, stride), pads, dimension_numbers=NUMBERS, **options
            )
            return found, jnp.square(found.astype(jnp.float32)).sum()

        gradients = jax.grad(lambda *x: convolution(*x)[1], (0, 1))
        curved = jax.grad(lambda *x: jnp.square(gradients(*x)[0].astype(jnp.float32)).sum(), 1)
        primal, tangent = jax.jvp(lambda *x: convolution(*x)[0], (images, weights), tangents)
        return primal, tangent, gradients(images, weights), curved(images, weights)

    exact = dtype == jnp.float32
    for ours, theirs in zip(
        jax.tree.leaves(jax.jit(results, static_argnums=0)(convolve)),
        jax.tree.leaves(jax.jit(results, static_argnums=0)(jax.lax.conv_general_dilated)),
        strict=True,
    ):
        assert ours.dtype == theirs.dtype
        ours, theirs = ours.astype(np.float32), theirs.astype(np.float32)
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=scale * (2e-5 if exact else 2e-2))


def test_gradients_are_summed_by_a_shard_map_that_follows_what_varies():
    images = jax.random.normal(jax.random.key(0), (8, 8, 8, 64))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 64, 64)) / 24
    mesh = jax.make_mesh((2,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, whole = jax.sharding.PartitionSpec("devices"), jax.sharding.PartitionSpec()

    def loss(kernel, images):
        convolved = convolve(images, kernel, (1, 1), "SAME", dimension_numbers=NUMBERS)
        return jnp.square(convolved).mean()

    def mean_loss(kernel, images):
        return jax.lax.pmean(loss(kernel, images), "devices")

    parts = jax.shard_map(mean_loss, mesh=mesh, in_specs=(whole, rows), out_specs=whole)
    np.testing.assert_allclose(
        jax.jit(jax.grad(parts))(kernel, images), jax.grad(loss)(kernel, images), atol=1e-6
    )


@pytest.mark.parametrize("first", [0.0, -3.5, 1e30, np.inf])
def test_once_is_exact(first):
    x = jnp.array([[first, 0.1], [1e-30, -7.0]])
    np.testing.assert_array_equal(jax.jit(once)(x), x)
    _, tangent = jax.jvp(once, (x,), (jnp.ones_like(x),))
    np.testing.assert_array_equal(tangent, np.ones((2, 2)))
    np.testing.assert_array_equal(jax.grad(lambda x: (once(x) * 3).sum())(x), np.full((2, 2), 3.0))
    np.testing.assert_array_equal(jax.vmap(once)(x), x)


def test_a_number_that_is_none_stays_alone():
    found = jax.jit(once)(jnp.array([np.nan, 1.0, 2.0]))
    np.testing.assert_array_equal(found, [np.nan, 1.0, 2.0])


def test_once_takes_what_is_empty():
    assert once(jnp.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("values", [[np.iinfo(np.int32).min, 1], [True, False]])
def test_once_leaves_other_types_alone(values):
    np.testing.assert_array_equal(jax.jit(once)(jnp.array(values)), values)


def test_what_several_read_in_another_order_is_computed_once():
    def readers(x):
        y = jax.lax.tanh(x)
        y = once(y)
        return jnp.dot(y, y), jnp.dot(y.T, x), jnp.flip(y, 0).T + 1

    compiled = jax.jit(readers).lower(jnp.ones((64, 64))).compile().as_text()
    assert compiled.count(" tanh(") == 1
    # The loop stays, and its condition is not known.
    assert " while(" in compiled
    assert " compare(" in compiled


def test_only_the_cpu_is_told():
    """Elsewhere nothing is left of it."""
    traced = jax.jit(once).trace(jnp.ones((2, 2)))
    assert "while" in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "while" not in traced.lower(lowering_platforms=("tpu",)).as_text()
