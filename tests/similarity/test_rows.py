"""Reductions of similarities: every backend against loops in float64, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxcl.similarity import Execution, Pairs, gather_rows, logaddexp, row_numbers, similarity_rows
from jaxcl.similarity.rows import reduce_rows
from jaxcl.testing import check_device_invariance

N, M, D = 11, 13, 4
REDUCTIONS = ["logsumexp", "log1p_sumexp", "sum_softplus"]
EXECUTIONS = {
    "dense": Execution(backend="dense"),
    "blocks of 1": Execution(block_size=1),
    "blocks of 4": Execution(block_size=4),  # the last one overlaps
    "one block": Execution(block_size=64),
}
SLOW = pytest.mark.slow
# Blocks of 4 are the hard case; the others are run with the slow tests.
BY_BLOCKS = [
    "blocks of 4",
    pytest.param("blocks of 1", marks=SLOW),
    pytest.param("one block", marks=SLOW),
]
RANDOM = np.random.default_rng(0)
QUERIES, KEYS, SHIFT = (RANDOM.normal(size=shape) for shape in ((N, D), (M, D), (N,)))
WEIGHTS = RANDOM.uniform(0.5, 2, N)
PAIRS = {
    "all": Pairs(),
    "some": Pairs(
        query_ids=RANDOM.integers(0, 5, N),
        key_ids=RANDOM.integers(0, 5, M),
        query_where=RANDOM.random(N) < 0.8,
        key_where=RANDOM.random(M) < 0.8,
        limit=np.array(4.0),
    ),
    "none": Pairs(key_where=np.zeros(M, bool)),
}


def entries(pairs, row):
    """The entries of a row that count, in float64."""
    for column in range(M):
        if pairs.query_where is not None and not pairs.query_where[row]:
            continue
        if pairs.key_where is not None and not pairs.key_where[column]:
            continue
        if pairs.query_ids is not None and pairs.query_ids[row] == pairs.key_ids[column]:
            continue
        entry = QUERIES[row] @ KEYS[column] / 0.3
        if pairs.limit is None or entry <= pairs.limit:
            yield entry - SHIFT[row]


def slow_value(reduction, pairs, row):
    found = list(entries(pairs, row))
    if reduction == "sum_softplus":
        return sum(np.log1p(np.exp(x)) for x in found)
    total = sum(np.exp(x) for x in found)
    if reduction == "log1p_sumexp":
        return np.log1p(total)
    return np.log(total) if found else -np.inf


def values(reduction, pairs, execution, queries=QUERIES, keys=KEYS, shift=SHIFT, temperature=0.3):
    queries, keys, shift = (jnp.asarray(x) for x in (queries, keys, shift))
    return similarity_rows(
        reduction,
        queries,
        keys,
        temperature=temperature,
        shift=shift,
        pairs=jax.tree.map(jnp.asarray, pairs),
        execution=execution,
    )


@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.parametrize("execution", ["dense", *BY_BLOCKS])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_values(reduction, execution, pairs):
    wanted = [slow_value(reduction, PAIRS[pairs], row) for row in range(N)]
    arrays = (x.astype(np.float32) for x in (QUERIES, KEYS, SHIFT))
    found = values(reduction, PAIRS[pairs], EXECUTIONS[execution], *arrays)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("cotangent", ["uniform", "weighted"])
@pytest.mark.parametrize("pairs", [pytest.param("all", marks=SLOW), "some"])
@pytest.mark.parametrize("execution", BY_BLOCKS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients_by_finite_differences(reduction, execution, pairs, cotangent):
    """Under a uniform cotangent the backward pass scales what the forward pass left."""
    scale = np.ones(N) if cotangent == "uniform" else WEIGHTS
    with jax.enable_x64(True):

        def total(queries, keys, shift, temperature):
            found = values(
                reduction, PAIRS[pairs], EXECUTIONS[execution], queries, keys, shift, temperature
            )
            return jnp.sum(scale * jnp.where(jnp.isneginf(found), 0, found))

        arguments = (*map(jnp.asarray, (QUERIES, KEYS, SHIFT)), 0.3)
        check_grads(jax.jit(total), arguments, order=1, modes=["rev"], rtol=1e-6)


@SLOW
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_dense_gradients_by_finite_differences_twice(reduction):
    """The dense backend is plain autodiff: forward mode and second derivatives too."""
    with jax.enable_x64(True):

        def total(queries, keys):
            found = values(reduction, PAIRS["some"], Execution(backend="dense"), queries, keys)
            return jnp.sum(WEIGHTS * jnp.where(jnp.isneginf(found), 0, found))

        check_grads(total, (jnp.asarray(QUERIES), jnp.asarray(KEYS)), order=2, rtol=1e-5)


@pytest.mark.parametrize("execution", ["dense", "blocks of 4"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_where_nothing_counts_gradients_are_zero(reduction, execution):
    def total(*arrays):
        return jnp.sum(values(reduction, PAIRS["none"], EXECUTIONS[execution], *arrays))

    gradients = jax.grad(total, argnums=(0, 1, 2))(
        *(jnp.asarray(x, jnp.float32) for x in (QUERIES, KEYS, SHIFT))
    )
    assert not any(np.any(gradient) for gradient in gradients)


def test_keys_without_a_gradient_cost_none():
    """A queue's keys: their gradient's product is not even in the program."""

    def total(queries, keys):
        return jnp.sum(values("log1p_sumexp", Pairs(), Execution(block_size=4), queries, keys))

    def products(argnums):
        lowered = jax.jit(jax.grad(total, argnums)).lower(QUERIES, KEYS)
        return lowered.as_text().count("dot_general")

    # Forward: entries and the queries' gradient; with keys one more, and two in the second pass.
    assert products((0,)) == 2
    assert products((0, 1)) == 5


def test_nan_is_not_hidden():
    queries = np.array(QUERIES, np.float32)
    queries[2] = np.nan
    for execution in EXECUTIONS.values():
        found = np.isnan(values("logsumexp", Pairs(), execution, queries))
        assert found[2]
        assert not np.delete(found, 2).any()


@pytest.mark.slow
def test_extreme_entries_neither_overflow_nor_vanish():
    value, _ = reduce_rows("logsumexp", jnp.array([[1e4, 1e4], [-1e4, -1e4]]))
    np.testing.assert_allclose(value, [1e4 + np.log(2), -1e4 + np.log(2)])
    value, _ = reduce_rows("log1p_sumexp", jnp.array([[-20.0, -jnp.inf], [1e4, -1e4], [0.0, 0.0]]))
    np.testing.assert_allclose(value, [np.exp(-20.0), 1e4, np.log(3)], rtol=1e-6)
    value, _ = reduce_rows("sum_softplus", jnp.array([[-20.0, -jnp.inf], [1e4, -1e4]]))
    np.testing.assert_allclose(value, [np.exp(-20.0), 1e4], rtol=1e-6)


@pytest.mark.slow
def test_logaddexp_of_nothing():
    a, b = jnp.array([-jnp.inf, -jnp.inf, 1.0]), jnp.array([-jnp.inf, 2.0, 1.0])
    found, gradient = jax.value_and_grad(lambda a: logaddexp(a, b)[1:].sum())(a)
    np.testing.assert_allclose(found, 2 + 1 + np.log(2), rtol=1e-6)
    np.testing.assert_allclose(gradient, [0, 0, 0.5])


# Rows of 8 devices; the last device has no key that counts.
X, Y, S = (RANDOM.normal(size=shape).astype(np.float32) for shape in ((16, D), (16, D), (16,)))
IDS = RANDOM.integers(0, 9, 16)
COUNTS = np.arange(16) < 14


@pytest.mark.parametrize(
    "backend", [pytest.param("dense", marks=SLOW), pytest.param("tiled", marks=SLOW), "ring"]
)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("mapping", ["vmap", pytest.param("shard_map", marks=SLOW)])
def test_devices_change_nothing(reduction, backend, mapping):
    def total(x, y, shift, ids, counts, scale, temperature, *, axis_name):
        which = "tiled" if backend == "ring" and axis_name is None else backend
        block_size = None if which == "dense" else 3
        found = similarity_rows(
            reduction,
            x,
            y,
            temperature=temperature,
            shift=shift,
            pairs=Pairs(ids, ids, None, counts),
            execution=Execution(axis_name, block_size, which),
        )
        return scale * jnp.where(jnp.isneginf(found), 0, found)

    scale = RANDOM.uniform(0.5, 2, 16).astype(np.float32)
    check_device_invariance(
        total,
        *(X, Y, S, IDS, COUNTS, scale),
        replicated=[0.3],
        devices=[8] if mapping == "vmap" else [4],
        mapping=[mapping],
    )


def compiled_on_8_devices(backend):
    """Value and gradients of 1024 rows a device of an in-batch softmax."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("d",))
    spec = jax.sharding.PartitionSpec("d")

    def loss(x, y):
        numbers = row_numbers(len(x), "d")
        found = similarity_rows(
            "logsumexp", x, y, pairs=Pairs(numbers, numbers), execution=Execution("d", 64, backend)
        )
        return jnp.mean(found)

    def gradients(x, y):
        value, found = jax.value_and_grad(loss, (0, 1))(x, y)
        return value[None], found

    mapped = jax.shard_map(
        gradients, mesh=mesh, in_specs=spec, out_specs=(spec, spec), check_vma=False
    )
    array = jax.ShapeDtypeStruct((8 * 1024, 32), jnp.float32)
    return jax.jit(mapped).lower(array, array).compile()


