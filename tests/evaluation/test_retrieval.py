import os
from pathlib import Path

import numpy as np
import pytest

from jaxcl.evaluation import (
    knn_accuracy,
    mean_average_precision_at_r,
    mean_reciprocal_rank,
    recall_at_k,
)

ROOT = Path(__file__).parents[2]
SHARED_DATA = Path(os.environ.get("JAXCL_SHARED_DATA", ROOT.parent / "shared" / "data"))


def noisy_pair(count=120, width=12, noise=0.8, seed=0):
    generator = np.random.default_rng(seed)
    gallery = generator.standard_normal((count, width))
    return gallery + noise * generator.standard_normal((count, width)), gallery


def loop_recall(queries, gallery, query_ids, gallery_ids, k):
    hits = 0
    for query, query_id in zip(queries, query_ids, strict=True):
        cosines = [query @ g / np.linalg.norm(query) / np.linalg.norm(g) for g in gallery]
        hits += any(gallery_ids[j] == query_id for j in np.argsort(cosines)[::-1][:k])
    return hits / len(queries)


@pytest.mark.parametrize("block_size", [17, 2048])
def test_paired_recall_is_the_loop(block_size):
    queries, gallery = noisy_pair()
    rows = np.arange(len(queries))
    expected = {k: loop_recall(queries, gallery, rows, rows, k) for k in (1, 5, 10)}
    assert recall_at_k(queries, gallery, block_size=block_size) == expected
    assert 0.2 < expected[1] < expected[5] < expected[10] < 1


def test_any_equal_id_counts():
    queries, gallery = noisy_pair()
    query_ids, gallery_ids = np.arange(90) % 30, np.arange(120) % 30
    found = recall_at_k(
        queries[:90], gallery, query_ids=query_ids, gallery_ids=gallery_ids, ks=(1, 3)
    )
    for k in (1, 3):
        assert found[k] == loop_recall(queries[:90], gallery, query_ids, gallery_ids, k)
    names = recall_at_k(
        queries[:90],
        gallery,
        query_ids=[f"n{i}" for i in query_ids],
        gallery_ids=[f"n{i}" for i in gallery_ids],
        ks=(1, 3),
    )
    assert names == found


def test_centring_is_subtracting_means():
    queries, gallery = noisy_pair()
    queries, gallery = queries + 3, gallery + np.linspace(0, 9, 12)
    for centre, axis in (("rows", 1), ("columns", 0)):
        expected = recall_at_k(
            queries - queries.mean(axis=axis, keepdims=True),
            gallery - gallery.mean(axis=axis, keepdims=True),
        )
        assert recall_at_k(queries, gallery, centre=centre) == expected
    plain = recall_at_k(queries, gallery)
    assert recall_at_k(queries, gallery, centre="columns")[1] > plain[1]


