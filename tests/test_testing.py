"""The device check passes a right loss, and catches each of the usual wrong gathers."""

import jax
import jax.numpy as jnp
import pytest

from jaxcl.testing import check_device_invariance

ROWS, WIDTH = 8, 4


def softmax_loss(queries, keys, *, gather, positions, axis_name):
    """An in-batch softmax loss, written out, whose gather and positions can be wrong."""
    logits = queries @ gather(keys, axis_name).T
    own = positions(len(queries), axis_name)
    picked = jnp.take_along_axis(logits, own[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - picked


def gather_rows(rows, axis_name):
    return rows if axis_name is None else jax.lax.all_gather(rows, axis_name, tiled=True)


def global_positions(count, axis_name):
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * count
    return first + jnp.arange(count)


def local_positions(count, axis_name):
    return jnp.arange(count)


def gather_without_gradient(rows, axis_name):
    return jax.lax.stop_gradient(gather_rows(rows, axis_name)) if axis_name else rows


def gather_own_gradient(rows, axis_name):
    """Puts the local rows back with their gradient: still misses what the other losses say."""
    if axis_name is None:
        return rows
    everything = jax.lax.stop_gradient(gather_rows(rows, axis_name))
    first = jax.lax.axis_index(axis_name) * len(rows)
    return jax.lax.dynamic_update_slice_in_dim(everything, rows, first, axis=0)


def no_gather(rows, axis_name):
    return rows


def gather_backwards(rows, axis_name):
    """The last device's rows first, as a ring leaves them that is read from the wrong end."""
    if axis_name is None:
        return rows
    gathered = jax.lax.all_gather(rows, axis_name)
    return gathered[::-1].reshape(-1, *rows.shape[1:])


def gather_with_summed_gradient(rows, axis_name):
    """The gradient comes out scaled by the number of devices, once for each."""
    gathered = gather_rows(rows, axis_name)
    if axis_name is None:
        return gathered
    count = jax.lax.axis_size(axis_name)
    return count * gathered - (count - 1) * jax.lax.stop_gradient(gathered)


@pytest.fixture(scope="module")
def arrays():
    return tuple(jax.random.normal(jax.random.key(0), (2, ROWS, WIDTH)))


def bind(gather, positions):
    def loss(queries, keys, *, axis_name):
        return softmax_loss(queries, keys, gather=gather, positions=positions, axis_name=axis_name)

    return loss


def test_right_loss_passes(arrays):
    check_device_invariance(bind(gather_rows, global_positions), *arrays, devices=(1, 8))


@pytest.mark.parametrize("mapping", ["pmap", "shard_map", "vmap"])
@pytest.mark.parametrize(
    ("gather", "positions", "what", "mistake"),
    [
        (
            gather_without_gradient,
            global_positions,
            "gradient of array 1",
            "no gradient comes back through the gather",
        ),
        (
            gather_own_gradient,
            global_positions,
            "gradient of array 1",
            "the values are right: what the losses of the other devices say",
        ),
        (
            gather_with_summed_gradient,
            global_positions,
            "gradient of array 1",
            "2 times too large: the number of devices scales the gradient",
        ),
        (no_gather, local_positions, "value", "the other devices' rows were not gathered"),
        (gather_rows, local_positions, "value", "lack the offset of the device"),
        (gather_backwards, global_positions, "value", None),
    ],
    ids=[
        "no gradient",
        "own gradient only",
        "scaled gradient",
        "local negatives",
        "no offset",
        "another order",
    ],
)
def test_wrong_gathers_are_caught_and_named(arrays, gather, positions, what, mistake, mapping):
    message = f"{what} under {mapping} on 2 devices differs .*{mistake or ''}"
    with pytest.raises(AssertionError, match=message):
        check_device_invariance(bind(gather, positions), *arrays, devices=(2,), mapping=[mapping])


def test_losses_of_rows_in_another_order_are_named(arrays):
    def reversed_by_device(rows, *, axis_name):
        values = jnp.sum(rows**2, axis=1)
        if axis_name is None:
            return values
        everything = gather_rows(values, axis_name)
        other = jax.lax.axis_size(axis_name) - 1 - jax.lax.axis_index(axis_name)
        return jax.lax.dynamic_slice_in_dim(everything, other * len(values), len(values))

    with pytest.raises(AssertionError, match="right but stand at other rows"):
        check_device_invariance(reversed_by_device, arrays[0], devices=(4,), mapping=["vmap"])


def test_message_says_where_and_by_how_much(arrays):
    def loss(rows, *, axis_name):
        values = jnp.sum(rows**2, axis=1)
        if axis_name is None:
            return values
        is_last_device = jax.lax.axis_index(axis_name) == jax.lax.axis_size(axis_name) - 1
        return values.at[-1].add(jnp.where(is_last_device, 1.0, 0.0))

    with pytest.raises(AssertionError, match=r"at \(7,\), off by .* 1 of 8 entries"):
        check_device_invariance(loss, arrays[0], devices=(4,), mapping=["vmap"])


@pytest.mark.slow
def test_replicated_arrays_and_scalar_losses(arrays):
    def variance(rows, scale, *, axis_name):
        mean = jnp.mean(rows) if axis_name is None else jax.lax.pmean(jnp.mean(rows), axis_name)
        return scale * jnp.mean((rows - mean) ** 2)

    def scaled_twice(rows, scale, *, axis_name):
        return variance(rows, scale, axis_name=axis_name) * (1 if axis_name is None else scale)

    check_device_invariance(variance, arrays[0], replicated=[2.0], mapping=["vmap"])
    with pytest.raises(AssertionError, match="under vmap"):
        check_device_invariance(scaled_twice, arrays[0], replicated=[2.0], mapping=["vmap"])


def test_values_of_several_views_are_put_in_batch_order(arrays):
    def both_views(z0, z1, *, axis_name):
        return jnp.concatenate([z0[:, 0], z1[:, 0]])

    check_device_invariance(both_views, *arrays, mapping=["vmap"])


def test_nan_is_a_difference(arrays):
    def loss(rows, *, axis_name):
        return jnp.sum(rows, axis=1) * (1.0 if axis_name is None else jnp.nan)

    with pytest.raises(AssertionError, match="value under vmap on 1 devices"):
        check_device_invariance(loss, arrays[0], mapping=["vmap"])


def test_bad_arguments(arrays):
    loss = bind(gather_rows, global_positions)
    with pytest.raises(ValueError, match="8 rows do not divide over 3 devices"):
        check_device_invariance(loss, *arrays, devices=(3,))
    with pytest.raises(ValueError, match="pmap over 16 devices needs as many, found 8"):
        check_device_invariance(loss, *(x.repeat(2, 0) for x in arrays), devices=(16,))
    with pytest.raises(ValueError, match="did you mean 'shard_map'"):
        check_device_invariance(loss, *arrays, mapping=["shardmap"])
