"""What holds for every method: devices change nothing, gradients go where they should."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from method_cases import make_methods

from jaxcl import encoders
from jaxcl.encoders import MLP
from jaxcl.methods import Batch, Cosine, MoCo, MoCoV3, PlainMemory, SimCLR
from jaxcl.methods.health import contrast_health, spread_health
from jaxcl.methods.target import move_target

KEY = jax.random.key(0)
ENCODER = MLP((12, 8), batch_norm=True)
METHODS = {
    "moco": MoCo(ENCODER, encoders.moco_v2_projector(6), queue_size=40),
    "moco, own keys masked": MoCo(
        ENCODER, encoders.moco_v2_projector(6), queue_size=40, mask_own_keys=True
    ),
    "moco_v3": MoCoV3(
        ENCODER,
        encoders.moco_v3_projector(6, hidden=10),
        encoders.moco_v3_predictor(6, hidden=10),
    ),
    "simclr": SimCLR(ENCODER, encoders.simclr_v1_projector(6)),
    "simclr, queue": SimCLR(
        ENCODER, encoders.simclr_v2_projector(6, hidden=9), queue_size=40, momentum=0.9
    ),
    "memory": PlainMemory(ENCODER, memory_size=64, negatives=8),
    "memory, own entry": PlainMemory(ENCODER, memory_size=64, negatives=8, positive="memory"),
    "memory, hardest": PlainMemory(
        ENCODER, memory_size=64, negatives=8, positive="memory", choose="hardest"
    ),
    "memory, margin": PlainMemory(
        ENCODER, memory_size=64, negatives=8, margin=0.3, distance="euclidean"
    ),
    **make_methods(
        ENCODER,
        MLP((9, 6), batch_norm=True, output_norm="affine"),
        MLP((9, 6), batch_norm=True),
        examples=64,
    ),
}


def make_batch(step):
    keys = jax.random.split(jax.random.fold_in(KEY, step), 3)
    base = jax.random.normal(keys[0], (16, 7))
    views = tuple(base + 0.5 * jax.random.normal(key, base.shape) for key in keys[1:])
    index = jax.random.permutation(keys[0], 64)[:16]
    return Batch(views, index, index // 12)


def run(method, devices, steps=2):
    """Steps of plain SGD on so many devices; the losses and all that is left."""
    params, state = jax.jit(method.init)(KEY, make_batch(0))

    def step(params, state, batch, key):
        (loss, (state, metrics)), grads = jax.value_and_grad(method.loss, has_aux=True)(
            params, state, batch, key=key, axis_name="d"
        )
        loss, grads, metrics = jax.lax.pmean((loss, grads, metrics), "d")
        before, params = params, jax.tree.map(lambda p, g: p - 0.3 * g, params, grads)
        params = method.constrain(params, before, progress=0.5)
        return params, method.end_step(params, state, progress=0.5), loss, metrics

    mapped = jax.jit(
        jax.vmap(step, in_axes=(None, None, 0, None), out_axes=0, axis_name="d"),
    )
    losses = []
    for number in range(steps):
        batch = make_batch(number)
        split = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
        everywhere = mapped(params, state, split, jax.random.key(number))
        for leaf in jax.tree.leaves(everywhere):  # every device ends with the same
            if not jnp.issubdtype(leaf.dtype, jnp.unsignedinteger):
                np.testing.assert_allclose(leaf, jnp.broadcast_to(leaf[0], leaf.shape), atol=1e-6)
        params, state, loss, metrics = jax.tree.map(lambda x: x[0], everywhere)
        losses.append(float(loss))
    return losses, params, state, metrics


def assert_close(ours, theirs):
    """Relative to the largest entry, where that is above 1."""
    scale = max(1.0, float(np.abs(np.asarray(theirs, np.float64)).max()))
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5 * scale)


# Shares of a device's first queries that are nearer to their positive than to any other row.
OF_EACH_DEVICE = {"accuracy", "negative_similarity"}


def fast(*names, but=()):
    """All methods but some, those not named marked slow."""
    return [
        pytest.param(name, marks=[] if name in names else pytest.mark.slow)
        for name in METHODS
        if name not in but
    ]


@pytest.mark.parametrize("name", fast("moco", "simclr"))
def test_devices_change_nothing(name):
    reference = run(METHODS[name], devices=1)
    result = run(METHODS[name], devices=8)
    jax.tree.map(assert_close, result[:3], reference[:3])
    assert {"positive_similarity", "embedding_std", "effective_rank"} <= set(result[3])
    for metric in set(result[3]) - OF_EACH_DEVICE:
        np.testing.assert_allclose(result[3][metric], reference[3][metric], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", fast("moco", "simclr, queue", "memory"))
def test_targets_get_no_gradient_and_parameters_do(name):
    method = METHODS[name]
    batch = make_batch(0)
    params, state = jax.jit(method.init)(KEY, batch)

    if hasattr(state, "target_params"):
        target, with_target = (
            state.target_params,
            lambda target: dataclasses.replace(state, target_params=target),
        )
    elif slow := {"simclr, queue": "memory", "tico": "target"}.get(name):
        part = getattr(state, slow)
        target, with_target = (
            part.params,
            lambda target: dataclasses.replace(
                state, **{slow: dataclasses.replace(part, params=target)}
            ),
        )
    else:
        target, with_target = {}, lambda _: state

    @jax.jit
    def gradients(params, target):
        def loss(params, target):
            return method.loss(params, with_target(target), batch, key=KEY)[0]

        return jax.grad(loss, argnums=(0, 1))(params, target)

    online, target = gradients(params, target)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(online["encoder"]["dense0"]))
    assert not any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(target))


# TiCo's covariance starts at zero, and its term rises with it.
@pytest.mark.slow
@pytest.mark.parametrize("name", fast("moco", "simclr", but=["tico"]))
def test_each_works_in_ten_lines_of_plain_optax(name):
    method = METHODS[name]
    params, state = jax.jit(method.init)(KEY, make_batch(0))
    optimizer = optax.adam(3e-3)
    optimizer_state = optimizer.init(params)

    @jax.jit
    def step(params, state, optimizer_state, batch, key):
        (loss, (state, _)), grads = jax.value_and_grad(method.loss, has_aux=True)(
            params, state, batch, key=key
        )
        updates, optimizer_state = optimizer.update(grads, optimizer_state, params)
        before, params = params, optax.apply_updates(params, updates)
        params = method.constrain(params, before, progress=0.0)
        return params, method.end_step(params, state, progress=0.0), optimizer_state, loss

    losses = []
    for number in range(60):
        params, state, optimizer_state, loss = step(
            params, state, optimizer_state, make_batch(number % 4), jax.random.key(number)
        )
        losses.append(float(loss))
    assert np.mean(losses[-8:]) < np.mean(losses[:8])
    features = method.embed(params, state, make_batch(0).views[0])
    assert features.shape == (16, 8)


def test_moco_follows_algorithm_1():
    """One step against the algorithm in NumPy: encode, contrast, enqueue, average."""
    method = MoCo(MLP((4,)), temperature=0.3, queue_size=24, momentum=0.9, shuffle=False)
    batch = make_batch(0)
    params, state = jax.jit(method.init)(KEY, batch)
    loss, (state_after, _) = jax.jit(method.loss)(params, state, batch, key=KEY)
    moved = jax.tree.map(lambda x: x + 1.0, params)
    state_after = method.end_step(moved, state_after, progress=0.0)

    def encode(weights, x):
        z = x @ np.asarray(weights["encoder"]["dense0"]["kernel"], np.float64)
        z = z + np.asarray(weights["encoder"]["dense0"]["bias"])
        return z / np.linalg.norm(z, axis=1, keepdims=True)

    view0, view1 = (np.asarray(view, np.float64) for view in batch.views)
    queries, keys = encode(params, view0), encode(state.target_params, view1)
    queue = np.asarray(state.queue.embeddings, np.float64)
    logits = np.concatenate([(queries * keys).sum(1, keepdims=True), queries @ queue.T], 1) / 0.3
    expected = (np.log(np.exp(logits).sum(1)) - logits[:, 0]).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(state_after.queue.embeddings[:16], keys, atol=1e-6)
    np.testing.assert_allclose(state_after.queue.embeddings[16:], queue[16:], atol=1e-6)
    jax.tree.map(
        lambda after, before, online: np.testing.assert_allclose(
            after, 0.9 * np.asarray(before) + 0.1 * np.asarray(online), atol=1e-6
        ),
        state_after.target_params,
        state.target_params,
        moved,
    )


@pytest.mark.slow
def test_masked_own_keys_are_no_negatives():
    """The loss of a queue that holds them equals that of a queue without those rows."""
    method = MoCo(MLP((4,)), queue_size=20, mask_own_keys=True, shuffle=False)
    batch = make_batch(0)
    params, state = jax.jit(method.init)(KEY, batch)
    queue = dataclasses.replace(state.queue, ids=jnp.tile(jnp.array([batch.index[0], 99]), 10))
    state = dataclasses.replace(state, queue=queue)
    (queries, keys), state = jax.jit(method.represent)(params, state, batch, key=KEY)
    loss, after, metrics = method.objective(params, state, (queries, keys), batch, progress=0.0)
    others = np.where(queue.ids != batch.index[:, None], 1.0, 0.0)
    unit = queries / jnp.linalg.norm(queries, axis=1, keepdims=True)
    logits = np.asarray(unit @ queue.embeddings.T, np.float64) / 0.2
    positive = np.asarray((unit * keys).sum(1), np.float64) / 0.2
    wanted = np.log(np.exp(positive) + (others * np.exp(logits)).sum(1)) - positive
    np.testing.assert_allclose(loss, wanted.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["negatives"], others.sum(1).mean())
    np.testing.assert_array_equal(after.queue.ids[:16], batch.index)


@pytest.mark.slow
def test_simclr_v2_contrasts_with_its_memory_too():
    """One step against NumPy: negatives of batch and queue, both views enqueued, an average."""
    method = SimCLR(MLP((4,)), temperature=0.3, queue_size=40, momentum=0.9)
    batch = make_batch(0)
    params, state = jax.jit(method.init)(KEY, batch)
    slow = jax.tree.map(lambda x: x + 0.5, params)  # as if it had stayed behind
    state = dataclasses.replace(state, memory=dataclasses.replace(state.memory, params=slow))
    loss, (after, metrics) = jax.jit(method.loss)(params, state, batch, key=KEY)
    after = method.end_step(params, after, progress=0.0)

    def encode(weights, x):
        z = x @ np.asarray(weights["encoder"]["dense0"]["kernel"], np.float64)
        z = z + np.asarray(weights["encoder"]["dense0"]["bias"])
        return z / np.linalg.norm(z, axis=1, keepdims=True)

    views = np.concatenate(batch.views).astype(np.float64)
    anchors, keys = encode(params, views), encode(slow, views)
    queue = np.asarray(state.memory.queue.embeddings, np.float64)
    logits = np.concatenate([anchors @ anchors.T, anchors @ queue.T], axis=1) / 0.3
    rows = np.arange(32)
    positive = logits[rows, (rows + 16) % 32]
    logits[rows, rows] = -np.inf
    np.testing.assert_allclose(loss, (np.log(np.exp(logits).sum(1)) - positive).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["negatives"], 30 + 40)
    entered = np.stack(np.split(keys, 2), axis=1).reshape(32, -1)  # example by example
    np.testing.assert_allclose(after.memory.queue.embeddings[:32], entered, atol=1e-6)
    np.testing.assert_allclose(after.memory.queue.embeddings[32:], queue[32:], atol=1e-6)
    jax.tree.map(
        lambda now, before, online: np.testing.assert_allclose(
            now, 0.9 * np.asarray(before) + 0.1 * np.asarray(online), atol=1e-6
        ),
        after.memory.params,
        slow,
        params,
    )


@pytest.mark.slow
def test_plain_memory_is_a_difference_of_mean_distances():
    method = PlainMemory(
        MLP((5,)), memory_size=20, negatives=20, choose="hardest", distance="cosine"
    )
    batch = make_batch(0)
    params, state = jax.jit(method.init)(KEY, batch)
    (queries, positives), _ = jax.jit(method.represent)(params, state, batch, key=KEY)
    loss, (state_after, _) = jax.jit(method.loss)(params, state, batch, key=KEY)
    entries = np.asarray(state.memory.embeddings)
    expected = (1 - (queries * positives).sum(1)) - (1 - queries @ entries.T).mean(1)
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state_after.memory.embeddings[:16], queries, atol=1e-6)


@pytest.mark.slow
def test_plain_memory_takes_positives_from_the_examples_own_entries():
    method = METHODS["memory, own entry"]
    batch = make_batch(0)
    params, state = jax.jit(method.init)(KEY, batch)
    (queries, positives), state = jax.jit(method.represent)(params, state, batch, key=KEY)
    np.testing.assert_array_equal(positives, state.memory.embeddings[batch.index])
    _, state, _ = method.objective(params, state, (queries, positives), batch, progress=0.0)
    np.testing.assert_allclose(state.memory.embeddings[batch.index], queries, atol=1e-6)


@pytest.mark.slow
def test_negatives_of_a_query_are_never_its_own_entry():
    method = dataclasses.replace(METHODS["memory, own entry"], negatives=64)
    batch = make_batch(0)
    params, state = jax.jit(method.init)(KEY, batch)
    (queries, _), state = jax.jit(method.represent)(params, state, batch, key=KEY)
    own = state.memory.embeddings[batch.index]
    for choose in ("random", "hardest"):
        chooser = dataclasses.replace(method, choose=choose, negatives=63)
        negatives = chooser._negatives(KEY, state.memory, queries, batch)
        assert not np.isclose(negatives, own[:, None], atol=1e-6).all(-1).any()


def test_cosine_momentum_reaches_its_end():
    schedule = Cosine(0.9, 1.0)
    np.testing.assert_allclose([schedule(p) for p in (0.0, 0.5, 1.0)], [0.9, 0.95, 1.0], rtol=1e-6)
    target = move_target({"w": jnp.zeros(2)}, {"w": jnp.ones(2)}, schedule(0.0))
    np.testing.assert_allclose(target["w"], 0.1, rtol=1e-5)


@pytest.mark.slow
def test_simclr_v2_embeds_from_inside_its_projector():
    plain = SimCLR(ENCODER, encoders.simclr_v2_projector(6, hidden=9))
    inside = dataclasses.replace(plain, embed_layers=1)
    batch = make_batch(0)
    params, state = jax.jit(plain.init)(KEY, batch)
    assert plain.embed(params, state, batch.views[0]).shape == (16, 8)
    assert inside.embed(params, state, batch.views[0]).shape == (16, 9)


@pytest.mark.slow
def test_health_of_a_collapsed_and_a_spread_batch():
    spread = jax.random.normal(KEY, (512, 8))
    health = spread_health(spread)
    assert 7 < float(health["effective_rank"]) <= 8
    np.testing.assert_allclose(health["embedding_std"], 1.0, atol=0.05)
    point = jnp.ones((512, 8)) + 1e-3 * spread
    assert float(spread_health(point)["embedding_std"]) < 0.01
    line = jnp.outer(spread[:, 0], jnp.ones(8))
    np.testing.assert_allclose(spread_health(line)["effective_rank"], 1.0, atol=1e-3)

    candidates = jnp.eye(4)
    health = contrast_health(
        jnp.eye(4), jnp.eye(4).at[0].set([0.0, 1.0, 0.0, 0.0]), candidates, ~jnp.eye(4, dtype=bool)
    )
    np.testing.assert_allclose(health["accuracy"], 0.75)
    np.testing.assert_allclose(health["chance_loss"], np.log(4.0), rtol=1e-6)


@pytest.mark.slow
def test_health_looks_at_the_first_queries_only():
    keys = jax.random.normal(KEY, (600, 8))
    worse = keys.at[256:].set(keys[::-1][256:])
    none_with_itself = ~jnp.eye(600, dtype=bool)
    for queries in (keys, worse):
        health = contrast_health(queries, keys, keys, none_with_itself)
        np.testing.assert_allclose(health["accuracy"], 1.0)
        np.testing.assert_allclose(health["negatives"], 599)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MoCo(ENCODER, temperature=0.0), "MoCo: temperature must be positive, got 0.0"),
        (lambda: SimCLR(ENCODER, temperature=-1.0), "SimCLR: temperature"),
        (lambda: MoCo(ENCODER, queue_size=0), "queue_size must be positive"),
        (lambda: PlainMemory(ENCODER, memory_size=10, negatives=11), "11 negatives cannot come"),
        (lambda: SimCLR(ENCODER, embed_layers=1), "there is none"),
        (lambda: SimCLR(ENCODER, queue_size=-1), "queue_size must be 0 .none. or more, got -1"),
        (
            lambda: METHODS["simclr, queue"].check(batch_size=32, examples=1000),
            "queue_size 40 is smaller than the 64 views of a batch",
        ),
        (
            lambda: METHODS["moco"].check(batch_size=64, examples=1000),
            "queue_size 40 is smaller than batch_size 64",
        ),
        (
            lambda: METHODS["memory, own entry"].check(batch_size=16, examples=100),
            "memory_size 64 is smaller than the data set",
        ),
        (
            lambda: METHODS["moco"].loss({}, None, Batch((jnp.ones((2, 3)),)), key=KEY),
            "MoCo contrasts two views; the batch has 1",
        ),
        (
            lambda: METHODS["moco"].loss(
                {}, None, Batch((jnp.ones((2, 3)), jnp.ones((4, 3)))), key=KEY
            ),
            "MoCo: row i of both views must be of one example",
        ),
    ],
)
def test_wrong_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_queue_larger_than_the_data_is_said():
    grouped = dataclasses.replace(METHODS["moco"], encoder=encoders.SmallCNN(batch_norm_groups=4))
    (notice,) = grouped.check(batch_size=16, examples=20)
    assert "queue_size 40 is larger than the data set (20 examples)" in notice
    assert grouped.check(batch_size=16, examples=100) == []


def test_batch_statistics_that_leak_are_said():
    (notice,) = METHODS["moco"].check(batch_size=16, examples=100)
    assert "set method.encoder.batch_norm_groups" in notice
    plain = dataclasses.replace(METHODS["moco"], encoder=MLP((8,)))
    assert plain.check(batch_size=16, examples=100) == []
