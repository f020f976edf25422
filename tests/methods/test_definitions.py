"""Steps of methods that no reference trajectory has, against their definitions in NumPy."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl.encoders import MLP, SmallCNN, keep_feature_map
from jaxcl.methods import (
    COLA,
    DINO,
    Batch,
    DenseCL,
    InstanceDiscrimination,
    JointEmbedding,
    MoCoV2Plus,
    ReSSL,
    SupCon,
    SwAV,
    criteria,
)

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
N, D = 12, 5
VIEWS = tuple(RANDOM.normal(size=(2, N, D)).astype(np.float32))
BATCH = Batch(VIEWS, np.arange(N)[::-1] + 3, np.arange(N) // 4)


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def log_softmax(logits):
    logits = logits - logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def step(method, batch=BATCH):
    """The state before a step, the embeddings, the loss and the state after it."""
    params, state = jax.jit(method.init)(KEY, batch)
    embeddings, _ = jax.jit(method.represent)(params, state, batch, key=KEY)
    loss, (after, metrics) = jax.jit(method.loss)(params, state, batch, key=KEY, progress=0.5)
    return state, [unit(rows) for rows in embeddings], float(loss), after, metrics


def test_instances_by_a_softmax_over_the_bank():
    method = InstanceDiscrimination(MLP((4,)), bank_size=20, temperature=0.3, momentum=0.5)
    state, [queries], loss, after, _ = step(method)
    bank = np.asarray(state.bank.embeddings, np.float64)
    scores = log_softmax(queries @ bank.T / 0.3)
    np.testing.assert_allclose(loss, -scores[np.arange(N), BATCH.index].mean(), rtol=1e-5)
    moved = bank.copy()
    moved[BATCH.index] = unit(0.5 * bank[BATCH.index] + 0.5 * queries)
    np.testing.assert_allclose(after.bank.embeddings, moved, atol=1e-6)


@pytest.mark.slow
def test_instances_by_noise_contrast():
    """-log h of the example's own row and -log(1 - h) of the noise, Z from the first batch."""
    method = InstanceDiscrimination(
        MLP((4,)), bank_size=20, temperature=0.5, contrast="nce", negatives=20
    )
    state, [queries], loss, after, _ = step(method)
    bank = np.asarray(state.bank.embeddings, np.float64)
    drawn = jax.random.split(jax.random.wrap_key_data(state.key))[0]
    noise = bank[np.asarray(jax.random.randint(drawn, (20,), 0, 20))]  # as memory.draw draws
    z = 20 * np.exp(queries @ noise.T / 0.5).mean()

    def h(similarity):
        p = np.exp(similarity / 0.5) / z
        return p / (p + 20 / 20)

    own = (queries * bank[BATCH.index]).sum(1)
    wanted = -np.log(h(own)) - np.log(1 - h(queries @ noise.T)).sum(1)
    np.testing.assert_allclose(after.normalizer, z, rtol=1e-5)
    np.testing.assert_allclose(loss, wanted.mean(), rtol=1e-5)
    again = jax.jit(method.loss)(*jax.jit(method.init)(KEY, BATCH)[:1], after, BATCH, key=KEY)[1][0]
    assert again.normalizer == after.normalizer  # kept


def test_ressl_is_a_cross_entropy_of_relations():
    method = ReSSL(MLP((4,)), queue_size=24, temperature=0.1, target_temperature=0.04)
    state, (student, teacher), loss, after, _ = step(method)
    queue = np.asarray(state.queue.embeddings, np.float64)
    relations = np.exp(log_softmax(teacher @ queue.T / 0.04))
    wanted = -(relations * log_softmax(student @ queue.T / 0.1)).sum(1).mean()
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    np.testing.assert_allclose(after.queue.embeddings[:N], teacher, atol=1e-6)


