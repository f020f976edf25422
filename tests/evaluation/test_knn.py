import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from jaxcl.evaluation import knn_accuracy, knn_classify, knn_scores, nearest_neighbours
from jaxcl.evaluation.knn import _nothing, _with_tile

DIGITS = load_digits()
TRAIN, TEST = DIGITS.data[:1400], DIGITS.data[1400:]
TRAIN_LABELS, TEST_LABELS = DIGITS.target[:1400], DIGITS.target[1400:]


def random_features(count, width=16, seed=0):
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def test_neighbours_are_scikit_learns():
    indices, similarities = nearest_neighbours(TRAIN, TEST, 10)
    fitted = NearestNeighbors(n_neighbors=10, metric="cosine").fit(TRAIN)
    distances, expected = fitted.kneighbors(TEST)
    np.testing.assert_allclose(similarities, 1 - distances, atol=1e-6)
    assert np.mean(indices == expected) > 0.999  # the rest are ties within float32
    np.testing.assert_array_equal(np.sort(indices[:50]), np.sort(expected[:50]))


@pytest.mark.parametrize("k", [1, 5, 20])
def test_uniform_votes_are_scikit_learns(k):
    # Random reals instead of digits: no ties in distance, on whose order the two may differ.
    features, labels = random_features(600), np.arange(600) % 7
    queries = random_features(200, seed=1)
    expected = KNeighborsClassifier(k, metric="cosine").fit(features, labels)
    scores = knn_scores(features, labels, queries, k=k, weights="uniform")
    np.testing.assert_allclose(scores, expected.predict_proba(queries), atol=1e-12)
    found = knn_classify(features, labels, queries, k=k, weights="uniform")
    np.testing.assert_array_equal(found, expected.predict(queries))


def test_distance_weights_are_scikit_learns():
    temperature = 0.07
    expected = KNeighborsClassifier(
        20, metric="cosine", weights=lambda distances: np.exp((1 - distances) / temperature)
    ).fit(TRAIN, TRAIN_LABELS)
    scores = knn_scores(TRAIN, TRAIN_LABELS, TEST, k=20, temperature=temperature)
    # A similarity is right to about 1e-7, a vote to that over the temperature.
    np.testing.assert_allclose(scores, expected.predict_proba(TEST), atol=1e-5)
    accuracy = knn_accuracy(TRAIN, TRAIN_LABELS, TEST, TEST_LABELS, temperature=temperature)
    assert accuracy == expected.score(TEST, TEST_LABELS)


@pytest.mark.parametrize("block_size", [1, 7, 64, 150, 151])
def test_block_size_changes_nothing(block_size):
    features, queries = random_features(150), random_features(37, seed=1)
    whole_indices, whole_similarities = nearest_neighbours(features, queries, 12)
    indices, similarities = nearest_neighbours(features, queries, 12, block_size=block_size)
    np.testing.assert_array_equal(indices, whole_indices)
    np.testing.assert_allclose(similarities, whole_similarities, atol=3e-7)


@pytest.mark.parametrize("block_size", [3, 2048])
def test_equal_similarities_keep_the_lower_row_first(block_size):
    features = np.tile(
        np.eye(2, dtype=np.float32), (5, 1)
    )  # rows 0, 2, 4 … and 1, 3, 5 … are equal
    indices, _ = nearest_neighbours(features, np.eye(2), 7, block_size=block_size)
    np.testing.assert_array_equal(indices, [[0, 2, 4, 6, 8, 1, 3], [1, 3, 5, 7, 9, 0, 2]])


def test_of_equal_votes_the_lower_class_wins():
    features = np.eye(3)
    assert knn_classify(features, [5, 2, 9], [[1.0, 1.0, 1.0]], k=3, weights="uniform") == [2]


@pytest.mark.parametrize("block_size", [8, 2048])
def test_exclude_self_removes_the_diagonal_alone(block_size):
    features = np.concatenate([random_features(30)] * 2)  # row i + 30 is the twin of row i
    indices, similarities = nearest_neighbours(
        features, features, 59, exclude_self=True, block_size=block_size
    )
    np.testing.assert_array_equal(indices[:, 0], (np.arange(60) + 30) % 60)
    np.testing.assert_allclose(similarities[:, 0], 1, atol=1e-6)
    everyone_else = [sorted(set(range(60)) - {i}) for i in range(60)]
    np.testing.assert_array_equal(np.sort(indices), everyone_else)


