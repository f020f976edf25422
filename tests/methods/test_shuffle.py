"""Shuffled BatchNorm: rows come back, and one device with groups equals as many devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl.encoders import MLP
from jaxcl.methods import Batch, MoCo
from jaxcl.methods.shuffle import shuffle_rows, unshuffle_rows

KEY = jax.random.key(3)
ROWS = jnp.arange(32.0).reshape(16, 2)


@pytest.mark.parametrize("devices", [1, 4, 8])
def test_rows_leave_and_return(devices):
    def there_and_back(rows):
        away = shuffle_rows(KEY, rows, "d")
        return away, unshuffle_rows(KEY, away, "d")

    away, back = jax.vmap(there_and_back, axis_name="d")(ROWS.reshape(devices, -1, 2))
    np.testing.assert_array_equal(back.reshape(16, 2), ROWS)
    expected = ROWS[jax.random.permutation(KEY, 16)]  # whatever the number of devices
    np.testing.assert_array_equal(away.reshape(16, 2), expected)
    assert not np.array_equal(expected, ROWS)


def moco(groups, shuffle=True):
    encoder = MLP((8, 6), batch_norm=True, batch_norm_groups=groups)
    return MoCo(encoder, queue_size=32, shuffle=shuffle)


def views():
    first, second = jax.random.split(KEY)
    return jax.random.normal(first, (16, 5)), jax.random.normal(second, (16, 5))


def test_groups_on_one_device_equal_local_statistics_on_eight():
    whole = Batch(views())
    params, state = moco(8).init(KEY, whole)
    (queries, keys), new_state = moco(8).represent(params, state, whole, key=KEY)

    def local(view0, view1):
        return moco(1).represent(params, state, Batch((view0, view1)), key=KEY, axis_name="d")

    split = [view.reshape(8, 2, 5) for view in views()]
    (local_queries, local_keys), local_state = jax.vmap(local, axis_name="d")(*split)
    np.testing.assert_allclose(local_queries.reshape(16, 6), queries, atol=1e-5)
    np.testing.assert_allclose(local_keys.reshape(16, 6), keys, atol=1e-5)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours[5], theirs, atol=1e-6),
        (local_state.batch_stats, local_state.target_batch_stats),
        (new_state.batch_stats, new_state.target_batch_stats),
    )


def test_without_shuffling_statistics_tell_which_keys_stand_together():
    """A key's embedding hangs on its batch mates: the very ones of its query, unless shuffled."""
    batch = Batch(views())
    changed = Batch((batch.views[0], batch.views[1].at[0].add(10.0)))
    params, state = moco(8).init(KEY, batch)

    def neighbours_of_row_0(shuffle):
        method = moco(8, shuffle)
        (_, keys), _ = method.represent(params, state, batch, key=KEY)
        (_, keys_changed), _ = method.represent(params, state, changed, key=KEY)
        moved = np.abs(keys - keys_changed).max(axis=1) > 1e-4
        return set(np.flatnonzero(moved)) - {0}

    assert neighbours_of_row_0(shuffle=False) == {1}
    assert neighbours_of_row_0(shuffle=True) != {1}