def test_moco_v2_plus_is_symmetric_with_a_queue_for_each_view():
    method = MoCoV2Plus(MLP((4,)), queue_size=24, temperature=0.2)
    state, (query0, query1, key0, key1), loss, after, _ = step(method)

    def info_nce(queries, keys, queue):
        own = (queries * keys).sum(1, keepdims=True)
        logits = np.concatenate([own, queries @ np.asarray(queue.embeddings, np.float64).T], 1)
        return -log_softmax(logits / 0.2)[:, 0].mean()

    queue0, queue1 = state.queues
    wanted = (info_nce(query0, key1, queue1) + info_nce(query1, key0, queue0)) / 2
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    for queue, keys in zip(after.queues, (key0, key1), strict=True):
        np.testing.assert_allclose(queue.embeddings[:N], keys, atol=1e-6)


def test_sup_con_takes_every_other_view_of_a_class():
    method = SupCon(MLP((4,)), temperature=0.2, base_temperature=0.07)
    _, views, loss, _, _ = step(method)
    rows, labels = np.concatenate(views), np.tile(BATCH.label, 2)
    losses = []
    for i in range(2 * N):
        others = [j for j in range(2 * N) if j != i]
        logits = log_softmax(rows[i : i + 1] @ rows[others].T / 0.2)[0]
        losses.append(-logits[labels[others] == labels[i]].mean())
    np.testing.assert_allclose(loss, np.mean(losses) * 0.2 / 0.07, rtol=1e-5)
    with pytest.raises(ValueError, match=r"SupCon needs Batch.label"):
        step(method, dataclasses.replace(BATCH, label=None))


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_a_joint_embedding_encodes_each_view_by_itself(momentum):
    method = JointEmbedding(MLP((4,)), criterion=criteria.SIGReg(lambd=0.0), momentum=momentum)
    state, _, loss, after, _ = step(method)
    params, _ = jax.jit(method.init)(KEY, BATCH)
    kernel = np.asarray(params["encoder"]["dense0"]["kernel"], np.float64)
    z0, z1 = (view @ kernel for view in VIEWS)  # the target starts equal
    np.testing.assert_allclose(loss, np.square((z0 - z1) / 2).mean(), rtol=1e-5)
    moved = method.end_step(jax.tree.map(lambda x: x + 1, params), after, progress=0.5)
    if momentum is None:
        assert moved.target is state.target is None
    else:
        found = moved.target.params["encoder"]["dense0"]["kernel"]
        np.testing.assert_allclose(found, kernel + 0.1, atol=1e-6)


class Patches(nn.Module):
    """A linear map of each 2x2 patch, and their mean."""

    @nn.compact
    def __call__(self, images, *, train=False, axis_name=None):
        x = nn.Conv(5, (2, 2), strides=2, use_bias=False, name="patches")(images)
        keep_feature_map(self, x)
        return x.mean((1, 2))


def dense_contrast(method, params, state, batch):
    """DenseCL's loss of images and of cells, one by one, and what enters its queues."""
    params, target = (
        jax.tree.map(lambda x: np.asarray(x, np.float64), tree)
        for tree in (params, state.target_params)
    )
    queues = [np.asarray(q.embeddings, np.float64) for q in (state.queue, state.dense_queue)]
    past = [q.ids for q in (state.queue, state.dense_queue)]

    def encode(weights, image):
        """The cells' features, the image's embedding, the cells' embeddings."""
        rows, columns = image.shape[0] // 2, image.shape[1] // 2
        patches = image.reshape(rows, 2, columns, 2).swapaxes(1, 2).reshape(rows * columns, 4)
        cells = patches @ weights["encoder"]["patches"]["kernel"].reshape(4, 5)
        heads = [weights[name]["dense0"] for name in ("projector", "dense_projector")]
        whole, dense = (
            rows @ head["kernel"] + head["bias"]
            for rows, head in zip((cells.mean(0, keepdims=True), cells), heads, strict=True)
        )
        return unit(cells), whole, dense

    def info_nce(query, positive, negatives):
        logits = np.concatenate([[query @ positive], negatives @ query]) / method.temperature
        return -log_softmax(logits[None])[0, 0]

    losses, dense_losses, entered = [], [], ([], [])
    for query_image, key_image, index in zip(*batch.views, batch.index, strict=True):
        of_query = encode(params, query_image[..., 0].astype(np.float64))
        of_key = encode(target, key_image[..., 0].astype(np.float64))
        negatives = [
            rows if ids is None else rows[ids != index]
            for rows, ids in zip(queues, past, strict=True)
        ]
        losses.append(info_nce(unit(of_query[1])[0], unit(of_key[1])[0], negatives[0]))
        for cell, embedding in zip(of_query[0], unit(of_query[2]), strict=True):
            nearest = np.argmax([cell @ other for other in of_key[0]])
            dense_losses.append(info_nce(embedding, unit(of_key[2])[nearest], negatives[1]))
        for rows, keys in zip(entered, of_key[1:], strict=True):
            rows.append(unit(keys.mean(0, keepdims=True))[0])
    return np.mean(losses), np.mean(dense_losses), entered


