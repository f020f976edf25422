"""Shuffled BatchNorm: rows come back, and one device with groups equals as many devices."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from jaxcl.encoders import MLP
from jaxcl.methods import Batch, MoCo
from jaxcl.methods.shuffle import shuffle_rows, unshuffle_rows
from jaxcl.planning import find_collectives

KEY = jax.random.key(3)
ROWS = jnp.arange(32.0).reshape(16, 2)


@pytest.mark.parametrize("devices", [1, 4, 8])
def test_rows_that_do_not_divide_are_permuted_as_a_whole(devices):
    """Two rows a group, eight groups."""

    def there_and_back(rows):
        away = shuffle_rows(KEY, rows, "d", groups=8 // devices)
        return away, unshuffle_rows(KEY, away, "d", groups=8 // devices)

    away, back = jax.vmap(there_and_back, axis_name="d")(ROWS.reshape(devices, -1, 2))
    np.testing.assert_array_equal(back.reshape(16, 2), ROWS)
    expected = ROWS[jax.random.permutation(KEY, 16)]  # whatever the number of devices
    np.testing.assert_array_equal(away.reshape(16, 2), expected)
    assert not np.array_equal(expected, ROWS)


def dealt(rows, total):
    """What shuffling makes of the whole batch, group by group and piece by piece."""
    size = len(rows) // total
    partners = math.gcd(size, total)
    piece = size // partners
    drawn = [
        rows[group * size : (group + 1) * size][
            jax.random.permutation(jax.random.fold_in(KEY, group), size)
        ]
        for group in range(total)
    ]
    found = []
    for group in range(total):
        first = group // partners * partners
        place = group % partners
        found += [
            drawn[source][place * piece : (place + 1) * piece]
            for source in range(first, first + partners)
        ]
    return np.concatenate(found)


@pytest.mark.parametrize(
    ("total", "size"), [(1, 6), (2, 4), (8, 8), (8, 16), (16, 8), (8, 40), (4, 12)]
)
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_groups_deal_out_their_rows_alike_on_any_devices(devices, total, size):
    if total % devices:
        pytest.skip("a group lies on one device")
    rows = jnp.arange(3.0 * total * size).reshape(-1, 3)

    def there_and_back(rows):
        away = shuffle_rows(KEY, rows, "d", groups=total // devices)
        return away, unshuffle_rows(KEY, away, "d", groups=total // devices)

    split = rows.reshape(devices, -1, 3)
    mesh = Mesh(np.array(jax.devices()[:devices]), ("d",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(
        lambda x: jax.tree.map(lambda y: y[None], there_and_back(x[0])),
        mesh=mesh,
        in_specs=P("d"),
        out_specs=P("d"),
        check_vma=False,
    )
    away, back = jax.jit(mapped)(split)
    np.testing.assert_array_equal(back.reshape(rows.shape), rows)
    np.testing.assert_array_equal(away.reshape(rows.shape), dealt(rows, total))


def test_each_group_has_as_many_rows_of_every_other():
    away = shuffle_rows(KEY, jnp.arange(128), groups=8)
    sources = np.asarray(away).reshape(8, 16) // 16
    for group in sources:
        assert np.bincount(group, minlength=8).tolist() == [2] * 8
    other = shuffle_rows(jax.random.key(4), jnp.arange(128), groups=8)
    assert not np.array_equal(away, other)


def test_no_device_holds_the_rows_of_all():
    mesh = Mesh(np.array(jax.devices()[:8]), ("d",), axis_types=(AxisType.Auto,))

    def there_and_back(rows):
        return unshuffle_rows(KEY, shuffle_rows(KEY, rows, "d", groups=1), "d", groups=1)

    mapped = jax.shard_map(
        there_and_back, mesh=mesh, in_specs=P("d"), out_specs=P("d"), check_vma=False
    )
    compiled = jax.jit(mapped).lower(jnp.zeros((8 * 16, 100))).compile()
    found = find_collectives(compiled.as_text())
    assert [each.kind for each in found] == ["all-to-all"] * 2
    assert {each.bytes for each in found} == {16 * 100 * 4}
    assert compiled.memory_analysis().temp_size_in_bytes < 5 * 16 * 100 * 4


def moco(groups, shuffle=True):
    encoder = MLP((8, 6), batch_norm=True, batch_norm_groups=groups)
    return MoCo(encoder, queue_size=32, shuffle=shuffle)


def views():
    first, second = jax.random.split(KEY)
    return jax.random.normal(first, (16, 5)), jax.random.normal(second, (16, 5))


@pytest.mark.slow
def test_groups_on_one_device_equal_local_statistics_on_eight():
    whole = Batch(views())
    params, state = jax.jit(moco(8).init)(KEY, whole)
    (queries, keys), new_state = jax.jit(moco(8).represent)(params, state, whole, key=KEY)

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


@pytest.mark.slow
def test_without_shuffling_statistics_tell_which_keys_stand_together():
    """A key's embedding hangs on its batch mates: the very ones of its query, unless shuffled."""
    batch = Batch(views())
    changed = Batch((batch.views[0], batch.views[1].at[0].add(10.0)))
    params, state = jax.jit(moco(8).init)(KEY, batch)

    def neighbours_of_row_0(shuffle):
        method = moco(8, shuffle)
        (_, keys), _ = jax.jit(method.represent)(params, state, batch, key=KEY)
        (_, keys_changed), _ = jax.jit(method.represent)(params, state, changed, key=KEY)
        moved = np.abs(keys - keys_changed).max(axis=1) > 1e-4
        return set(np.flatnonzero(moved)) - {0}

    assert neighbours_of_row_0(shuffle=False) == {1}
    assert neighbours_of_row_0(shuffle=True) != {1}
