"""Every loss across devices: the same on 1, 2, 4 and 8, each value and gradient, scalars' too."""

import functools

import jax
import numpy as np
import pytest
from loss_cases import (
    ARRAYS,
    CASES,
    LABELS,
    MEMORY,
    SCALAR_LOSSES,
    STATES,
    WHERE,
    D,
    N,
    X,
    masked,
    parameters,
)

from jaxcl import losses
from jaxcl.losses.miners import hard_pairs
from jaxcl.testing import check_device_invariance

BY_BACKEND = [
    pytest.param(name, backend, id=f"{name}-{backend}")
    for name, case in CASES.items()
    for backend in case.all_backends()
]


def check(case, backend=None, **options):
    rows, rows_structure = jax.tree.flatten(case.rows)
    others, others_structure = jax.tree.flatten((case.whole, case.scalars))

    def loss(*arrays, axis_name):
        given = rows_structure.unflatten(arrays[: len(rows)])
        whole, scalars = others_structure.unflatten(arrays[len(rows) :])
        keywords = {"axis_name": axis_name} if case.takes("axis_name") else {}
        if backend is not None:
            # There is no ring on one device without an axis, with which all are compared.
            which = "tiled" if backend == "ring" and axis_name is None else backend
            keywords |= {"backend": which, "block_size": None if which == "dense" else 3}
        return case(given, whole, scalars, **keywords)

    check_device_invariance(loss, *rows, replicated=others, **options)


def crosses_devices(case):
    return case.is_fast and case.takes("axis_name") and case.loss is not losses.n_pairs


# One of each way to cross devices: where eight are right, so are two.
ON_TWO = {"nt_xent", "lifted_structure", "vicreg"}


@pytest.mark.slow
@pytest.mark.parametrize("name", parameters(CASES, crosses_devices))
def test_vmapped_devices(name):
    case = masked(CASES[name])
    devices = [2, 8] if name in ON_TWO else [8]
    check(case, case.all_backends()[0], mapping=["vmap"], devices=devices)


# One of each way to reduce similarities: what else a loss does, it does for every backend alike.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["info_nce", "sup_con", "siglip"])
def test_a_ring_of_vmapped_devices(name):
    """Against one device's tiles."""
    check(masked(CASES[name]), "ring", mapping=["vmap"], devices=[8])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nt_xent", "vicreg"])
def test_devices(name):
    backend = "ring" if CASES[name].takes("backend") else None
    check(masked(CASES[name]), backend, mapping=["pmap", "shard_map"], devices=[4])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backend"), BY_BACKEND)
def test_every_number_of_devices_and_mapping(name, backend):
    case = masked(CASES[name])
    check(case, backend, mapping=["pmap"])
    check(case, backend, mapping=["shard_map"], devices=[8])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backend"), BY_BACKEND)
def test_without_masks(name, backend):
    check(CASES[name], backend, mapping=["vmap"], devices=[8])


@pytest.mark.slow
@pytest.mark.parametrize("with_masks", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("name", STATES)
def test_what_is_handed_on(name, with_masks):
    case = masked(STATES[name]) if with_masks else STATES[name]
    check(case, mapping=["pmap"])
    check(case, mapping=["shard_map"], devices=[8])


@pytest.mark.slow
def test_masks_are_split_by_rows():
    """Of given masks each device has the rows of its anchors, whole."""
    pairs = hard_pairs(X, LABELS)

    def loss(x, labels, positives, negatives, **options):
        options |= {"margin": 0.4, "gamma": 8.0, "pairs": (positives, negatives)}
        return losses.circle(x, labels, **options)

    check_device_invariance(loss, X, LABELS, *pairs, mapping=["vmap"], devices=[4])


@pytest.mark.parametrize("name", SCALAR_LOSSES)
def test_every_device_has_the_same_scalar(name):
    case = CASES[name]
    split = jax.tree.map(lambda x: x.reshape(8, N // 8, D), case.rows)

    def local(rows):
        return case(rows, case.scalars, axis_name="d")

    found = jax.jit(jax.vmap(local, axis_name="d"))(split)
    np.testing.assert_array_equal(found, found[0])
    wanted = jax.jit(functools.partial(case))(case.rows, case.scalars)
    np.testing.assert_allclose(found[0], wanted, rtol=1e-5)


def on_hosts_and_chips(local):
    """Over both axes of a mesh of 4 x 2 devices, taken as one."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(4, 2), ("hosts", "chips"))
    spec = jax.sharding.PartitionSpec(("hosts", "chips"))
    options = {"mesh": mesh, "in_specs": spec, "out_specs": spec, "check_vma": False}
    local = functools.partial(local, axis_name=("hosts", "chips"))
    return jax.jit(jax.shard_map(local, **options))


@pytest.mark.parametrize("name", ["info_nce", "lifted_structure"])
def test_an_axis_of_two_names(name):
    case = CASES[name]
    wanted = jax.jit(functools.partial(case))(case.rows)
    np.testing.assert_allclose(on_hosts_and_chips(case)(case.rows), wanted, rtol=1e-5)


def test_sinkhorn_across_devices():
    """Assignments and, under an axis of two names, the memory counted once."""

    def assign(scores, where, **options):
        return losses.sinkhorn(scores, MEMORY[0], where=where, **options)

    found = on_hosts_and_chips(assign)(ARRAYS[0], WHERE)
    wanted = jax.jit(assign)(ARRAYS[0], WHERE)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)
