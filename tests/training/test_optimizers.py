"""Optimizers against stored steps, PyTorch's equations and optax; schedules against formulas."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcl import methods
from jaxcl.encoders import MLP, ViT
from jaxcl.training import LARS, SGD, AdamW, Schedule
from jaxcl.training.state import name_leaves

GOLDEN = np.load(Path(__file__).parents[1] / "reference" / "trajectories.npz")


def replay(optimizer, learning_rates, params, grads):
    rates = jnp.asarray(learning_rates)
    transformation = optimizer.build(lambda step: rates[step])
    state = transformation.init(params)
    for gradient in grads:
        updates, state = transformation.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def lars_case():
    params = {name: jnp.asarray(GOLDEN[f"lars/start/{name}"], jnp.float32) for name in "wb"}
    grads = [
        {name: jnp.asarray(GOLDEN[f"lars/grad/{name}"][step], jnp.float32) for name in "wb"}
        for step in range(20)
    ]
    return params, grads, GOLDEN["lars/learning_rate"].astype(np.float32)


@pytest.mark.slow
def test_lars_follows_the_reference():
    params, grads, rates = lars_case()
    optimizer = LARS(
        weight_decay=float(GOLDEN["lars/param/weight_decay"]),
        momentum=float(GOLDEN["lars/param/momentum"]),
        trust_coefficient=float(GOLDEN["lars/param/trust_coefficient"]),
    )
    end = replay(optimizer, rates, params, grads)
    for name in "wb":
        np.testing.assert_allclose(end[name], GOLDEN[f"lars/end/{name}"], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_lars_of_updates_is_optax_lars_with_masks():
    params, grads, rates = lars_case()
    ours = replay(LARS(weight_decay=0.01, velocity="updates"), rates, params, grads)
    mask = {"w": True, "b": False}
    reference = optax.lars(
        lambda step: jnp.asarray(rates)[step],
        weight_decay=0.01,
        weight_decay_mask=mask,
        trust_ratio_mask=mask,
    )
    state, theirs = reference.init(params), params
    for gradient in grads:
        updates, state = reference.update(gradient, state, theirs)
        theirs = optax.apply_updates(theirs, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)
    other_kind = replay(LARS(weight_decay=0.01), rates, params, grads)
    assert np.abs(ours["w"] - other_kind["w"]).max() > 1e-4


def test_lars_of_all_parameters_is_larc_without_clipping():
    """Whose ratio has the norm of the gradient plus that of the decay below."""
    params, grads, rates = lars_case()
    end = replay(LARS(weight_decay=1e-6, decay="all"), rates, params, grads)
    for name in "wb":
        w, velocity = np.asarray(params[name], np.float64), 0.0
        for gradient, rate in zip(grads, rates, strict=True):
            g, size = np.asarray(gradient[name], np.float64), np.linalg.norm(w)
            ratio = 0.001 * size / (np.linalg.norm(g) + 1e-6 * size) if size else 1.0
            velocity = 0.9 * velocity + ratio * (g + 1e-6 * w)
            w = w - rate * velocity
        np.testing.assert_allclose(end[name], w, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_pytorchs(nesterov):
    params, grads, _ = lars_case()
    optimizer = SGD(weight_decay=0.1, momentum=0.8, nesterov=nesterov)
    end = replay(optimizer, np.full(20, 0.05), params, grads)
    for name in "wb":
        w, velocity = np.asarray(params[name], np.float64), 0.0
        for gradient in grads:
            g = np.asarray(gradient[name]) + 0.1 * w
            velocity = 0.8 * velocity + g
            w = w - 0.05 * (g + 0.8 * velocity if nesterov else velocity)
        np.testing.assert_allclose(end[name], w, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_decay_skips_biases_and_norms_where_asked():
    params = {"kernel": jnp.ones((2, 2)), "scale": jnp.ones(2)}
    zeros = [jax.tree.map(jnp.zeros_like, params)]
    for optimizer in (SGD(weight_decay=0.5, decay="matrices"), AdamW(weight_decay=0.5), LARS()):
        end = replay(optimizer, [0.1], params, zeros)
        np.testing.assert_array_equal(end["scale"], params["scale"])
    assert replay(SGD(weight_decay=0.5), [0.1], params, zeros)["scale"][0] < 1
    assert replay(AdamW(weight_decay=0.5), [0.1], params, zeros)["kernel"][0, 0] < 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [
        AdamW(weight_decay=0.5),
        AdamW(weight_decay=0.5, final_weight_decay=0.9),
        SGD(weight_decay=0.5),
        SGD(weight_decay=0.5, decay="matrices"),
        LARS(weight_decay=0.5),
        LARS(weight_decay=0.5, velocity="updates"),
    ],
)
def test_what_a_vit_freezes_or_keeps_from_decay_stays(optimizer):
    """A step without any gradient moves what decays, and nothing else."""
    encoder = ViT(patch=4, image_size=8, width=8, depth=1, heads=2, frozen_patch_embedding=True)
    method = methods.SimCLR(encoder, MLP((8, 4)))
    views = (jax.random.normal(jax.random.key(1), (2, 8, 8, 3)),) * 2
    params, _ = jax.jit(method.init)(jax.random.key(0), methods.Batch(views))
    build = functools.partial(optimizer.build, lambda step: 0.1)
    transformation = build(undecayed=method.undecayed)
    state = transformation.init(params)
    assert jax.tree.structure(state) == jax.tree.structure(build().init(params))
    updates, _ = transformation.update(jax.tree.map(jnp.zeros_like, params), state, params)
    moved = {name for name, update in name_leaves(updates).items() if np.abs(update).max() > 0}
    kept = {name for name in name_leaves(params) if name not in moved}
    assert kept >= {
        "encoder/cls_token",
        "encoder/pos_embed",
        "encoder/patch_embed/proj/kernel",
        "encoder/patch_embed/proj/bias",
    }
    assert moved >= {"encoder/blocks_0/attn/qkv/kernel", "projector/dense0/kernel"}
    learned = dataclasses.replace(method, encoder=encoder.clone(frozen_patch_embedding=False))
    assert method.undecayed == (*learned.undecayed, "encoder/patch_embed")


def test_a_path_of_undecayed_is_no_mere_beginning_of_a_name():
    params = {"encoder": {"patch": jnp.ones((2, 2)), "patches": jnp.ones((2, 2))}}
    transformation = SGD(weight_decay=0.5).build(lambda step: 0.1, undecayed=("encoder/patch",))
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = transformation.update(zeros, transformation.init(params), params)
    assert updates["encoder"]["patch"].max() == 0
    np.testing.assert_allclose(updates["encoder"]["patches"], -0.05, rtol=1e-6)


def test_clipping_scales_to_the_global_norm():
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    grads = [{"a": jnp.array([3.0]), "b": jnp.array([4.0])}]
    end = replay(SGD(weight_decay=0.0, clip_norm=1.0), [1.0], params, grads)
    np.testing.assert_allclose([end["a"][0], end["b"][0]], [-0.6, -0.8], rtol=1e-6)


def test_clipping_each_parameter_by_its_own_norm():
    params = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
    grads = [{"a": jnp.array([3.0, 4.0]), "b": jnp.array([0.5])}]
    end = replay(SGD(weight_decay=0.0, clip_norm=1.0, clip="each"), [1.0], params, grads)
    np.testing.assert_allclose(end["a"], [-0.6, -0.8], rtol=1e-6)
    np.testing.assert_array_equal(end["b"], [-0.5])


def test_learning_rate_grows_with_the_batch():
    assert SGD(learning_rate=0.1).peak(1024) == pytest.approx(0.4)
    assert SGD(learning_rate=0.1, scaling="sqrt").peak(1024) == pytest.approx(0.2)
    assert SGD(learning_rate=0.1, scaling="none").peak(1024) == pytest.approx(0.1)


def test_warm_up_then_cosine():
    rate = Schedule(warmup_epochs=2).build(0.4, total_steps=100, steps_per_epoch=5)
    np.testing.assert_allclose([rate(0), rate(5), rate(10)], [0.0, 0.2, 0.4], rtol=1e-6)
    steps = np.arange(10, 100)
    expected = 0.4 * (1 + np.cos(np.pi * (steps - 10) / 90)) / 2
    np.testing.assert_allclose([rate(step) for step in steps], expected, rtol=1e-5, atol=1e-7)


def test_steps_and_constant():
    rate = Schedule(decay="steps").build(1.0, total_steps=10, steps_per_epoch=1)
    np.testing.assert_allclose(
        [rate(step) for step in range(10)], [1.0] * 6 + [0.1] * 2 + [0.01] * 2, rtol=1e-6
    )
    assert Schedule(decay="constant").build(0.3, total_steps=10, steps_per_epoch=1)(7) == 0.3


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="shorten the warm-up"):
        Schedule(warmup_epochs=3).build(0.1, total_steps=10, steps_per_epoch=5)
    with pytest.raises(ValueError, match=r"optimizer.learning_rate must be positive, got 0"):
        SGD(learning_rate=0)
    with pytest.raises(ValueError, match=r"optimizer.weight_decay"):
        AdamW(weight_decay=-1.0)


def test_constant_networks_keep_the_peak():
    """The predictor moves as under a constant schedule, the encoder as without the field."""
    params = {"encoder": {"w": jnp.ones((2, 2))}, "predictor": {"w": jnp.ones((2, 2))}}
    grads = [jax.tree.map(lambda x, step=step: x * (step + 1), params) for step in range(4)]
    rates = jnp.array([0.1, 0.07, 0.03, 0.01])

    def end(optimizer, schedule):
        transformation = optimizer.build(schedule, peak=0.1)
        state, moved = transformation.init(params), params
        for gradient in grads:
            updates, state = transformation.update(gradient, state, moved)
            moved = optax.apply_updates(moved, updates)
        return moved

    found = end(SGD(constant=("predictor",)), lambda step: rates[step])
    plain = end(SGD(), lambda step: rates[step])
    steady = end(SGD(), lambda step: 0.1)
    np.testing.assert_allclose(found["predictor"]["w"], steady["predictor"]["w"], rtol=1e-6)
    np.testing.assert_allclose(found["encoder"]["w"], plain["encoder"]["w"], rtol=1e-6)
    with pytest.raises(ValueError, match=r"names 'prediktor', expected .* encoder, predictor"):
        end(SGD(constant=("prediktor",)), lambda step: 0.1)


def test_vectors_of_lars_have_a_rate_of_their_own():
    params, grads, rates = lars_case()
    plain, slow = (replay(LARS(vector_rate=rate), rates, params, grads) for rate in (1.0, 0.5))
    np.testing.assert_array_equal(slow["w"], plain["w"])
    np.testing.assert_allclose(slow["b"] - params["b"], 0.5 * (plain["b"] - params["b"]), atol=1e-6)


def test_weight_decay_rises_along_a_cosine():
    optimizer = AdamW(weight_decay=0.04, final_weight_decay=0.4)
    params = {"w": jnp.ones((1, 1))}
    transformation = optimizer.build(lambda step: 1.0, total_steps=10)
    state = transformation.init(params)
    for step in range(12):
        updates, state = transformation.update({"w": jnp.zeros((1, 1))}, state, params)
        wanted = 0.4 - 0.36 * (np.cos(np.pi * min(step / 10, 1)) + 1) / 2
        np.testing.assert_allclose(updates["w"], -wanted, rtol=1e-6)
