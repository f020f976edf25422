"""A ring on TPU slices, compiled with no TPU: what a device holds does not grow with the slice."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcl import losses
from jaxcl.planning import find_slice

pytestmark = pytest.mark.slow
SLICES = {1: "v5e:1x1", 4: "v5e:2x2", 8: "v5e:2x4", 16: "v5e:4x4", 64: "v5e:8x8"}
ROWS, WIDTH = 1024, 128
LOSSES = {
    "info_nce": losses.info_nce,
    "nt_xent": losses.nt_xent,
    "siglip": lambda x, y, **options: losses.siglip(
        x, y, logit_scale=jnp.log(10.0), logit_bias=-10.0, **options
    ),
}


@pytest.fixture(scope="module")
def compiled():
    """Value and gradients of a loss, compiled for a slice; each once."""
    pytest.importorskip("libtpu", reason='pip install "jaxcl[plan]"')
    found = {}

    def compile_for(name, backend, devices):
        if (name, backend, devices) not in found:
            chips = np.array(find_slice(SLICES[devices]).devices())
            program = lower(LOSSES[name], backend, Mesh(chips, ("i",)))
            found[name, backend, devices] = program.compile()
        return found[name, backend, devices]

    return compile_for


def lower(loss, backend, mesh):
    def mean(x, y):
        return loss(x, y, axis_name="i", backend=backend).mean()

    def value_and_gradients(x, y):
        value, gradients = jax.value_and_grad(mean, (0, 1))(x, y)
        return value[None], gradients

    rows = PartitionSpec("i")
    views = jax.ShapeDtypeStruct(
        (mesh.size * ROWS, WIDTH), jnp.float32, sharding=NamedSharding(mesh, rows)
    )
    mapped = jax.shard_map(
        value_and_gradients, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False
    )
    return jax.jit(mapped).lower(views, views)


def collectives(program):
    """Names of the collectives that occur; their results may be tuples, or come later."""
    return set(
        re.findall(r"\s((?:all|collective|reduce)-[a-z-]+?)(?:-start)?\(", program.as_text())
    )


@pytest.mark.parametrize("devices", [4, 8, 16, 64])
@pytest.mark.parametrize("name", LOSSES)
def test_a_ring_gathers_nothing(compiled, name, devices):
    assert collectives(compiled(name, "ring", devices)) & {
        "collective-permute",
        "all-gather",
        "all-reduce",  # as which the compiler gathers on larger slices
        "all-to-all",
    } == {"collective-permute"}


def test_the_tiled_backend_gathers(compiled):
    """So that the test above can fail."""
    assert collectives(compiled("info_nce", "tiled", 8)) & {"all-gather", "all-reduce"}


@pytest.mark.parametrize("name", LOSSES)
def test_memory_of_a_ring_does_not_grow(compiled, name):
    memory = {
        devices: compiled(name, "ring", devices).memory_analysis() for devices in (4, 8, 16, 64)
    }
    temporaries = {devices: each.temp_size_in_bytes for devices, each in memory.items()}
    # With what the compiler puts into vector memory, arguments and results.
    peaks = {devices: each.peak_memory_in_bytes for devices, each in memory.items()}
    for found in (temporaries, peaks):
        assert max(found.values()) <= 1.05 * found[4], found
    # A device alone has nothing to hand on: with more, what travels and the gradient that stays,
    # each once as it was and once as it becomes.
    alone = compiled(name, "ring", 1).memory_analysis()
    views = 2 * 4 * ROWS * WIDTH
    assert peaks[4] <= alone.peak_memory_in_bytes + 6 * views, (peaks, alone)


def test_memory_of_gathered_rows_grows(compiled):
    """So that the test above can fail."""
    peaks = [
        compiled("info_nce", "tiled", devices).memory_analysis().peak_memory_in_bytes
        for devices in (4, 64)
    ]
    assert peaks[1] > 2 * peaks[0]
