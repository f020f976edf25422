"""What devices exchange in a step, read from the compiled program."""

import json
import os
import subprocess
import sys

import jax
import pytest

from jaxcl import augment, encoders, methods, planning, training
from jaxcl.planning import Described

ROWS, DIM = 16, 16


def moco(queue_size):
    return methods.MoCo(
        encoders.SmallCNN((8, 16), batch_norm_groups=1),
        encoders.moco_v2_projector(DIM),
        queue_size=queue_size,
    )


def compiled(method, devices):
    """The step of a method on all devices, 16 examples on each, and its state's shapes."""
    experiment = training.Experiment(
        data=Described(100_000, (16, 16, 3)),
        views=augment.crops(16),
        method=method,
        train=training.Train(batch_size=devices * ROWS),
        run=training.Run(mapping="shard_map"),
    )
    setup = training.set_up(experiment, jax.devices()[:devices])
    state = setup.placed_shapes()
    batch = setup.devices.split_shapes(setup.batch_shapes())
    return setup.step.lower(state, batch).compile(), state


def exchanges(method, devices):
    program, _ = compiled(method, devices)
    return [
        (each.kind, each.bytes, each.times, each.group)
        for each in planning.find_collectives(program.as_text())
    ]


def of_moco(queue_size, devices):
    """Sizes of MoCo's exchanges, those of sums added up, and the number of each kind."""
    found = exchanges(moco(queue_size), devices)
    assert {times for _, _, times, _ in found} == {1}
    # Keys change places among as many devices as a device has rows, all else is for all.
    assert {group for kind, _, _, group in found if kind == "all-to-all"} == {min(ROWS, devices)}
    assert {group for kind, _, _, group in found if kind != "all-to-all"} == {devices}
    sizes = {}
    for kind, size, _, _ in found:
        sizes.setdefault(kind, []).append(size)
    sums = sizes.pop("all-reduce")
    kinds = {kind: sorted(each) for kind, each in sizes.items()}
    return kinds | {"all-reduce": [len(sums), max(sums), sum(sums)]}


def needed_by_moco(devices):
    state = compiled(moco(4096), devices)[1]
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    running = sum(x.size for x in jax.tree.leaves(state.method.batch_stats))
    scalars = 8  # loss and health
    # At once all gradients, the running statistics of both encoders, the mean that the covariance
    # is about, and two of the scalars; then the covariance, and the rest of the scalars.
    together = parameters + 2 * running + DIM + 2
    return {
        # Views of the keys there, embeddings back: a device sends no more than it has.
        "all-to-all": [ROWS * DIM * 4, ROWS * 16 * 16 * 3 * 4],
        # The keys, for everyone's queue.
        "all-gather": [devices * ROWS * DIM * 4],
        "all-reduce": [3, 4 * together, 4 * (together + DIM * DIM + scalars - 2)],
    }


@pytest.mark.slow
def test_moco_exchanges_what_it_needs_and_nothing_that_grows_with_its_queue():
    assert of_moco(4096, 8) == of_moco(65536, 8) == needed_by_moco(8)


@pytest.mark.slow
def test_so_it_does_on_256_devices():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import json, test_exchanges as t\n"
        "print(json.dumps([t.of_moco(4096, 256), t.of_moco(65536, 256), t.needed_by_moco(256)]))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, os.path.dirname(__file__)],
        env=os.environ
        | {
            "XLA_FLAGS": "--xla_force_host_platform_device_count=256",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    small, large, needed = json.loads(found.stdout)
    assert small == large == needed


@pytest.mark.slow
def test_whole_batch_statistics_cross_devices_once_forward_and_once_backward():
    """Of each norm; the first has no input that wants a gradient, but a scale that does."""
    norms = 4  # of encoder and projector
    method = methods.SimCLR(encoders.SmallCNN((8, 16)), encoders.simclr_v1_projector(DIM))
    program, _ = compiled(method, 8)
    moments = [
        each
        for each in planning.find_collectives(program.as_text())
        if "norm" in each.source and each.kind == "all-reduce"
    ]
    assert len(moments) == 2 * norms
