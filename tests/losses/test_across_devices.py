"""Losses with an axis_name: the same on 1, 2, 4 and 8 devices, value and every gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import losses
from jaxcl.testing import check_device_invariance

N, M, D = 16, 6, 4
KEYS = jax.random.split(jax.random.key(0), 4)
X, Y = (jax.random.normal(key, (N, D)) for key in KEYS[:2])
SHARED = jax.random.normal(KEYS[2], (M, D))
OWN = jax.random.normal(KEYS[3], (N, M, D))
# Equal ids and rows that do not count fall on different devices, and one pair of devices has no row
# that counts.
IDS = jnp.array([3, 7, 7, 3, 1, 2, 4, 5, 3, 8, 9, 9, 10, 1, 11, 12])
WHERE = jnp.array([1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 1], bool)
TEMPERATURE = 0.3


def masked(loss):
    def call(x, y, ids, where, temperature, *, axis_name):
        return loss(x, y, ids=ids, where=where, temperature=temperature, axis_name=axis_name)

    return call


def plain(loss):
    def call(x, y, temperature, *, axis_name):
        return loss(x, y, temperature=temperature, axis_name=axis_name)

    return call


def with_shared_negatives(x, y, ids, negatives, temperature, *, axis_name):
    return losses.info_nce(
        x,
        y,
        negatives,
        temperature=temperature,
        ids=ids,
        negative_ids=jnp.arange(M),
        axis_name=axis_name,
    )


def with_own_negatives(x, y, negatives, temperature, *, axis_name):
    return losses.info_nce(x, y, negatives, temperature=temperature, axis_name=axis_name)


def with_a_memory(x, y, ids, negatives, temperature, *, axis_name):
    return losses.nt_xent(
        x,
        y,
        negatives,
        temperature=temperature,
        ids=ids,
        negative_ids=jnp.arange(M),
        axis_name=axis_name,
    )


# name: the loss, arrays split over the devices, arrays that each device has whole
CASES = {
    "info_nce shared": (with_shared_negatives, [X, Y, IDS], [SHARED, TEMPERATURE]),
    "nt_xent memory": (with_a_memory, [X, Y, IDS], [SHARED, TEMPERATURE]),
    "info_nce own": (with_own_negatives, [X, Y, OWN], [TEMPERATURE]),
}
for loss in (losses.info_nce, losses.nt_xent, losses.dcl, losses.dclw):
    CASES[loss.__name__] = (plain(loss), [X, Y], [TEMPERATURE])
    CASES[f"{loss.__name__} masked"] = (masked(loss), [X, Y, IDS, WHERE], [TEMPERATURE])


def check(case, **options):
    loss, arrays, replicated = CASES[case]
    check_device_invariance(loss, *arrays, replicated=replicated, **options)


@pytest.mark.parametrize("case", CASES)
def test_vmap(case):
    check(case, mapping=["vmap"], devices=[2, 8])


@pytest.mark.parametrize("case", [case for case in CASES if case.endswith("masked")])
def test_devices(case):
    check(case, mapping=["pmap", "shard_map"], devices=[4])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_mapping_and_number_of_devices(case):
    check(case)


def test_an_axis_of_two_names():
    """A mesh of 4 x 2 devices, over both of whose axes the batch is split."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(4, 2), ("hosts", "chips"))
    spec = jax.sharding.PartitionSpec(("hosts", "chips"))
    mapped = jax.shard_map(
        lambda x, y: losses.info_nce(x, y, axis_name=("hosts", "chips")),
        mesh=mesh,
        in_specs=spec,
        out_specs=spec,
        check_vma=False,
    )
    np.testing.assert_allclose(jax.jit(mapped)(X, Y), losses.info_nce(X, Y), rtol=1e-5)
