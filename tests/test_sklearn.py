"""`ContrastiveEncoder` among scikit-learn's own: its conventions, pipelines, searches."""

import pickle

import jax
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from jaxcl import augment, encoders, methods
from jaxcl.sklearn import METHODS, ContrastiveEncoder, _Corrupted


def small(method="simclr", **options):
    options = {"image_shape": (8, 8), "epochs": 1, "random_state": 0, **options}
    return ContrastiveEncoder(method, encoder=encoders.SmallCNN((4,)), **options)


@pytest.fixture(scope="module")
def digits():
    return load_digits(return_X_y=True)


@pytest.mark.slow
@parametrize_with_checks([ContrastiveEncoder(epochs=1, random_state=0)])
def test_conventions(estimator, check):
    check(estimator)


@pytest.mark.slow
def test_images_come_in_three_forms(digits):
    flat = digits[0][:40]
    one = small().fit(flat)
    images = np.clip(flat / 16 * 255, 0, 255).round().astype(np.uint8).reshape(-1, 8, 8)
    two = small(image_shape=None).fit(images)
    three = small(image_shape=None).fit(images[..., None] / 255)
    assert one.transform(flat).shape == (40, 4)
    np.testing.assert_allclose(two.transform(images), three.transform(images / 255), atol=1e-5)
    np.testing.assert_allclose(one.transform(flat), two.transform(images), atol=2e-2)


@pytest.mark.slow
def test_features_are_the_methods(digits):
    flat = digits[0][:40]
    fitted = small(batch_size=16).fit(flat)
    state = fitted.state_
    images = (flat / flat.max()).reshape(-1, 8, 8, 1).astype(np.float32)
    expected = fitted.method_.embed(state.params, state.method, images)
    np.testing.assert_allclose(fitted.transform(flat), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_seed_makes_it_deterministic(digits):
    flat = digits[0][:40]
    first, second = (small().fit(flat) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first.state_, second.state_)
    other = small(random_state=1).fit(flat)
    assert np.abs(other.transform(flat) - first.transform(flat)).max() > 1e-3
    again = pickle.loads(pickle.dumps(first))
    np.testing.assert_array_equal(again.transform(flat), first.transform(flat))


@pytest.mark.slow
def test_integers_and_floats_are_of_one_range(digits):
    floats = digits[0][:32].reshape(-1, 8, 8) / 16
    integers = (floats * 255).round().astype(np.uint8)
    for one, other in ((floats, integers), (integers, floats), (integers, integers.astype(int))):
        fitted = small(image_shape=None).fit(one)
        np.testing.assert_allclose(fitted.transform(one), fitted.transform(other), atol=2e-2)


def test_large_numbers_that_hardly_differ_are_told_apart():
    rows = 1.7e9 + np.arange(64.0)[:, None]
    columns, _ = ContrastiveEncoder()._columns(rows, np.random.default_rng(0))
    assert len(np.unique(columns["row"])) == 64


def test_corruption_takes_each_feature_from_the_donor_with_its_chance():
    row, donor = np.zeros(10_000, np.float32), np.ones(10_000, np.float32)
    found = _Corrupted(0.6)(jax.random.key(0), np.stack([row, donor]))
    assert abs(float(found.mean()) - 0.6) < 3 * (0.24 / 10_000) ** 0.5


def test_donors_have_the_columns_values():
    rows = np.random.default_rng(0).normal(size=(50, 3))
    columns, _ = ContrastiveEncoder()._columns(rows, np.random.default_rng(0))
    np.testing.assert_allclose(np.sort(columns["donor"], 0), np.sort(columns["row"], 0))
    own = [set(map(tuple, columns[name].tolist())) for name in ("row", "donor")]
    assert len(own[0] & own[1]) < 5  # features of a donor are of several rows
    np.testing.assert_allclose(columns["row"].std(0), 1, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_each_method_learns_to_tell_digits(digits, method):
    train, test, labels, truth = train_test_split(*digits, test_size=300, random_state=0)
    encoder = ContrastiveEncoder(method, image_shape=(8, 8), epochs=10, random_state=0)
    features = encoder.fit(train, labels).transform(train)
    vote = KNeighborsClassifier(20, metric="cosine").fit(features, labels)
    assert vote.score(encoder.transform(test), truth) > 0.9
    if method != "moco_v2":  # whose queue begins with random rows, which are easily told apart
        assert encoder.loss_curve_[-1] < encoder.loss_curve_[0]


@pytest.mark.slow
def test_a_pipeline_is_searched(digits):
    data, labels = (part[:300] for part in digits)
    encoder = ContrastiveEncoder("simclr", image_shape=(8, 8), epochs=3, random_state=0)
    pipeline = make_pipeline(encoder, LogisticRegression(max_iter=500))
    grid = {"contrastiveencoder__temperature": [0.1, 0.5], "logisticregression__C": [1.0]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(data, labels)
    assert search.best_params_["contrastiveencoder__temperature"] in (0.1, 0.5)
    assert search.best_score_ > 0.7
    assert search.predict(data[:5]).shape == (5,)


@pytest.mark.slow
def test_rows_of_numbers():
    table, _ = load_wine(return_X_y=True)
    encoder = ContrastiveEncoder("simclr", epochs=2, random_state=0)
    assert encoder.fit_transform(table).shape == (178, 128)
    names = encoder.get_feature_names_out()
    assert list(names[:2]) == ["contrastiveencoder0", "contrastiveencoder1"]


@pytest.mark.slow
def test_a_method_of_ones_own_and_its_clone(digits):
    method = methods.SimSiam(
        encoders.SmallCNN((4,)),
        encoders.simsiam_projector(8, hidden=8),
        encoders.simsiam_predictor(8, hidden=4),
    )
    encoder = ContrastiveEncoder(method, image_shape=(8, 8), epochs=1, random_state=0)
    views = augment.crops(8, (0.5, 1.0))
    fitted = clone(encoder).set_params(views=views).fit(digits[0][:32])
    assert fitted.method_ == method
    assert fitted.transform(digits[0][:3]).shape == (3, 4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "mocov2"}, "'mocov2' is none of moco_v2, simclr"),
        ({"method": "byol", "temperature": 0.1}, "BYOL has no temperature"),
        ({"method": "supcon"}, "SupCon needs labels"),
        ({"image_shape": (9, 8)}, r"image_shape \(9, 8\) has 72 values"),
        ({"image_shape": None, "views": augment.crops(8)}, "views are of images"),
        ({"batch_size": 1}, "batch_size 1"),
        pytest.param(
            {"epochs": 5, "learning_rate": 1e30}, "the loss of epoch", marks=pytest.mark.slow
        ),
    ],
)
def test_what_does_not_fit_is_said(digits, options, words):
    with pytest.raises(ValueError, match=words):
        small(**{"method": "simclr", **options}).fit(digits[0][:32])


@pytest.mark.slow
def test_pixels_below_zero_and_another_size(digits):
    flat = digits[0][:32]
    with pytest.raises(ValueError, match="pixels are from -8 to 8, expected floats from 0"):
        small().fit(flat - 8)
    fitted = small(image_shape=None).fit(flat.reshape(-1, 8, 8))
    with pytest.raises(ValueError, match=r"X has 4 features|images are"):
        fitted.transform(flat.reshape(-1, 4, 16))