def test_in_a_ring_no_device_holds_the_keys_of_all():
    ring, gathered = compiled_on_8_devices("ring"), compiled_on_8_devices("tiled")
    assert "collective-permute" in ring.as_text()
    assert "all-gather" not in ring.as_text()
    assert "all-gather" in gathered.as_text()
    ours, theirs = (program.memory_analysis().temp_size_in_bytes for program in (ring, gathered))
    assert ours < 0.6 * theirs


def test_gathering_and_numbering_agree():
    def numbers(x):
        return gather_rows(row_numbers(len(x), "d"), "d")

    found = jax.vmap(numbers, axis_name="d")(jnp.zeros((4, 3, 1)))
    np.testing.assert_array_equal(found, np.broadcast_to(np.arange(12), (4, 12)))


def bad(**options):
    return lambda: Execution(**options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (bad(backend="tile"), "backend is 'tile', expected .*did you mean 'tiled'"),
        (bad(block_size=0), "block_size is 0, expected None or at least 1"),
        (bad(block_size=2.5), "block_size is 2.5, expected"),
        (bad(block_size=True), "block_size is True, expected"),
        (bad(backend="dense", block_size=8), "'dense' holds the whole matrix"),
        (bad(backend="ring"), "axis_name is None: a ring goes round devices"),
        (bad(axis_name="x"), "axis_name is 'x', but no axis of that name"),
        (
            lambda: similarity_rows(
                "logsumexp",
                jnp.ones((2, 3)),
                jnp.ones((2, 4, 3)),
                execution=Execution(backend="tiled"),
            ),
            r"negatives \[N, M, D\] are held whole",
        ),
    ],
)
def test_wrong_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_default_goes_by_size():
    def choose(rows, keys, **options):
        arrays = (jax.ShapeDtypeStruct((count, 128), jnp.float32) for count in (rows, keys))
        chosen = []

        def look(*arrays):
            chosen.append(Execution(**options).choose(*arrays))

        jax.eval_shape(look, *arrays)
        return chosen[0]

    assert choose(512, 1024) == "dense"
    assert choose(4096, 4096) == "tiled"
    assert choose(4, 4, block_size=2) == "tiled"
    assert choose(512, 1024, backend="tiled") == "tiled"
