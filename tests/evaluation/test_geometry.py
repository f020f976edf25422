from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxcl.evaluation import (
    alignment,
    dimension_std,
    effective_rank,
    rankme,
    spread,
    uniformity,
)

GOLDEN = np.load(Path(__file__).parents[1] / "reference" / "geometry.npz")
PIXELS = load_digits().data[:301]


def gaussian(count, width, seed=0):
    return np.random.default_rng(seed).standard_normal((count, width))


def test_alignment_and_uniformity_match_the_golden_values():
    x, y = GOLDEN["align/in/x"], GOLDEN["align/in/y"]
    found = alignment(x, y, alpha=float(GOLDEN["align/param/alpha"]))
    assert found == pytest.approx(float(GOLDEN["align/loss"]), rel=1e-6)
    found = uniformity(GOLDEN["uniform/in/x"], t=float(GOLDEN["uniform/param/t"]))
    assert found == pytest.approx(float(GOLDEN["uniform/loss"]), rel=1e-6)


@pytest.mark.parametrize("t", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("block_size", [50, 2048])
def test_uniformity_is_the_loop_over_pairs(t, block_size):
    x = PIXELS[:120] / np.linalg.norm(PIXELS[:120], axis=1, keepdims=True)
    pairs = [np.exp(-t * np.sum((a - b) ** 2)) for i, a in enumerate(x) for b in x[:i]]
    assert uniformity(PIXELS[:120], t=t, block_size=block_size) == pytest.approx(
        np.log(np.mean(pairs)), rel=2e-6
    )


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.0])
def test_alignment_is_the_loop_over_rows(alpha):
    x, y = gaussian(20, 5), gaussian(20, 5, seed=1)
    distances = [
        np.linalg.norm(a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** alpha
        for a, b in zip(x, y, strict=True)
    ]
    assert alignment(x, 3 * y, alpha=alpha) == pytest.approx(np.mean(distances), rel=1e-6)


def test_known_extremes():
    assert alignment(PIXELS, 2 * PIXELS) == pytest.approx(0, abs=1e-12)
    assert uniformity(np.tile([[1.0, 2.0]], (5, 1))) == pytest.approx(0, abs=1e-6)
    assert uniformity(gaussian(2000, 256)) == pytest.approx(-4, abs=0.05)  # ||x - y||^2 is about 2


def test_rankme_is_the_papers_equation():
    values = np.linalg.svd(PIXELS, compute_uv=False)
    shares = values / values.sum() + 1e-7
    assert rankme(PIXELS) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)


@pytest.mark.parametrize("rank", [1, 3, 16])
def test_ranks_count_equal_directions(rank):
    left = np.linalg.qr(gaussian(64, rank))[0]
    right = np.linalg.qr(gaussian(16, rank, seed=1))[0]
    assert rankme(left @ right.T) == pytest.approx(rank, rel=1e-4)
    centred = np.linalg.qr(left - left.mean(axis=0))[0]
    assert effective_rank(centred @ right.T + 1) == pytest.approx(rank, rel=1e-4)


def test_a_shared_offset_dominates_rankme_but_not_effective_rank():
    features = gaussian(500, 8)
    assert rankme(features + 1000) < 1.2
    assert effective_rank(features + 1000) == pytest.approx(effective_rank(features), rel=1e-4)
    assert effective_rank(features) > 7.9


def test_spread_is_one_for_even_directions_and_zero_for_collapse():
    assert spread(gaussian(4000, 64)) == pytest.approx(1, abs=0.01)
    assert spread(np.outer(np.arange(1, 9), gaussian(1, 6)[0])) == pytest.approx(0, abs=1e-6)
    normalized = PIXELS / np.linalg.norm(PIXELS, axis=1, keepdims=True)
    np.testing.assert_allclose(dimension_std(PIXELS), normalized.std(axis=0), atol=1e-7)


def test_degenerate_features_have_defined_values():
    equal, zero = np.full((6, 4), 0.1), np.zeros((6, 4))
    assert rankme(equal) == pytest.approx(1, abs=1e-4)
    assert rankme(zero) == 0
    assert effective_rank(equal) == effective_rank(zero) == 0
    assert spread(equal) == spread(zero) == 0
    assert uniformity(zero) == pytest.approx(-4)  # zero rows: cosine 0 with everything


@pytest.mark.parametrize("measure", [uniformity, rankme, effective_rank, spread])
def test_nan_is_refused(measure):
    features = gaussian(5, 3)
    features[2, 1] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 5 rows, the first is row 2"):
        measure(features)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="x has 3 rows and y 4"):
        alignment(gaussian(3, 2), gaussian(4, 2))
    with pytest.raises(ValueError, match="alpha is 0"):
        alignment(gaussian(3, 2), gaussian(3, 2), alpha=0)
    with pytest.raises(ValueError, match="at least 2"):
        uniformity(gaussian(1, 2))
    with pytest.raises(ValueError, match="t is -1"):
        uniformity(gaussian(3, 2), t=-1)
