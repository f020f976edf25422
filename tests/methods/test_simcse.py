"""SimCSE against its equations, in NumPy."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl.encoders import MLP, bert
from jaxcl.methods import Batch, SimCSE

KEY = jax.random.key(0)
N = 6


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def embeddings(views, width=5):
    return np.random.default_rng(1).normal(size=(views, N, width)).astype(np.float32)


def objective(rows, **options):
    method = SimCSE(MLP((4,)), temperature=0.3, **options)
    loss, _, metrics = method.objective({}, None, tuple(rows), Batch(()), progress=0.0)
    return float(loss), metrics


def test_without_hard_negatives_it_is_equation_1():
    queries, positives = rows = embeddings(2)
    similarities = unit(queries) @ unit(positives).T / 0.3
    each = np.log(np.exp(similarities).sum(1)) - np.diag(similarities)
    np.testing.assert_allclose(objective(rows)[0], each.mean(), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("hard", [1, 3])
def test_with_hard_negatives_it_is_equation_5_with_everyones(hard):
    rows = embeddings(2 + hard)
    queries, *candidates = map(unit, rows)
    similarities = queries @ np.concatenate(candidates).T / 0.3  # [N, N (1 + hard)]
    each = np.log(np.exp(similarities).sum(1)) - np.diag(similarities[:, :N])
    loss, metrics = objective(rows)
    np.testing.assert_allclose(loss, each.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["chance_loss"], np.log(N * (1 + hard)), rtol=1e-6)


@pytest.mark.slow
def test_leading_entries_are_contrasted_alone():
    rows = embeddings(3)
    expected = [objective(rows[..., :width])[0] for width in (2, 3, 5)]
    np.testing.assert_allclose(objective(rows, widths=(2, 3))[0], np.mean(expected), rtol=1e-5)
    batch = Batch((jnp.ones((N, 3)),) * 2)
    with pytest.raises(ValueError, match=r"which are 4 wide, got \(2, 4\)"):
        SimCSE(MLP((4,)), widths=(2, 4)).init(KEY, batch)
    with pytest.raises(ValueError, match="widths must be positive"):
        SimCSE(MLP((4,)), widths=(0,))


@pytest.mark.slow
def test_views_of_one_text_differ_by_dropout_alone():
    tokens = jnp.arange(24).reshape(N, 4)
    batch = Batch((tokens, tokens), index=jnp.arange(N))
    for dropout in (0.0, 0.3):
        method = SimCSE(bert(30, width=8, depth=1, heads=2, dropout=dropout))
        params, state = method.init(KEY, batch)
        (first, second), _ = method.represent(params, state, batch, key=KEY)
        differ = np.abs(np.asarray(first - second)).max(1) > 1e-3
        assert differ.all() if dropout else not differ.any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "guide",
    [None, MLP((384,))],
    ids=["alone", "guided"],
)
def test_everyones_hard_negatives_are_seen_on_any_number_of_devices(guide):
    rows = np.random.default_rng(2).normal(size=(2, 8, 7))
    rows[:, 5] = rows[:, 2]  # as alike to one another as to themselves, but for rounding
    views = tuple(jnp.asarray(view) for view in (rows[0], rows[0], rows[1]))
    method = SimCSE(MLP((12, 5)), temperature=0.3, guide=guide)
    params, state = method.init(KEY, Batch(views))
    found = []
    for devices in (1, 2, 4, 8):
        batch = Batch(tuple(view.reshape(devices, -1, 7) for view in views))

        def step(params, batch):
            loss, gradient = jax.value_and_grad(
                lambda params: method.loss(params, state, batch, key=KEY, axis_name="d")[0]
            )(params)
            return jax.lax.pmean((loss, gradient), "d")

        mapped = jax.vmap(step, in_axes=(None, 0), axis_name="d")
        found.append(jax.tree.map(lambda x: x[0], jax.jit(mapped)(params, batch)))
    for other in found[1:]:
        chex.assert_trees_all_close(other, found[0], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("hard", "margin"), [(0, 0.0), (0, 0.3), (2, 0.1)])
def test_a_guide_leaves_out_what_it_finds_as_alike_as_the_positive(hard, margin):
    rows, told = embeddings(2 + hard), np.random.default_rng(5).normal(size=(2 + hard, N, 3))
    queries, *candidates = map(unit, rows)
    guides, *guided = map(unit, told)
    each, candidates_of, left_out = [], [], 0
    for i in range(N):
        before = left_out
        positive = np.exp(queries[i] @ candidates[0][i] / 0.3)
        total = positive
        for view, of_guide in zip(candidates, guided, strict=True):
            for j in range(N):
                if view is candidates[0] and j == i:
                    continue
                if guides[i] @ of_guide[j] >= guides[i] @ guided[0][i] - margin:
                    left_out += 1
                    continue
                total += np.exp(queries[i] @ view[j] / 0.3)
        each.append(-np.log(positive / total))
        candidates_of.append(N * (1 + hard) - (left_out - before))
    options = {"guide": MLP((3,)), "guide_margin": margin}
    loss, metrics = objective([*rows, *told.astype(np.float32)], **options)
    np.testing.assert_allclose(loss, np.mean(each), rtol=1e-5)
    assert 0 < left_out < N * N * (1 + hard) - N
    np.testing.assert_allclose(metrics["false_negatives"], left_out / (N * N * (1 + hard)))
    np.testing.assert_allclose(metrics["chance_loss"], np.mean(np.log(candidates_of)), rtol=1e-6)


@pytest.mark.slow
def test_a_guide_learns_nothing_and_reads_what_it_is_given():
    views = tuple(jnp.asarray(rows) for rows in np.random.default_rng(2).normal(size=(2, 8, 7)))
    method = SimCSE(MLP((12, 5)), guide=MLP((4,)), guide_margin=0.2)
    params, state = method.init(KEY, Batch(views))
    assert "guide" not in params
    (*_, first, second), _ = method.represent(params, state, Batch(views), key=KEY)
    for told, view in zip((first, second), views, strict=True):
        expected = MLP((4,)).apply({"params": state.frozen["guide"]}, view)
        np.testing.assert_allclose(told, expected, rtol=1e-6)

    def told_by(frozen):
        guided = dataclasses.replace(state, frozen=frozen)
        return sum(
            rows.sum() for rows in method.represent(params, guided, Batch(views), key=KEY)[0]
        )

    gradient = jax.grad(told_by)(state.frozen)
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradient))
    with pytest.raises(ValueError, match="guide_margin must be 0 to 2, got -1"):
        SimCSE(MLP((4,)), guide_margin=-1)


def test_one_view_is_too_few():
    method = SimCSE(MLP((4,)))
    batch = Batch((jnp.ones((N, 3)),))
    params, state = method.init(KEY, batch)
    with pytest.raises(ValueError, match="SimCSE takes two views"):
        method.represent(params, state, batch, key=KEY)
