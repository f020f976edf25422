"""Miners against their definitions written as loops, and in the losses that take their masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl.losses.miners import (
    distance_weighted_pairs,
    hard_pairs,
    mined_triplets,
    multi_similarity_pairs,
    semi_hard_pairs,
)
from jaxcl.losses.pairwise import PairMasks, label_pairs
from jaxcl.losses.triplet import triplet
from jaxcl.testing import check_device_invariance

# Loops over many choices; the losses that take the pairs are in the fast tests.
pytestmark = pytest.mark.slow

N, D = 16, 3
RANDOM = np.random.default_rng(1)
ROWS = RANDOM.normal(size=(N, D)).astype(np.float32)
LABELS = np.array([3, 7, 7, 3, 1, 2, 4, 4, 3, 8, 9, 9, 2, 1, 6, 2])  # 8 and 6 have one row each
WHERE = np.array([1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 1, 0, 1, 1, 0, 1], bool)
KEY = jax.random.key(0)
MINERS = {
    "label": lambda rows, labels, **options: label_pairs(labels, **options),
    "hard": hard_pairs,
    "semi_hard": functools.partial(semi_hard_pairs, KEY),
    "semi_hard margin": functools.partial(semi_hard_pairs, KEY, margin=1.0),
    "distance_weighted": functools.partial(distance_weighted_pairs, KEY),
    "multi_similarity": multi_similarity_pairs,
}
WHERES = {"all": np.ones(N, bool), "some": WHERE}


def distance_of(name, x, y):
    if name == "cosine":
        return 1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    return np.sum((x - y) ** 2) ** (0.5 if name == "euclidean" else 1)


def of_anchor(i, where):
    """Anchor i's positives and negatives."""
    others = [j for j in range(N) if j != i and where[i] and where[j]]
    return (
        [j for j in others if LABELS[j] == LABELS[i]],
        [j for j in others if LABELS[j] != LABELS[i]],
    )


def chosen(mask):
    return [set(np.flatnonzero(row).tolist()) for row in np.asarray(mask)]


@pytest.mark.parametrize("where", WHERES.values(), ids=WHERES)
def test_label_pairs(where):
    positives, negatives = map(chosen, label_pairs(LABELS, where=where))
    for i in range(N):
        assert (positives[i], negatives[i]) == tuple(map(set, of_anchor(i, where)))


@pytest.mark.parametrize("where", WHERES.values(), ids=WHERES)
@pytest.mark.parametrize("distance", ["euclidean", "squared_euclidean", "cosine"])
def test_hard_pairs(where, distance):
    found = hard_pairs(ROWS, LABELS, distance=distance, where=where)
    positives, negatives = map(chosen, found)
    for i in range(N):
        to = [distance_of(distance, ROWS[i], row) for row in ROWS.astype(np.float64)]
        near, far = of_anchor(i, where)
        assert positives[i] == ({max(near, key=to.__getitem__)} if near else set())
        assert negatives[i] == ({min(far, key=to.__getitem__)} if far else set())


