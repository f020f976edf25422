"""Thirty steps of each method against the same steps of a public PyTorch implementation."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcl.encoders import MLP
from jaxcl.memory import Queue
from jaxcl.methods import Batch, MoCo, MoCoV3, SimCLR

GOLDEN = np.load(Path(__file__).parents[1] / "reference" / "trajectories.npz")


def parameter(case, name):
    return float(GOLDEN[f"{case}/param/{name}"])


def network(case, when, names):
    """Dense layers of the reference, as an MLP's parameters."""
    return {
        f"dense{layer}": {
            "kernel": jnp.asarray(GOLDEN[f"{case}/{when}/{weight}"], jnp.float32),
            "bias": jnp.asarray(GOLDEN[f"{case}/{when}/{bias}"], jnp.float32),
        }
        for layer, (weight, bias) in enumerate(names)
    }


ENCODER = [("w0", "b0"), ("w1", "b1")]
PREDICTOR = [("p0", "c0"), ("p1", "c1")]


def make_method(case):
    temperature = parameter(case, "temperature")
    momentum = parameter(case, "momentum")
    if case == "moco":
        return MoCo(MLP((32, 12)), temperature=temperature, queue_size=40, momentum=momentum)
    if case == "moco_v3":
        return MoCoV3(
            MLP((32, 12)), predictor=MLP((32, 12)), temperature=temperature, momentum=momentum
        )
    return SimCLR(MLP((32, 12)), temperature=temperature)


@pytest.mark.parametrize("case", ["moco", "moco_v3", "simclr"])
def test_method_follows_its_reference(case):
    method = make_method(case)
    views = [jnp.asarray(GOLDEN[f"{case}/view{v}"], jnp.float32) for v in (0, 1)]
    params, state = method.init(jax.random.key(0), Batch((views[0][0], views[1][0])))
    params = params | {"encoder": network(case, "start", ENCODER)}
    if "predictor" in params:
        params["predictor"] = network(case, "start", PREDICTOR)
    if hasattr(state, "target_params"):
        state = dataclasses.replace(state, target_params={"encoder": params["encoder"]})
    if hasattr(state, "queue"):
        queue = Queue(jnp.asarray(GOLDEN[f"{case}/start/queue"], jnp.float32), state.queue.cursor)
        state = dataclasses.replace(state, queue=queue)
    optimizer = optax.chain(
        optax.add_decayed_weights(parameter(case, "weight_decay")),
        optax.sgd(parameter(case, "learning_rate"), momentum=parameter(case, "sgd_momentum")),
    )

    @jax.jit
    def step(params, state, optimizer_state, batch, key):
        (loss, (state, _)), grads = jax.value_and_grad(method.loss, has_aux=True)(
            params, state, batch, key=key
        )
        updates, optimizer_state = optimizer.update(grads, optimizer_state, params)
        params = optax.apply_updates(params, updates)
        return params, method.end_step(params, state, progress=0.0), optimizer_state, loss

    optimizer_state, losses = optimizer.init(params), []
    for number in range(30):
        batch = Batch((views[0][number], views[1][number]))
        key = jax.random.key(number)
        params, state, optimizer_state, loss = step(params, state, optimizer_state, batch, key)
        losses.append(float(loss))

    np.testing.assert_allclose(losses, GOLDEN[f"{case}/loss"], rtol=0, atol=1e-5)
    networks = {"encoder": ENCODER} | ({"predictor": PREDICTOR} if case == "moco_v3" else {})
    for name, layers in networks.items():
        jax.tree.map(
            lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5),
            params[name],
            network(case, "end", layers),
        )
    if case == "moco":
        np.testing.assert_allclose(
            state.queue.embeddings, GOLDEN["moco/end/queue"], rtol=0, atol=1e-5
        )
