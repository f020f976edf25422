"""Reductions that serve both ends of a pair: against loops and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxcl.similarity import Execution, Pairs, mutual_similarity_rows
from jaxcl.testing import check_device_invariance

R, D = 22, 4
SLOW = pytest.mark.slow
REDUCTIONS = ["logsumexp", "log1p_sumexp", "sum_softplus"]
RANDOM = np.random.default_rng(0)
ROWS, SHIFT = RANDOM.normal(size=(R, D)), RANDOM.normal(size=R)
IDS, COUNTS, ANCHORS = RANDOM.integers(0, 6, R), RANDOM.random(R) < 0.7, RANDOM.random(R) < 0.7
PAIRS = {"all": Pairs(), "some": Pairs(IDS, IDS, ANCHORS, COUNTS), "none": Pairs(IDS * 0, IDS * 0)}
TEMPERATURES = (0.3, 0.8)
IGNORE_ABOVE = 1.2  # with the pairs called "some"
# Of 22 rows the last block of 4 overlaps; in halves of 11 too.
BLOCKS = [
    4,
    pytest.param(1, marks=SLOW),
    pytest.param(11, marks=SLOW),
    pytest.param(64, marks=SLOW),
]


def slow_values(reduction, halves, pairs, temperature):
    """[R], entry by entry."""
    values = []
    for i in range(R):
        entries = []
        for j in range(R):
            is_own_half = (i < R // 2) == (j < R // 2)
            is_same = pairs.query_ids is not None and pairs.query_ids[i] == pairs.key_ids[j]
            is_left_out = pairs.query_where is not None and not (
                pairs.query_where[i] and pairs.key_where[j]
            )
            is_too_similar = pairs is PAIRS["some"] and ROWS[i] @ ROWS[j] > IGNORE_ABOVE
            is_left_out |= (halves and is_own_half) or is_same or is_too_similar
            if not is_left_out:
                entries.append(ROWS[i] @ ROWS[j] / temperature - SHIFT[i])
        exps = np.sum(np.exp(entries))
        values.append(
            {
                "logsumexp": np.log(exps) if entries else -np.inf,
                "log1p_sumexp": np.log1p(exps),
                "sum_softplus": np.sum(np.log1p(np.exp(entries))),
            }[reduction]
        )
    return values


def values(reduction, halves, pairs, execution, rows, shift, *temperatures):
    return mutual_similarity_rows(
        reduction,
        rows,
        halves=halves,
        temperatures=temperatures,
        shift=shift,
        pairs=jax.tree.map(jnp.asarray, pairs),
        ignore_above=IGNORE_ABOVE if pairs is PAIRS["some"] else None,
        execution=execution,
    )


@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.parametrize("block", ["dense", *BLOCKS])
@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_values(reduction, halves, block, pairs):
    execution = Execution(backend="dense") if block == "dense" else Execution(block_size=block)
    found = jax.jit(
        lambda rows, shift: values(
            reduction, halves, PAIRS[pairs], execution, rows, shift, *TEMPERATURES
        )
    )(jnp.asarray(ROWS, jnp.float32), jnp.asarray(SHIFT, jnp.float32))
    for each, temperature in zip(found, TEMPERATURES, strict=True):
        wanted = slow_values(reduction, halves, PAIRS[pairs], temperature)
        np.testing.assert_allclose(each, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [pytest.param("all", marks=SLOW), "some"])
@pytest.mark.parametrize("halves", [pytest.param(False, marks=SLOW), True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients_by_finite_differences(reduction, halves, pairs):
    weights = RANDOM.uniform(0.5, 2, (2, R))
    with jax.enable_x64(True):

        def total(rows, shift, *temperatures):
            found = values(
                *(reduction, halves, PAIRS[pairs], Execution(block_size=4)),
                *(rows, shift, *temperatures),
            )
            return jnp.sum(weights * jnp.where(jnp.isneginf(jnp.stack(found)), 0, jnp.stack(found)))

        arguments = (jnp.asarray(ROWS), jnp.asarray(SHIFT), *TEMPERATURES)
        check_grads(jax.jit(total), arguments, order=1, modes=["rev"], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_where_nothing_counts_gradients_are_zero(reduction):
    def total(rows, shift):
        found = values(reduction, False, PAIRS["none"], Execution(block_size=4), rows, shift, 1.0)
        return jnp.sum(*found)

    arguments = jnp.asarray(ROWS, jnp.float32), jnp.asarray(SHIFT, jnp.float32)
    assert not any(np.any(gradient) for gradient in jax.grad(total, (0, 1))(*arguments))


def test_nan_is_not_hidden():
    rows = np.array(ROWS, np.float32)
    rows[2] = np.nan
    [found] = values("logsumexp", True, Pairs(), Execution(block_size=4), rows, SHIFT, 1.0)
    is_nan = np.isnan(found)
    assert is_nan[2]
    assert is_nan[R // 2 :].all()  # those that meet it
    assert not np.delete(is_nan[: R // 2], 2).any()


def test_a_tile_is_multiplied_once_for_both_its_ends():
    def products(function):
        rows = jax.ShapeDtypeStruct((512, 32), jnp.float32)
        return jax.jit(function).lower(rows).as_text().count("dot_general")

    def forward(rows):
        return mutual_similarity_rows("logsumexp", rows, execution=Execution(block_size=64))

    # The entries; in the backward pass those, and the gradients of the tile's rows and columns.
    assert products(forward) == 1
    assert products(jax.grad(lambda rows: jnp.sum(*forward(rows)))) == 1 + 3


@pytest.mark.parametrize("halves", [False, pytest.param(True, marks=SLOW)])
@pytest.mark.parametrize("backend", ["tiled", pytest.param("ring", marks=SLOW)])
def test_devices_change_nothing(backend, halves):
    """Per device [N] rows of each half; the halves are put together on the device."""
    first, second = (RANDOM.normal(size=(16, D)).astype(np.float32) for _ in range(2))
    ids = RANDOM.integers(0, 9, 16)

    def total(first, second, ids, temperature, *, axis_name):
        which = "tiled" if backend == "ring" and axis_name is None else backend
        ids = jnp.tile(ids, 2)
        [found] = mutual_similarity_rows(
            "log1p_sumexp",
            jnp.concatenate([first, second]),
            halves=halves,
            temperatures=[temperature],
            pairs=Pairs(ids, ids),
            execution=Execution(axis_name, 3, which),
        )
        return found

    check_device_invariance(
        total, first, second, ids, replicated=[0.3], devices=[8], mapping=["vmap"]
    )
