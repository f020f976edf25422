"""Steps of methods that no reference trajectory has, against their definitions in NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl.encoders import MLP, SmallCNN
from jaxcl.methods import (
    DINO,
    Batch,
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
    params, state = method.init(KEY, batch)
    embeddings, _ = method.represent(params, state, batch, key=KEY)
    loss, (after, metrics) = method.loss(params, state, batch, key=KEY, progress=0.5)
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
    again = method.loss(*method.init(KEY, BATCH)[:1], after, BATCH, key=KEY)[1][0]
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
    params, _ = method.init(KEY, BATCH)
    kernel = np.asarray(params["encoder"]["dense0"]["kernel"], np.float64)
    z0, z1 = (view @ kernel for view in VIEWS)  # the target starts equal
    np.testing.assert_allclose(loss, np.square((z0 - z1) / 2).mean(), rtol=1e-5)
    moved = method.end_step(jax.tree.map(lambda x: x + 1, params), after, progress=0.5)
    if momentum is None:
        assert moved.target is state.target is None
    else:
        found = moved.target.params["encoder"]["dense0"]["kernel"]
        np.testing.assert_allclose(found, kernel + 0.1, atol=1e-6)


CROPS = tuple(
    jax.random.uniform(jax.random.fold_in(KEY, number), (N, size, size, 1))
    for number, size in enumerate((16, 16, 8, 8, 8))
)


@pytest.mark.parametrize("make", [SwAV, DINO])
def test_the_encoder_runs_once_a_size(make):
    calls = []

    class Watched(SmallCNN):
        def __call__(self, images, **options):
            calls.append(images.shape)
            return super().__call__(images, **options)

    method = make(Watched((4, 8)), MLP((6,)), prototypes=7)
    batch = Batch(CROPS)
    params, state = method.init(KEY, batch)
    calls.clear()
    embeddings, _ = method.represent(params, state, batch, key=KEY)
    student = [(2 * N, 16, 16, 1), (3 * N, 8, 8, 1)]
    assert calls == student + ([] if make is SwAV else [(2 * N, 16, 16, 1)])
    assert len(embeddings) == (5 if make is SwAV else 7)
    plain = dataclasses.replace(method, encoder=SmallCNN((4, 8)))
    losses = plain.loss(params, state, batch, key=KEY)
    assert np.isfinite(losses[0])


@pytest.mark.parametrize(
    "method",
    [SwAV(MLP((4,)), prototypes=7, frozen=0.1), DINO(MLP((4,)), prototypes=7, frozen=0.1)],
    ids=["swav", "dino"],
)
def test_prototypes_stay_at_first_and_have_their_lengths(method):
    params, _ = method.init(KEY, BATCH)
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


def test_swavs_queue_takes_part_from_its_time_on():
    with_queue = SwAV(MLP((4,)), prototypes=7, queue_size=24, queue_from=0.5)
    without = dataclasses.replace(with_queue, queue_size=0)
    params, state = with_queue.init(KEY, BATCH)
    _, bare = without.init(KEY, BATCH)

    def loss(method, state, progress):
        return float(method.loss(params, state, BATCH, key=KEY, progress=progress)[0])

    assert loss(with_queue, state, 0.49) == loss(without, bare, 0.49)
    assert loss(with_queue, state, 0.5) != loss(without, bare, 0.5)


@pytest.mark.parametrize(
    ("method", "views", "message"),
    [
        (SwAV(MLP((4,))), CROPS[:1], "SwAV needs at least 2 views; the batch has 1"),
        (SwAV(MLP((4,))), CROPS[1:3], "SwAV: the first 2 views differ in size"),
        (DINO(MLP((4,))), (CROPS[2], CROPS[3], CROPS[0]), "DINO: views of full size come first"),
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
    outside = dataclasses.replace(BATCH, index=np.arange(N) + 19)
    params, state = method.init(KEY, outside)
    loss, (after, _) = method.loss(params, state, outside, key=KEY)
    assert jnp.isnan(loss)
    np.testing.assert_array_equal(after.bank.embeddings[:19], state.bank.embeddings[:19])