def test_length_dtype_and_array_type_do_not_matter():
    features, queries = random_features(50), random_features(20, seed=1)
    expected, _ = nearest_neighbours(features, queries, 5)
    scales = np.geomspace(1e-30, 1e30, 50)[:, None]
    scaled, _ = nearest_neighbours(features.astype(np.float64) * scales, jnp.asarray(queries), 5)
    np.testing.assert_array_equal(scaled, expected)


def test_a_zero_row_is_like_nothing_and_a_small_temperature_does_not_overflow():
    features = np.array([[0.0, 0.0], [1.0, 0.1], [-1.0, 0.0]])
    indices, similarities = nearest_neighbours(features, [[1.0, 0.0]], 3)
    np.testing.assert_array_equal(indices, [[1, 0, 2]])
    assert similarities[0, 1] == 0
    scores = knn_scores(features, [0, 1, 1], [[1.0, 0.0]], k=3, temperature=1e-4)
    np.testing.assert_allclose(scores, [[0, 1]])


def test_memory_grows_with_the_block_not_with_queries_times_features():
    width, k = 512, 20

    def temporaries(block):
        rows = jax.ShapeDtypeStruct((block, width), jnp.float32)
        numbers = jax.ShapeDtypeStruct((block,), jnp.int32)
        one = jax.ShapeDtypeStruct((), jnp.int32)
        best = jax.eval_shape(lambda: _nothing(block, k))
        compiled = _with_tile.lower(best, rows, numbers, rows, one, one).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    # A few [block, block + k] arrays, however many features there are.
    assert temporaries(512) < 3 * 4 * 512 * (512 + k)
    assert temporaries(1024) < 3 * 4 * 1024 * (1024 + k)


@pytest.mark.slow
def test_features_are_read_a_tile_at_a_time(tmp_path):
    """From a file that is mapped, without a copy of it in memory."""
    np.save(tmp_path / "features.npy", random_features(200_000, width=40))
    features = np.load(tmp_path / "features.npy", mmap_mode="r")
    queries = np.asarray(features[[7, 199_999]])
    nearest_neighbours(features, queries, 3)  # compiled
    tracemalloc.start()
    indices, _ = nearest_neighbours(features, queries, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(indices[:, 0], [7, 199_999])
    assert peak < 0.25 * features.nbytes


def test_blocks_of_one_shape_compile_once():
    features, queries = random_features(101, width=9), random_features(57, width=9, seed=1)
    _with_tile.clear_cache()
    nearest_neighbours(features, queries, 3, block_size=10)
    nearest_neighbours(features[:95], queries[:33], 3, block_size=10)
    assert _with_tile._cache_size() <= 2  # the first tile of all, and any later one


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 11}, "k is 11, but there are only 10"),
        ({"k": 0}, "k is 0, expected at least 1"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"weights": "cosine"}, 'expected "distance" or "uniform"'),
        ({"labels": [0] * 9}, r"labels has shape \(9,\), expected \(10,\)"),
        ({"labels": None}, "needs one class label"),
        ({"labels": [-1] * 10}, "holds -1"),
        ({"queries": np.zeros((3, 5))}, "queries has width 5, expected 4"),
        ({"queries": np.full((3, 4), np.nan)}, "NaN or infinity in 3 of 3 rows"),
        ({"features": np.zeros((10, 2, 2))}, r"shape \(10, 2, 2\).*reshape"),
        ({"block_size": 0}, "block_size is 0"),
        ({"num_classes": 1, "labels": [0, 1] * 5}, "labels hold 1, but num_classes is 1"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {
        "features": random_features(10, width=4),
        "labels": [0] * 10,
        "queries": random_features(3, width=4),
        "k": 2,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        knn_scores(**arguments)


def test_labels_that_are_no_integers_are_a_type_error():
    with pytest.raises(TypeError, match="float64, expected integers"):
        knn_scores(np.eye(2), [0.0, 1.0], np.eye(2), k=1)
