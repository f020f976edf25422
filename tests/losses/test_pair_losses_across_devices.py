"""Losses over pairs and on the sphere: the same on 1, 2, 4 and 8 devices, value and gradients."""

import functools

import jax
import numpy as np
import pytest
from pair_loss_cases import LABELS, LOSSES, WHERE, D, N, X

from jaxcl.losses.labelled_pairs import circle
from jaxcl.losses.miners import hard_pairs
from jaxcl.losses.spread import uniformity
from jaxcl.testing import check_device_invariance

BACKENDS = {"n_pairs": ["dense", "tiled", "ring"], "uniformity": ["dense", "tiled", "ring"]}
CASES = [(name, backend) for name in LOSSES for backend in BACKENDS.get(name, [None])]


def check(name, backend, masked, **options):
    loss, inputs = LOSSES[name]

    def call(*arrays, axis_name):
        *arrays, where = arrays
        options = {"where": where} if masked else {}
        if backend is not None:
            # There is no ring on one device without an axis, with which all are compared.
            which = "tiled" if backend == "ring" and axis_name is None else backend
            options |= {"backend": which, "block_size": None if which == "dense" else 3}
        return loss(*arrays, axis_name=axis_name, **options)

    check_device_invariance(call, *inputs, WHERE, **options)


# One of each way to cross devices; the slow test has all.
FAST = [
    ("n_pairs", "ring"),
    ("multi_similarity mined", None),
    ("lifted_structure", None),
    ("uniformity", "ring"),
]


@pytest.mark.parametrize(("name", "backend"), FAST)
def test_vmapped_devices(name, backend):
    check(name, backend, True, mapping=["vmap"], devices=[8])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backend"), FAST)
def test_devices(name, backend):
    check(name, backend, True, mapping=["pmap", "shard_map"], devices=[4])


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("name", "backend"), CASES)
def test_every_mapping_and_number_of_devices(name, backend, masked):
    check(name, backend, masked)


def test_masks_are_split_by_rows():
    """Of given masks each device has the rows of its anchors, whole."""
    pairs = hard_pairs(X, LABELS)

    def loss(x, labels, positives, negatives, **options):
        return circle(x, labels, margin=0.4, gamma=8.0, pairs=(positives, negatives), **options)

    check_device_invariance(loss, X, LABELS, *pairs, mapping=["vmap"], devices=[4])


def test_every_device_has_the_same_scalar():
    split = X.reshape(8, N // 8, D)
    found = jax.vmap(functools.partial(uniformity, axis_name="d"), axis_name="d")(split)
    np.testing.assert_array_equal(found, found[0])
    np.testing.assert_allclose(found[0], uniformity(X), rtol=1e-6)


def test_an_axis_of_two_names():
    """A mesh of 4 x 2 devices, over both of whose axes the batch is split."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(4, 2), ("hosts", "chips"))
    spec = jax.sharding.PartitionSpec(("hosts", "chips"))
    loss = LOSSES["lifted_structure"][0]
    mapped = jax.shard_map(
        lambda x, labels: loss(x, labels, axis_name=("hosts", "chips")),
        mesh=mesh,
        in_specs=spec,
        out_specs=spec,
        check_vma=False,
    )
    np.testing.assert_allclose(jax.jit(mapped)(X, LABELS), loss(X, LABELS), rtol=1e-5)