def test_collapsed_features_retrieve_at_chance():
    equal = np.ones((50, 4))
    assert recall_at_k(equal, equal, ks=(1, 10, 50)) == {1: 0.02, 10: 0.2, 50: 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gallery": np.eye(4)[:3]}, "4 queries and 3 gallery rows do not pair up"),
        ({"ks": (1, 5)}, "k is 5, but there are only 4 gallery rows"),
        ({"ks": ()}, "ks is empty"),
        ({"query_ids": [0, 1, 2, 3]}, "belong together"),
        ({"query_ids": [0, 1, 2, 9], "gallery_ids": [0, 1, 2, 3]}, "1 of 4 query_ids"),
        ({"query_ids": [0], "gallery_ids": [0, 1, 2, 3]}, r"query_ids has shape \(1,\)"),
        ({"centre": "mean"}, "centre is 'mean'"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"queries": np.eye(4), "gallery": np.eye(4), "ks": (1,), **change}
    with pytest.raises(ValueError, match=message):
        recall_at_k(**arguments)


@pytest.mark.slow
@pytest.mark.skipif(
    not (SHARED_DATA / "emoji.npz").exists(),
    reason="needs emoji.npz (set JAXCL_SHARED_DATA to its folder)",
)
def test_emoji_raw_pixels_reach_their_known_figures():
    with np.load(SHARED_DATA / "emoji.npz") as emoji:
        # To 32x32 by the mean of 2x2 pixels, flattened.
        google, twitter = (
            emoji[studio].reshape(-1, 32, 2, 32, 2, 3).mean(axis=(2, 4)).reshape(1911, -1) / 255
            for studio in ("google", "twitter")
        )
        labels = np.unique(emoji["subcategory"], return_inverse=True)[1]
    found = recall_at_k(google, twitter, centre="rows")
    assert round(found[1], 3) == 0.325
    centred = [pixels - pixels.mean(axis=1, keepdims=True) for pixels in (google, twitter)]
    accuracy = knn_accuracy(centred[0], labels, centred[1], labels, k=5, weights="uniform")
    assert round(accuracy, 3) == 0.349


def loop_precision(features, labels):
    """As its definition is written."""
    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    scores = []
    for i, label in enumerate(labels):
        others = [j for j in range(len(labels)) if j != i]
        wanted = sum(labels[j] == label for j in others)
        if not wanted:
            continue
        nearest = sorted(others, key=lambda j: -(rows[i] @ rows[j]))[:wanted]
        hits = [labels[j] == label for j in nearest]
        scores.append(sum(sum(hits[: k + 1]) / (k + 1) for k in range(wanted) if hits[k]) / wanted)
    return np.mean(scores)


@pytest.mark.parametrize("block_size", [17, 2048])
def test_mean_average_precision_is_the_loop(block_size):
    generator = np.random.default_rng(0)
    labels = np.append(generator.integers(0, 7, 80), 99)  # one is alone in its class
    features = generator.standard_normal((81, 8)) + 3 * np.eye(100)[labels][:, :8]
    found = mean_average_precision_at_r(features, labels, block_size=block_size)
    np.testing.assert_allclose(found, loop_precision(features, labels), rtol=1e-12)
    assert 0.1 < found < 0.9


def test_without_two_of_a_class_there_is_no_precision():
    with pytest.raises(ValueError, match="no class has two rows"):
        mean_average_precision_at_r(np.eye(3), [0, 1, 2])


def test_mean_reciprocal_rank_is_the_loop():
    random = np.random.default_rng(5)
    queries, gallery = random.normal(size=(40, 6)), random.normal(size=(70, 6))
    gallery[30] = gallery[3]  # equal similarities: the lower row first
    ids = random.integers(0, 12, 40), np.concatenate([np.arange(12), random.integers(0, 12, 58)])
    expected = []
    for query, own in zip(queries, ids[0], strict=True):
        cosines = gallery @ query / np.linalg.norm(gallery, axis=1)
        order = np.argsort(-cosines.astype(np.float32), kind="stable")
        expected.append(1 / (1 + np.flatnonzero(ids[1][order] == own)[0]))
    for block_size in (7, 512):
        found = mean_reciprocal_rank(
            queries, gallery, query_ids=ids[0], gallery_ids=ids[1], block_size=block_size
        )
        np.testing.assert_allclose(found, np.mean(expected), rtol=1e-6)
    assert mean_reciprocal_rank(np.ones((5, 3)), np.ones((5, 3))) == np.mean(1 / np.arange(1, 6))


@pytest.mark.parametrize(("count", "width", "block_size"), [(50, 384, 7), (129, 64, 128)])
def test_equal_rows_are_ranked_by_their_number_in_any_tile(count, width, block_size):
    rows = np.tile(np.random.default_rng(0).normal(size=width), (count, 1))
    found = mean_reciprocal_rank(rows, rows, block_size=block_size)
    np.testing.assert_allclose(found, np.mean(1 / np.arange(1, count + 1)))