@pytest.mark.slow
@pytest.mark.parametrize("mask_own_keys", [False, True])
def test_dense_cl_contrasts_each_cell_with_its_nearest(mask_own_keys):
    random = np.random.default_rng(1)
    images = tuple(random.normal(size=(2, N, 4, 6, 1)).astype(np.float32))
    batch = Batch(images, BATCH.index)
    method = DenseCL(
        Patches(),
        MLP((4,)),
        MLP((3,)),
        dense_weight=0.3,
        queue_size=24,
        momentum=0.9,
        mask_own_keys=mask_own_keys,
    )
    params, state = jax.jit(method.init)(KEY, batch)
    slow = jax.tree.map(lambda x: x + 0.2 * random.normal(size=x.shape), params)
    state = dataclasses.replace(state, target_params=jax.tree.map(jnp.float32, slow))
    if mask_own_keys:
        queues = {
            name: dataclasses.replace(getattr(state, name), ids=jnp.arange(24) % 9)
            for name in ("queue", "dense_queue")
        }
        state = dataclasses.replace(state, **queues)

    def loss(params):
        return method.loss(params, state, batch, key=KEY)

    (found, (after, metrics)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    whole, dense, entered = dense_contrast(method, params, state, batch)
    np.testing.assert_allclose(found, 0.7 * whole + 0.3 * dense, rtol=1e-5)
    np.testing.assert_allclose(metrics["dense_loss"], dense, rtol=1e-5)
    for queue, rows in zip((after.queue, after.dense_queue), entered, strict=True):
        np.testing.assert_allclose(queue.embeddings[:N], rows, atol=1e-6)
        np.testing.assert_array_equal(queue.cursor, N)
        if mask_own_keys:
            np.testing.assert_array_equal(queue.ids[:N], batch.index)

    def along(direction, size):
        moved = jax.tree.map(lambda x, d: np.asarray(x, np.float64) + size * d, params, direction)
        whole, dense, _ = dense_contrast(method, moved, state, batch)
        return 0.7 * whole + 0.3 * dense

    for _ in range(3):  # matches are constant within so small a step
        direction = jax.tree.map(lambda x: random.normal(size=x.shape), params)
        slope = (along(direction, 1e-6) - along(direction, -1e-6)) / 2e-6
        parts = jax.tree.map(
            lambda g, d: np.vdot(np.asarray(g, np.float64), d), gradient, direction
        )
        np.testing.assert_allclose(sum(jax.tree.leaves(parts)), slope, rtol=1e-4)

    moved = method.end_step(params, after, progress=0.0).target_params["dense_projector"]
    kept = slow["dense_projector"]["dense0"]["kernel"]
    online = params["dense_projector"]["dense0"]["kernel"]
    np.testing.assert_allclose(moved["dense0"]["kernel"], 0.9 * kept + 0.1 * online, atol=1e-6)


CROPS = tuple(
    jax.random.uniform(jax.random.fold_in(KEY, number), (N, size, size, 1))
    for number, size in enumerate((16, 16, 8, 8, 8))
)


@pytest.mark.slow
@pytest.mark.parametrize("make", [SwAV, DINO])
def test_the_encoder_runs_once_a_size(make):
    calls = []

    class Watched(SmallCNN):
        def __call__(self, images, **options):
            calls.append(images.shape)
            return super().__call__(images, **options)

    method = make(Watched((4, 8)), MLP((6,)), prototypes=7)
    batch = Batch(CROPS)
    params, state = jax.jit(method.init)(KEY, batch)
    calls.clear()
    embeddings, _ = jax.jit(method.represent)(params, state, batch, key=KEY)
    student = [(2 * N, 16, 16, 1), (3 * N, 8, 8, 1)]
    assert calls == student + ([] if make is SwAV else [(2 * N, 16, 16, 1)])
    assert len(embeddings) == (5 if make is SwAV else 7)
    plain = dataclasses.replace(method, encoder=SmallCNN((4, 8)))
    losses = jax.jit(plain.loss)(params, state, batch, key=KEY)
    assert np.isfinite(losses[0])


@pytest.mark.parametrize(
    "method",
    [SwAV(MLP((4,)), prototypes=7, frozen=0.1), DINO(MLP((4,)), prototypes=7, frozen=0.1)],
    ids=["swav", "dino"],
)
def test_prototypes_stay_at_first_and_have_their_lengths(method):
    params, _ = jax.jit(method.init)(KEY, BATCH)
    moved = jax.tree.map(lambda x: 3 * x + 1, params)
    kept = method.constrain(moved, params, progress=0.05)
    np.testing.assert_array_equal(kept["prototypes"]["kernel"], params["prototypes"]["kernel"])
    np.testing.assert_array_equal(
        kept["encoder"]["dense0"]["kernel"], moved["encoder"]["dense0"]["kernel"]
    )
    after = method.constrain(moved, params, progress=0.1)["prototypes"]["kernel"]
    wanted = np.asarray(moved["prototypes"]["kernel"])
    if isinstance(method, SwAV):
        wanted = unit(wanted.T).T
    np.testing.assert_allclose(after, wanted, rtol=1e-6)


@pytest.mark.slow
def test_swavs_queue_takes_part_from_its_time_on():
    with_queue = SwAV(MLP((4,)), prototypes=7, queue_size=24, queue_from=0.5)
    without = dataclasses.replace(with_queue, queue_size=0)
    params, state = jax.jit(with_queue.init)(KEY, BATCH)
    _, bare = jax.jit(without.init)(KEY, BATCH)

    def loss(method, state, progress):
        return float(jax.jit(method.loss)(params, state, BATCH, key=KEY, progress=progress)[0])

    assert loss(with_queue, state, 0.49) == pytest.approx(loss(without, bare, 0.49), rel=1e-6)
    assert loss(with_queue, state, 0.5) != pytest.approx(loss(without, bare, 0.5), rel=1e-4)


@pytest.mark.parametrize(
    ("method", "views", "message"),
    [
        (SwAV(MLP((4,))), CROPS[:1], "SwAV needs at least 2 views; the batch has 1"),
        (SwAV(MLP((4,))), CROPS[1:3], "SwAV: the first 2 views differ in size"),
        (DINO(MLP((4,))), (CROPS[2], CROPS[3], CROPS[0]), "DINO: views of full size come first"),
        (DenseCL(Patches()), CROPS[:3], "DenseCL contrasts two views; the batch has 3"),
        (DenseCL(Patches()), (np.ones((N, 2, 2, 1)),) * 2, "feature map, which is 1x1 here"),
        (DenseCL(MLP((4,))), VIEWS, "MLP keeps no feature map: choose ConvNeXt, ResNet"),
        (JointEmbedding(MLP((4,))), CROPS[:1], "JointEmbedding compares views; the batch has one"),
        (
            JointEmbedding(MLP((4,))),
            (*VIEWS, VIEWS[0]),
            "VICReg compares two views; the batch has 3",
        ),
    ],
)
def test_views_that_do_not_fit_are_named(method, views, message):
    with pytest.raises(ValueError, match=message):
        method.loss(*method.init(KEY, Batch(views)), Batch(views), key=KEY)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SwAV(MLP((4,)), frozen=1.5), "SwAV: frozen must be 0 to 1, got 1.5"),
        (lambda: SwAV(MLP((4,)), queue_size=-1), "SwAV: queue_size must be 0 .none. or more"),
        (
            lambda: DenseCL(SmallCNN(), dense_weight=1.5),
            "DenseCL: dense_weight must be 0 to 1, got 1.5",
        ),
        (lambda: DenseCL(SmallCNN(), temperature=0.0), "DenseCL: temperature must be positive"),
        (
            lambda: DenseCL(SmallCNN(), queue_size=3).check(batch_size=4, examples=11),
            "queue_size 3 is smaller than batch_size 4",
        ),
        (lambda: DINO(MLP((4,)), prototypes=0), "DINO: prototypes must be positive"),
        (
            lambda: InstanceDiscrimination(MLP((4,)), bank_size=10, negatives=11),
            "negatives is 11, expected 1 to bank_size 10",
        ),
        (
            lambda: InstanceDiscrimination(MLP((4,)), bank_size=10).check(
                batch_size=4, examples=11
            ),
            "bank_size 10 is smaller than the data set .11 examples.",
        ),
        (
            lambda: SwAV(MLP((4,)), queue_size=3).check(batch_size=4, examples=11),
            "queue_size 3 is smaller than batch_size 4",
        ),
    ],
)
def test_wrong_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_fewer_examples_than_prototypes_are_said():
    (notice,) = SwAV(MLP((4,)), prototypes=300, queue_size=40).check(batch_size=32, examples=99)
    assert "300 prototypes share 72 examples (batch and queue)" in notice
    assert SwAV(MLP((4,)), prototypes=70, queue_size=40).check(batch_size=32, examples=99) == []


