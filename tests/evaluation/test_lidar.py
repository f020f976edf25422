"""LiDAR: the rank that is left when the noise of views is taken for what it is."""

import numpy as np
import pytest

from jaxcl.evaluation import lidar, rankme


def views(signal, noise, examples=400, count=10):
    """Examples that differ along axes by `signal`, their views along axes by `noise`."""
    generator = np.random.default_rng(0)
    means = generator.standard_normal((examples, 1, len(signal))) * signal
    return means + generator.standard_normal((examples, count, len(signal))) * noise


def test_counts_the_axes_along_which_examples_differ():
    for axes in (1, 3, 8):
        signal = np.where(np.arange(8) < axes, 1.0, 0.0)
        assert lidar(views(signal, 1e-3 * np.ones(8))) == pytest.approx(axes, rel=0.02)


def test_axes_that_only_views_differ_along_do_not_count():
    signal, noise = np.array([1, 1, 0.0, 0]), np.array([0.1, 0.1, 1, 1])
    rows = views(signal, noise, count=50)
    assert lidar(rows) == pytest.approx(2, rel=0.05)
    assert rankme(rows.reshape(-1, 4)) > 3.5


@pytest.mark.parametrize(("examples", "width"), [(400, 3), (5, 30)], ids=["few axes", "many"])
def test_is_its_eigenvalues(examples, width):
    """By a generalized eigenvalue problem instead of a square root, in all axes there are."""
    signal, noise = np.resize([2.0, 1.0, 0.5], width), np.resize([0.3, 0.6, 0.2], width)
    rows = 7 + views(signal, noise, examples=examples, count=4)
    means = rows.mean(1)
    between = np.cov(means.T, ddof=0)
    within = sum(np.cov(each.T) for each in rows) / len(rows) + 1e-4 * np.eye(width)
    values = np.linalg.eigvals(np.linalg.solve(within, between)).real
    shares = values / values.sum() + 1e-7
    expected = np.exp(-np.sum(shares * np.log(shares)))
    np.testing.assert_allclose(lidar(rows), expected, rtol=1e-6)


def test_errors():
    with pytest.raises(ValueError, match=r"views has shape \(3, 4\), expected \[N, V, D\]"):
        lidar(np.ones((3, 4)))
    with pytest.raises(ValueError, match="not finite"):
        lidar(np.full((3, 2, 2), np.nan))
