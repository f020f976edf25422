"""Accumulation: gradients of parts, averaged."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import encoders, methods
from jaxcl.methods import accumulated_loss_and_grad, cached_loss_and_grad

PARTS, ROWS = 4, 32
VIEWS = tuple(np.random.default_rng(0).normal(size=(2, ROWS, 6)).astype(np.float32))
BATCH = methods.Batch(VIEWS, jnp.arange(ROWS))
KEY = jax.random.key(1)
MLP = encoders.MLP((8,), batch_norm=True)
METHODS = {
    "moco": methods.MoCo(MLP, queue_size=48, shuffle=False),
    "simclr": methods.SimCLR(MLP, temperature=0.5),
}


def accumulated(method):
    return accumulated_loss_and_grad(cached_loss_and_grad(method, micro_batch=None), parts=PARTS)


def close(ours, theirs):
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_it_is_the_mean_over_parts_one_after_another(name):
    method = METHODS[name]
    params, state = jax.jit(method.init)(KEY, BATCH)
    (loss, (after, metrics)), grads = jax.jit(accumulated(method))(params, state, BATCH, key=KEY)

    one_part = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
    losses, gradients = [], []
    for part in range(PARTS):
        own = jax.tree.map(lambda x, part=part: x[part::PARTS], BATCH)
        (each, (state, _)), gradient = one_part(
            params, state, own, key=jax.random.fold_in(KEY, part)
        )
        losses.append(each)
        gradients.append(gradient)
    close(loss, np.mean(losses))
    close(grads, jax.tree.map(lambda *x: sum(x) / PARTS, *gradients))
    close(after, state)
    assert metrics["accuracy"].shape == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("devices", [2, 8])
def test_parts_are_the_same_on_any_devices(name, devices):
    method = METHODS[name]
    params, state = jax.jit(method.init)(KEY, BATCH)
    expected = jax.jit(accumulated(method))(params, state, BATCH, key=KEY)
    split = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), BATCH)
    (loss, (after, _)), grads = jax.jit(
        jax.vmap(
            functools.partial(accumulated(method), params, state, key=KEY, axis_name="devices"),
            axis_name="devices",
        )
    )(split)
    if name == "moco":  # the order of keys in the queue is that of the devices
        order = lambda queue: np.sort(np.asarray(queue), axis=None)  # noqa: E731
        close(order(after.queue.embeddings[0]), order(expected[0][1][0].queue.embeddings))
    close(loss.mean(), expected[0][0])
    close(jax.tree.map(lambda x: x.mean(0), grads), expected[1])


@pytest.mark.slow
def test_in_batch_negatives_are_those_of_a_part():
    """What sets it apart from micro-batches, whose negatives are those of the whole batch."""
    method = METHODS["simclr"]
    params, state = jax.jit(method.init)(KEY, BATCH)
    (_, (_, metrics)), _ = jax.jit(accumulated(method))(params, state, BATCH, key=KEY)
    (_, (_, whole)), _ = jax.jit(cached_loss_and_grad(method, micro_batch=None))(
        params, state, BATCH, key=KEY
    )
    assert (float(metrics["negatives"]), float(whole["negatives"])) == (
        2 * ROWS / PARTS - 2,
        2 * ROWS - 2,
    )


def test_parts_that_do_not_divide_a_batch_are_named():
    method = METHODS["simclr"]
    params, state = jax.jit(method.init)(KEY, BATCH)
    with pytest.raises(ValueError, match="5 parts do not divide a device's batch of 32 examples"):
        accumulated_loss_and_grad(cached_loss_and_grad(method, micro_batch=None), parts=5)(
            params, state, BATCH, key=KEY
        )
