"""Methods encoded in micro-batches: loss, gradient, state and metrics of the whole batch."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_cases import make_methods as more_methods

from jaxcl import encoders
from jaxcl.encoders import MLP, BatchNorm
from jaxcl.methods import (
    Batch,
    MoCo,
    MoCoV3,
    PlainMemory,
    SimCLR,
    cached_loss_and_grad,
)

N, KEY = 32, jax.random.key(0)


def networks(groups):
    """Encoder, projector, predictor: without norms, or with groups of batch statistics."""
    norm = {"batch_norm": groups is not None, "batch_norm_groups": groups}
    output = "none" if groups is None else "affine"
    return MLP((12, 8), **norm), MLP((9, 6), output_norm=output, **norm), MLP((9, 6), **norm)


def make_methods(groups):
    encoder, projector, predictor = networks(groups)
    return {
        "moco": MoCo(encoder, projector, queue_size=40),
        "moco_v3": MoCoV3(encoder, projector, predictor),
        "simclr": SimCLR(encoder, projector),
        "simclr, queue": SimCLR(encoder, projector, queue_size=80, momentum=0.9),
        "memory": PlainMemory(encoder, projector, memory_size=64, negatives=8),
        "memory, own entry": PlainMemory(
            encoder, projector, memory_size=64, negatives=8, positive="memory", momentum=0.5
        ),
    }


def make_all_methods(groups):
    return make_methods(groups) | more_methods(*networks(groups), examples=64)


def make_batch(step=0):
    keys = jax.random.split(jax.random.fold_in(KEY, step), 3)
    base = jax.random.normal(keys[0], (N, 7))
    views = tuple(base + 0.5 * jax.random.normal(key, base.shape) for key in keys[1:])
    index = jax.random.permutation(keys[0], 64)[:N]
    return Batch(views, index, index // 12)


def assert_equal(found, expected, tolerance=1e-5):
    """Within the tolerance, relative to the largest entry of each array where that is above 1."""

    def compare(ours, theirs):
        scale = max(1.0, float(jnp.max(jnp.abs(jnp.asarray(theirs, jnp.float32)))))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale)

    jax.tree.map(compare, found, expected)


def run(method, *, micro_batch, devices=None):
    """One step: loss, gradient, metrics, and the state after it."""
    axis_name = None if devices is None else "d"
    loss_and_grad = cached_loss_and_grad(method, micro_batch=micro_batch)

    def step(params, state, batch):
        (loss, (state, metrics)), grads = loss_and_grad(
            params, state, batch, key=KEY, progress=0.3, axis_name=axis_name
        )
        if axis_name is not None:
            loss, grads, metrics = jax.lax.pmean((loss, grads, metrics), axis_name)
        return loss, grads, metrics, state

    batch = make_batch()
    params, state = jax.jit(method.init)(KEY, batch)
    if devices is None:
        return jax.jit(step)(params, state, batch)
    split = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
    mapped = jax.jit(jax.vmap(step, in_axes=(None, None, 0), axis_name="d"))
    return jax.tree.map(lambda x: x[0], mapped(params, state, split))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "groups", "micro_batch"),
    [
        *(
            (name, groups, micro_batch)
            for name in make_methods(None)
            for groups, micro_batch in [(None, 4), (None, 16), (None, 32), (8, 8), (8, 16)]
        ),
        *((name, 8, 8) for name in more_methods(*networks(8), examples=64)),
    ],
)
def test_all_is_that_of_the_whole_batch(name, groups, micro_batch):
    method = make_all_methods(groups)[name]
    assert_equal(run(method, micro_batch=micro_batch), run(method, micro_batch=None))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "groups", "devices"),
    [
        (name, groups, devices)
        for name in make_methods(None)
        for groups, devices in [(None, 1), (None, 2), (None, 8), (4, 2), (2, 4)]
    ],
)
def test_devices_change_nothing(name, groups, devices):
    """Without norms against one device; with groups, which are each device's, against its own."""
    method = make_methods(groups)[name]
    found = run(method, micro_batch=8 if groups else 2, devices=devices)
    expected = run(method, micro_batch=None, devices=devices if groups else None)
    if groups is None:
        found, expected = (result[:2] + result[3:] for result in (found, expected))
    assert_equal(found, expected)


@pytest.mark.slow
def test_mocos_keys_are_shuffled_over_the_whole_batch():
    """Else the groups of a micro-batch would hold its own keys, and keys would be others."""
    method = make_methods(8)["moco"]
    unshuffled = dataclasses.replace(method, shuffle=False)
    of_shuffled, of_unshuffled = (
        run(each, micro_batch=8)[-1].queue.embeddings for each in (method, unshuffled)
    )
    assert np.abs(of_shuffled - of_unshuffled).max() > 0.1


