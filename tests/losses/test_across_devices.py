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
    def call(x, y, ids, where, temperature, **options):
        return loss(x, y, ids=ids, where=where, temperature=temperature, **options)

    return call


def plain(loss):
    def call(x, y, temperature, **options):
        return loss(x, y, temperature=temperature, **options)

    return call


def with_negatives(loss):
    def call(x, y, ids, negatives, temperature, **options):
        options |= {"ids": ids, "negative_ids": jnp.arange(M)}
        return loss(x, y, negatives, temperature=temperature, **options)

    return call


def with_own_negatives(x, y, negatives, temperature, **options):
    return losses.info_nce(x, y, negatives, temperature=temperature, **options)


def with_labels(x, labels, where, memory, temperature, **options):
    options |= {"where": where, "temperature": temperature}
    return losses.sup_con(x, labels, memory, jnp.arange(M), **options)


def clip(x, y, ids, where, logit_scale, **options):
    return losses.clip(x, y, ids=ids, where=where, logit_scale=logit_scale, **options)


def siglip(x, y, ids, where, logit_scale, logit_bias, **options):
    options |= {"logit_scale": logit_scale, "logit_bias": logit_bias}
    return losses.siglip(x, y, ids=ids, where=where, **options)


# name: the loss, arrays split over the devices, arrays that each device has whole
CASES = {
    "info_nce shared": (with_negatives(losses.info_nce), [X, Y, IDS], [SHARED, TEMPERATURE]),
    "nt_xent memory": (with_negatives(losses.nt_xent), [X, Y, IDS], [SHARED, TEMPERATURE]),
    "sup_con": (plain(losses.sup_con), [X, IDS], [TEMPERATURE]),
    "sup_con memory, masked": (with_labels, [X, IDS, WHERE], [SHARED, TEMPERATURE]),
    "clip masked": (clip, [X, Y, IDS, WHERE], [1.2]),
    "siglip masked": (siglip, [X, Y, IDS, WHERE], [1.2, -2.0]),
    "info_nce own": (with_own_negatives, [X, Y, OWN], [TEMPERATURE]),
}
for loss in (losses.info_nce, losses.nt_xent, losses.dcl, losses.dclw, losses.hard_nt_xent):
    CASES[loss.__name__] = (plain(loss), [X, Y], [TEMPERATURE])
    CASES[f"{loss.__name__} masked"] = (masked(loss), [X, Y, IDS, WHERE], [TEMPERATURE])

BACKENDS = ["dense", "tiled", "ring"]


def check(case, backend, **options):
    loss, arrays, replicated = CASES[case]

    def with_backend(*arrays, axis_name):
        # There is no ring on one device without an axis, with which all are compared.
        which = "tiled" if backend == "ring" and axis_name is None else backend
        block_size = None if which == "dense" else 3
        return loss(*arrays, axis_name=axis_name, backend=which, block_size=block_size)

    check_device_invariance(with_backend, *arrays, replicated=replicated, **options)


FAST = [
    "info_nce shared",
    "info_nce masked",
    "nt_xent masked",
    "dclw masked",
    "sup_con memory, masked",
    "clip masked",
    "siglip masked",
]


@pytest.mark.parametrize("case", FAST)
def test_a_ring_of_vmapped_devices(case):
    """Against one device's tiles: the others follow with the slow tests."""
    check(case, "ring", mapping=["vmap"], devices=[8])


@pytest.mark.parametrize("case", ["nt_xent masked"])
def test_devices(case):
    check(case, "ring", mapping=["pmap", "shard_map"], devices=[4])


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_every_mapping_and_number_of_devices(case, backend):
    if case == "info_nce own" and backend != "dense":
        return  # held whole under every backend
    # What is gathered is gathered alike for dense and tiled.
    options = {"mapping": ["shard_map"], "devices": [8]} if backend == "tiled" else {}
    check(case, backend, **options)


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