def test_an_index_outside_the_bank_gives_no_number():
    """Which the trainer takes for divergence; nothing is written into the bank for it."""
    method = InstanceDiscrimination(MLP((4,)), bank_size=20)
    outside = dataclasses.replace(BATCH, index=jnp.arange(N) + 19)
    params, state = jax.jit(method.init)(KEY, outside)
    loss, (after, _) = jax.jit(method.loss)(params, state, outside, key=KEY)
    assert jnp.isnan(loss)
    np.testing.assert_array_equal(after.bank.embeddings[:19], state.bank.embeddings[:19])


def test_an_index_outside_the_bank_is_refused_before_anything_is_compiled():
    method = InstanceDiscrimination(MLP((4,)), bank_size=20)
    batch = Batch((np.ones((2, 3), np.float32),), np.array([3, 20]))
    with pytest.raises(ValueError, match=r"batch\.index has 20, expected 0 to 19"):
        method.init(jax.random.key(0), batch)


@pytest.mark.slow
def test_cola_tells_its_positive_by_a_learned_product():
    method = COLA(MLP((6,)), MLP((4,)))
    params, state = jax.jit(method.init)(KEY, BATCH)
    (first, second), _ = jax.jit(method.represent)(params, state, BATCH, key=KEY)
    scores = np.asarray(first, np.float64) @ params["bilinear"]["kernel"] @ np.asarray(second).T
    loss, _ = jax.jit(method.loss)(params, state, BATCH, key=KEY)
    np.testing.assert_allclose(loss, -np.diag(log_softmax(scores)).mean(), rtol=1e-5)
    cosine = COLA(MLP((6,)), MLP((4,)), likeness="cosine", temperature=0.3)
    _, (first, second), loss, _, _ = step(cosine)
    wanted = -np.diag(log_softmax(first @ second.T / 0.3)).mean()
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
