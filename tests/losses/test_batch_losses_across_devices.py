"""The losses over statistics of a batch: the same on 1, 2, 4 and 8 devices, value and gradients."""

import functools

import jax
import numpy as np
import pytest
from batch_loss_cases import (
    ARRAYS,
    LOSSES,
    MEMORY,
    SCALARS,
    STATES,
    VIEWS,
    WHERE,
    D,
    N,
    inputs_of,
)

from jaxcl.losses.clusters import sinkhorn
from jaxcl.testing import check_device_invariance


def check(name, masked, **options):
    loss = (LOSSES | STATES)[name][0]

    def call(*arrays, axis_name):
        if not masked:
            return loss(*arrays, axis_name=axis_name)
        *views, where = arrays
        return loss(*views, where=where, axis_name=axis_name)

    arrays = [*inputs_of(name), WHERE] if masked else inputs_of(name)
    check_device_invariance(call, *arrays, **options)


# One of each way to cross devices; the slow test has all.
FAST = ["barlow_twins", "w_mse", "mmcr", "swav memory"]


@pytest.mark.parametrize("name", FAST)
def test_vmapped_devices(name):
    check(name, True, mapping=["vmap"], devices=[8])


@pytest.mark.slow
@pytest.mark.parametrize("name", FAST)
def test_devices(name):
    check(name, True, mapping=["pmap", "shard_map"], devices=[4])


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", LOSSES | STATES)
def test_every_mapping_and_number_of_devices(name, masked):
    check(name, masked)


def test_every_device_has_the_same_scalar():
    split = [x.reshape(8, N // 8, D) for x in VIEWS[:2]]
    for loss in (LOSSES[name][0] for name in SCALARS):
        found = jax.vmap(functools.partial(loss, axis_name="d"), axis_name="d")(*split)
        np.testing.assert_array_equal(found, found[0])
        np.testing.assert_allclose(found[0], loss(*VIEWS[:2]), rtol=1e-5)


def test_sinkhorn_across_devices():
    """Assignments and, under an axis of two names, the memory counted once."""
    wanted = sinkhorn(ARRAYS[0], MEMORY[0], where=WHERE)

    def local(scores, where):
        return sinkhorn(scores, MEMORY[0], where=where, axis_name=("hosts", "chips"))

    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(4, 2), ("hosts", "chips"))
    spec = jax.sharding.PartitionSpec(("hosts", "chips"))
    mapped = jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    np.testing.assert_allclose(jax.jit(mapped)(ARRAYS[0], WHERE), wanted, rtol=1e-5, atol=1e-7)