class Noisy(SimCLR):
    """A user's method that draws noise by the numbers of the examples."""

    def represent(self, params, state, batch, *, key, axis_name=None):
        def noise(number, view):
            return view * jax.random.bernoulli(jax.random.fold_in(key, number), 0.7, view.shape)

        views = tuple(jax.vmap(noise)(batch.index, view) for view in batch.views)
        batch = dataclasses.replace(batch, views=views)
        return super().represent(params, state, batch, key=key, axis_name=axis_name)


@pytest.mark.slow
def test_draws_by_the_examples_numbers_are_those_of_the_whole_batch():
    method = Noisy(MLP((6,)))
    found = run(method, micro_batch=4)
    assert_equal(found, run(method, micro_batch=None))
    assert abs(found[0] - run(SimCLR(MLP((6,))), micro_batch=None)[0]) > 1e-3


class FlaxNorm(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False, axis_name=None):
        return nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))


class FixedGroups(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False, axis_name=None):
        return BatchNorm(groups=16)(x, train=train, axis_name=axis_name)


class Drawing(PlainMemory):
    def represent(self, params, state, batch, *, key, axis_name=None):
        state = dataclasses.replace(state, key=state.key + 1)
        return super().represent(params, state, batch, key=key, axis_name=axis_name)


class Stacked(SimCLR):
    def represent(self, params, state, batch, *, key, axis_name=None):
        views, state = super().represent(params, state, batch, key=key, axis_name=axis_name)
        return (jnp.concatenate(views),), state


class Jitted(SimCLR):
    def represent(self, params, state, batch, *, key, axis_name=None):
        if not hasattr(Jitted, "program"):
            Jitted.program = jax.jit(super().represent)
        return Jitted.program(params, state, batch, key=key)


class OwnGroups(nn.Module):
    """Has the field, and within it a network that the field does not reach."""

    head: nn.Module
    batch_norm_groups: int = 16

    @nn.compact
    def __call__(self, x, *, train=False, axis_name=None):
        return self.head(x, train=train, axis_name=axis_name)


GROUPED = encoders.MLP((6,), output_norm="plain", batch_norm_groups=16)


@pytest.mark.parametrize(
    ("method", "micro_batch", "message"),
    [
        (
            SimCLR(MLP((6,)), encoders.simclr_v1_projector(4)),
            8,
            r"SimCLR: projector/norm0 \(BatchNorm\) normalizes by statistics of the whole batch; "
            "those of micro-batches of 8 differ, and so would the gradient: set batch_norm_groups",
        ),
        (
            MoCo(FlaxNorm(), queue_size=40),
            8,
            r"MoCo: encoder/BatchNorm_0 .* use jaxcl.encoders.BatchNorm with groups",
        ),
        (
            MoCo(GROUPED, queue_size=40),
            1,
            "encoder/norm0 shares statistics among 2 rows, which micro-batches of 1 cut apart: use "
            "a micro_batch that 2 divides",
        ),
        (  # 16 groups of both views: each has 4 rows of one view, which 2 examples do not fill
            SimCLR(GROUPED),
            2,
            "encoder/norm0 shares statistics among 4 rows, which micro-batches of 2",
        ),
        (
            MoCo(FixedGroups(), queue_size=40),
            8,
            "encoder/BatchNorm_0 has 16 groups of batch statistics, and no field batch_norm_groups",
        ),
        (
            MoCo(OwnGroups(encoders.MLP((6,), output_norm="plain", batch_norm_groups=16)), None),
            16,
            "/head/norm0 has 16 groups of batch statistics, and no field batch_norm_groups",
        ),
        (Drawing(MLP((6,))), 8, "represent changes state.key, which cannot be put together"),
        (Stacked(MLP((6,))), 8, r"shape \(16, 6\) for a micro-batch of 8 rows"),
        (Jitted(GROUPED), 8, "Jitted changes batch statistics in modules that are jitted"),
        (SimCLR(GROUPED), 12, "micro_batch 12 does not divide a device's batch of 32 rows"),
        (SimCLR(GROUPED), 0, "micro_batch must be at least 1, got 0"),
    ],
)
def test_what_micro_batches_cannot_stand_in_for_is_refused(method, micro_batch, message):
    batch = make_batch()
    params, state = jax.eval_shape(method.init, KEY, batch)
    if isinstance(method, Jitted):  # traced before: what is in it cannot be seen any more
        jax.eval_shape(lambda *args: method.loss(*args, key=KEY)[0], params, state, batch)

    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            lambda *args: cached_loss_and_grad(method, micro_batch=micro_batch)(*args, key=KEY),
            params,
            state,
            batch,
        )


@pytest.mark.slow
def test_whole_batch_statistics_pass_where_the_batch_is_one_micro_batch():
    method = SimCLR(MLP((6,)), encoders.simclr_v1_projector(4))
    assert_equal(run(method, micro_batch=N), run(method, micro_batch=None), tolerance=0)
