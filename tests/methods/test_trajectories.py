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
from jaxcl.methods import (
    BYOL,
    DINO,
    NNCLR,
    Batch,
    JointEmbedding,
    Linear,
    MoCo,
    MoCoV3,
    SimCLR,
    SimSiam,
    SwAV,
    criteria,
)

REFERENCE = Path(__file__).parents[1] / "reference"
GOLDEN = dict(np.load(REFERENCE / "trajectories.npz"))
GOLDEN |= dict(np.load(REFERENCE / "method_trajectories.npz"))
STEPS = 30


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
    temperature, momentum = (parameter(case, name) for name in ("temperature", "momentum"))
    encoder, predictor = MLP((32, 12)), MLP((32, 12))
    with_temperature = {"temperature": temperature}
    return {
        "moco": lambda: MoCo(encoder, queue_size=40, momentum=momentum, **with_temperature),
        "moco_v3": lambda: MoCoV3(
            encoder, predictor=predictor, momentum=momentum, **with_temperature
        ),
        "simclr": lambda: SimCLR(encoder, **with_temperature),
        "byol": lambda: BYOL(encoder, predictor=predictor, momentum=momentum),
        "simsiam": lambda: SimSiam(encoder, predictor=predictor),
        "nnclr": lambda: NNCLR(encoder, predictor=predictor, queue_size=48, **with_temperature),
        "nnclr_nt_xent": lambda: NNCLR(
            encoder, predictor=predictor, queue_size=48, contrast="nt_xent", **with_temperature
        ),
        "barlow_twins": lambda: JointEmbedding(encoder, criterion=criteria.BarlowTwins(0.02)),
        "vicreg": lambda: JointEmbedding(encoder, criterion=criteria.VICReg()),
        "tico": lambda: JointEmbedding(encoder, criterion=criteria.TiCo(), momentum=momentum),
        "mmcr": lambda: JointEmbedding(encoder, criterion=criteria.MMCR(0.005)),
        "w_mse": lambda: JointEmbedding(encoder, criterion=criteria.WMSE(epsilon=0.0)),
        "align_uniform": lambda: JointEmbedding(encoder, criterion=criteria.AlignUniform()),
        "dcl": lambda: SimCLR(encoder, contrast="dcl", **with_temperature),
        "dclw": lambda: SimCLR(encoder, contrast="dclw", **with_temperature),
        "hard_simclr": lambda: SimCLR(encoder, contrast="hard_nt_xent", **with_temperature),
        "lejepa": lambda: JointEmbedding(encoder, criterion=criteria.SIGReg(directions=24)),
        "swav": lambda: SwAV(encoder, prototypes=10, queue_size=48, **with_temperature),
        "dino": lambda: DINO(
            encoder,
            prototypes=10,
            # Rising through the first twenty of thirty steps, the first of which is at 0.
            target_temperature=Linear(0.04, 0.07, until=19 / STEPS),
            momentum=momentum,
            **with_temperature,
        ),
    }[case]()


CASES = sorted({name.split("/")[0] for name in GOLDEN} - {"lars"})
FAST = ("moco", "byol", "swav")  # what the fast tests have: one of each kind


def array(case, name):
    return jnp.asarray(GOLDEN[f"{case}/{name}"], jnp.float32)


def parameters_of(case, when, params):
    """The networks that the method has, as the reference has them."""
    networks = {"encoder": ENCODER, "predictor": PREDICTOR}
    found = {
        name: network(case, when, layers) for name, layers in networks.items() if name in params
    }
    if "prototypes" in params:
        found["prototypes"] = {"kernel": array(case, f"{when}/prototypes")}
    return found


def state_of(case, when, state, params):
    """The method's state at the start of the reference; the end's memories to compare with."""
    changes = {}
    target = {name: params[name] for name in params if name != "predictor"}
    if hasattr(state, "target_params"):
        changes["target_params"] = target
    if getattr(state, "target", None) is not None:
        changes["target"] = dataclasses.replace(state.target, params=target)
    if hasattr(state, "queue"):
        changes["queue"] = Queue(array(case, f"{when}/queue"), state.queue.cursor)
    if hasattr(state, "queues"):
        queues = array(case, f"{when}/queues")
        changes["queues"] = tuple(
            Queue(rows, queue.cursor) for rows, queue in zip(queues, state.queues, strict=True)
        )
    if case == "lejepa":
        changes["criterion"] = jax.random.key_data(jax.random.key(7))  # of its directions
    return dataclasses.replace(state, **changes)


def rolled(queue):
    """Oldest first."""
    return np.roll(queue.embeddings, -int(queue.cursor), axis=0)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[] if case in FAST else pytest.mark.slow) for case in CASES],
)
def test_method_follows_its_reference(case):
    method = make_method(case)
    count = sum(name.startswith(f"{case}/view") for name in GOLDEN)
    views = [array(case, f"view{number}") for number in range(count)]
    params, state = jax.jit(method.init)(jax.random.key(0), Batch(tuple(view[0] for view in views)))
    params = parameters_of(case, "start", params)
    state = state_of(case, "start", state, params)
    optimizer = optax.chain(
        optax.add_decayed_weights(parameter(case, "weight_decay")),
        optax.sgd(parameter(case, "learning_rate"), momentum=parameter(case, "sgd_momentum")),
    )

    @jax.jit
    def step(params, state, optimizer_state, batch, key, progress):
        (loss, (state, _)), grads = jax.value_and_grad(method.loss, has_aux=True)(
            params, state, batch, key=key, progress=progress
        )
        updates, optimizer_state = optimizer.update(grads, optimizer_state, params)
        before, params = params, optax.apply_updates(params, updates)
        params = method.constrain(params, before, progress=progress)
        return params, method.end_step(params, state, progress=progress), optimizer_state, loss

    optimizer_state, losses = optimizer.init(params), []
    for number in range(STEPS):
        batch = Batch(tuple(view[number] for view in views))
        params, state, optimizer_state, loss = step(
            params, state, optimizer_state, batch, jax.random.key(number), number / STEPS
        )
        losses.append(float(loss))

    np.testing.assert_allclose(losses, GOLDEN[f"{case}/loss"], rtol=1e-5, atol=1e-5)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5),
        params,
        parameters_of(case, "end", params),
    )
    if case == "moco":
        np.testing.assert_allclose(state.queue.embeddings, GOLDEN["moco/end/queue"], atol=1e-5)
    if case == "swav":
        for queue, rows in zip(state.queues, GOLDEN["swav/end/queues"], strict=True):
            np.testing.assert_allclose(rolled(queue), rows, atol=1e-5)
    if case == "dino":
        np.testing.assert_allclose(state.center, GOLDEN["dino/end/center"], atol=1e-5)


def test_every_trajectory_is_followed():
    """A case that is in the files and has no method here would be left out in silence."""
    assert all(make_method(case) is not None for case in CASES)
    assert len(CASES) == 19