@pytest.mark.parametrize("where", WHERES.values(), ids=WHERES)
@pytest.mark.parametrize(
    "distance",
    [
        "squared_euclidean",
        pytest.param("euclidean", marks=pytest.mark.slow),
        pytest.param("cosine", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("margin", [None, 0.3])
def test_semi_hard_pairs(where, distance, margin):
    options = {"margin": margin, "distance": distance, "where": where}
    positives, negatives = map(chosen, semi_hard_pairs(KEY, ROWS, LABELS, **options))
    without = 0
    for i in range(N):
        to = [distance_of(distance, ROWS[i], row) for row in ROWS.astype(np.float64)]
        near, far = of_anchor(i, where)
        assert len(positives[i]) == bool(near)
        assert positives[i] <= set(near)
        band = []
        for positive in positives[i]:
            limit = np.inf if margin is None else to[positive] + margin
            band = [j for j in far if to[positive] < to[j] < limit]
        assert negatives[i] == ({min(band, key=to.__getitem__)} if band else set())
        without += bool(near) and not band
    if margin is not None:
        assert without  # the margin is seen


def drawn(miner, draws):
    """How often each pair was drawn: two arrays [N, N]."""
    found = jax.jit(jax.vmap(miner))(jax.random.split(jax.random.key(5), draws))
    return [np.mean(mask, axis=0) for mask in found]


def test_positives_are_drawn_evenly():
    draws = 4000
    for miner in (semi_hard_pairs, distance_weighted_pairs):
        positives, _ = drawn(lambda key, miner=miner: miner(key, ROWS, LABELS), draws)
        for i in range(N):
            near = of_anchor(i, WHERES["all"])[0]
            np.testing.assert_allclose(np.sum(positives[i]), bool(near), rtol=1e-6)
            for j in near:
                assert abs(positives[i, j] - 1 / len(near)) < 4 * 0.5 / draws**0.5


def test_negatives_are_drawn_by_distance():
    width, draws = 8, 4000
    rows = RANDOM.normal(size=(N, width)) + 0.7  # so that few are beyond 1.4
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    options = {"smallest": 0.8, "largest": 1.3}
    _, found = drawn(lambda key: distance_weighted_pairs(key, rows, LABELS, **options), draws)
    beyond = within = 0
    for i in range(N):
        weights = np.zeros(N)
        for j in of_anchor(i, WHERES["all"])[1]:
            true = np.linalg.norm(unit[i] - unit[j])
            distance = max(true, 0.8)
            density = distance ** (width - 2) * (1 - distance**2 / 4) ** ((width - 3) / 2)
            weights[j] = true <= 1.3 and 1 / density
            beyond += true > 1.3
            within += true < 0.8
        wanted = weights / weights.sum()
        # Four standard deviations of a share, and one draw.
        assert np.all(np.abs(found[i] - wanted) <= 4 * np.sqrt(wanted / draws) + 1 / draws)
    assert beyond
    assert within


def test_wide_embeddings_are_drawn_from():
    """In 512 dimensions the weights themselves would be beyond float32."""
    rows = RANDOM.normal(size=(N, 512)) + 1.0
    _, negatives = distance_weighted_pairs(KEY, rows, LABELS)
    assert np.all(np.sum(negatives, axis=1) == 1)


@pytest.mark.parametrize("where", WHERES.values(), ids=WHERES)
def test_multi_similarity_pairs(where):
    positives, negatives = map(
        chosen, multi_similarity_pairs(ROWS, LABELS, epsilon=0.2, where=where)
    )
    easy = 0
    for i in range(N):
        to = [1 - distance_of("cosine", ROWS[i], row) for row in ROWS.astype(np.float64)]
        near, far = of_anchor(i, where)
        least = min((to[j] for j in near), default=np.inf)
        most = max((to[j] for j in far), default=-np.inf)
        assert positives[i] == {j for j in near if to[j] < most + 0.2}
        assert negatives[i] == {j for j in far if to[j] > least - 0.2}
        easy += len(near) + len(far) - len(positives[i]) - len(negatives[i])
    assert easy


@pytest.mark.parametrize("name", MINERS)
def test_masked_rows_are_in_no_pair_even_as_nan(name):
    poisoned = np.where(WHERE[:, None], ROWS, np.nan)
    for mask in MINERS[name](poisoned, LABELS, where=WHERE):
        assert not np.any(mask[~WHERE])
        assert not np.any(mask[:, ~WHERE])
    if name in ("hard", "multi_similarity"):  # which draw nothing
        found = MINERS[name](poisoned, LABELS, where=WHERE)
        wanted = MINERS[name](ROWS[WHERE], LABELS[WHERE])
        for mask, expected in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(mask[WHERE][:, WHERE], expected)


@pytest.mark.parametrize("name", MINERS)
def test_devices_mine_what_one_does(name):
    """Under vmap on 8 and shard_map on 4."""
    wanted = MINERS[name](ROWS, LABELS, where=WHERE)

    def local(rows, labels, where):
        return MINERS[name](rows, labels, where=where, axis_name="d")

    split = [x.reshape(8, 2, *x.shape[1:]) for x in (ROWS, LABELS, WHERE)]
    mapped = jax.vmap(local, axis_name="d")(*split)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("d",))
    spec = jax.sharding.PartitionSpec("d")
    sharded = jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    sharded = jax.jit(sharded)(ROWS, LABELS, WHERE)
    for found in (mapped, sharded):
        for mask, expected in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(mask.reshape(N, N), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MINERS if name != "label"])
def test_extremes_give_pairs_still(name):
    for rows in (np.zeros_like(ROWS), np.ones_like(ROWS), ROWS * 1e4, ROWS * 1e-4):
        found = jax.jit(MINERS[name])(rows.astype(jnp.bfloat16), LABELS)
        labelled = label_pairs(LABELS)
        for mask, possible in zip(found, labelled, strict=True):
            assert not np.any(mask & ~possible)
        if name == "hard":
            assert np.array_equal(np.any(found.positives, 1), np.any(labelled.positives, 1))
            assert np.all(np.sum(found.negatives, 1) == 1)


def mined_loss(rows, labels, where, *, axis_name=None):
    pairs = hard_pairs(rows, labels, axis_name=axis_name, where=where)
    mined = mined_triplets(rows, pairs, axis_name=axis_name)
    return triplet(rows, mined.positive, mined.negative, margin=0.5, where=mined.where)


def test_batch_hard_triplet():
    """Eq. 5 of Hermans et al., and its gradient by finite differences."""

    def slow(rows):
        losses = []
        for i in range(N):
            to = [distance_of("euclidean", rows[i], row) for row in rows]
            near, far = of_anchor(i, WHERE)
            hinge = 0
            if near and far:
                hinge = max(0, 0.5 + max(to[j] for j in near) - min(to[j] for j in far))
            losses.append(hinge)
        return np.array(losses)

    poisoned = jnp.where(WHERE[:, None], ROWS, jnp.nan)
    np.testing.assert_allclose(
        mined_loss(poisoned, LABELS, WHERE), slow(ROWS.astype(np.float64)), rtol=1e-5, atol=1e-6
    )
    gradient = jax.grad(lambda rows: jnp.mean(mined_loss(rows, LABELS, WHERE)))(poisoned)
    direction = RANDOM.normal(size=ROWS.shape)
    ahead, behind = (np.mean(slow(ROWS + step * direction)) for step in (1e-6, -1e-6))
    np.testing.assert_allclose(np.sum(gradient * direction), (ahead - behind) / 2e-6, rtol=1e-4)
    assert not np.any(gradient[~WHERE])


def test_batch_hard_triplet_across_devices():
    arrays = [ROWS, LABELS, WHERE]
    check_device_invariance(mined_loss, *arrays, mapping=["vmap"], devices=[2, 8])
    check_device_invariance(mined_loss, *arrays, mapping=["pmap", "shard_map"], devices=[4])


@pytest.mark.slow
def test_batch_hard_triplet_on_every_mapping_and_number_of_devices():
    check_device_invariance(mined_loss, ROWS, LABELS, WHERE)


def test_anchors_without_a_triplet_are_said():
    positives = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
    negatives = np.array([[0, 0, 1], [0, 0, 0], [1, 1, 0]], bool)
    pairs = PairMasks(positives, negatives)
    mined = mined_triplets(jnp.arange(6.0).reshape(3, 2), pairs)
    np.testing.assert_array_equal(mined.where, [True, False, False])
    np.testing.assert_array_equal(mined.positive[0], [2, 3])
    np.testing.assert_array_equal(mined.negative[0], [4, 5])


def test_older_keys_are_taken():
    masks = semi_hard_pairs(jax.random.PRNGKey(0), ROWS, LABELS)
    for mask, expected in zip(masks, semi_hard_pairs(KEY, ROWS, LABELS), strict=True):
        np.testing.assert_array_equal(mask, expected)
