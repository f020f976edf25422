"""Rows across devices: their order, their numbers, and the gradient through the gather."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxcl.similarity import axis_size, gather_rows, row_numbers

ROWS = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32))


def on_four_devices(function, rows):
    return jax.pmap(function, axis_name="devices", devices=jax.devices()[:4])(rows)


def test_every_device_has_all_rows_in_order():
    gathered = on_four_devices(lambda rows: gather_rows(rows, "devices"), ROWS.reshape(4, 2, 3))
    np.testing.assert_array_equal(gathered, jnp.stack([ROWS] * 4))


def test_row_numbers_go_with_the_rows():
    numbers = on_four_devices(lambda rows: row_numbers(2, "devices"), ROWS.reshape(4, 2, 3))
    np.testing.assert_array_equal(numbers.reshape(-1), np.arange(8))


def test_gradient_has_what_all_devices_say():
    """Each device weighs the gathered rows its own way; a row's gradient sums the weights."""
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32))

    def gradient(rows, weights):
        return jax.grad(lambda rows: jnp.sum(weights[:, None] * gather_rows(rows, "devices")))(rows)

    mapped = jax.pmap(gradient, axis_name="devices", devices=jax.devices()[:4])
    found = mapped(ROWS.reshape(4, 2, 3), weights).reshape(8, 3)
    np.testing.assert_allclose(found, jnp.stack([weights.sum(0)] * 3, axis=1), rtol=1e-5)


def test_without_an_axis_rows_are_themselves():
    assert axis_size(None) == 1
    np.testing.assert_array_equal(gather_rows(ROWS, None), ROWS)
    np.testing.assert_array_equal(row_numbers(3, None), [0, 1, 2])


@pytest.mark.parametrize("function", [gather_rows, lambda rows, name: row_numbers(8, name)])
def test_an_axis_that_is_not_mapped(function):
    message = "axis_name is 'devices', but no axis of that name is mapped"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda rows: function(rows, "devices"), ROWS)
    with pytest.raises(ValueError, match=message):
        jax.vmap(lambda rows: function(rows, "devices"), axis_name="other")(ROWS.reshape(4, 2, 3))


def test_a_shard_map_that_sums_gradients_by_itself_is_refused():
    mesh = Mesh(np.array(jax.devices()[:2]), ("d",))
    options = {"mesh": mesh, "in_specs": P("d"), "out_specs": P("d")}
    rows = jnp.ones((4, 2))
    gathered = jax.shard_map(lambda x: gather_rows(x, "d"), **options, check_vma=False)(rows)
    assert gathered.shape == (8, 2)  # of both devices
    with pytest.raises(ValueError, match="check_vma=False"):
        jax.shard_map(lambda x: x * axis_size("d"), **options)(rows)
