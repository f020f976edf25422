"""The kernels for TPU: interpreted, against the dense matrix; and compiled, with no TPU there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl.planning import find_slice
from jaxcl.similarity.rows import Pairs, reduce_rows, similarity_logits
from jaxcl.similarity.tpu_kernel import kernel_gradients, kernel_values, supports

REDUCTIONS = ["logsumexp", "log1p_sumexp", "sum_softplus"]
SLOW = pytest.mark.slow
ONE_FAST = ["logsumexp", *(pytest.param(each, marks=SLOW) for each in REDUCTIONS[1:])]
# One row or column; less than a block, and a width that fills no lane; several blocks, the last
# ones part empty; whole blocks, where nothing is padded.
SHAPES = [
    (37, 131, 20),
    (1, 5, 3),
    (7, 1, 1),
    pytest.param((300, 700, 64), marks=SLOW),
    pytest.param((300, 700, 128), marks=SLOW),
    pytest.param((1100, 600, 24), marks=SLOW),
    pytest.param((512, 1024, 16), marks=SLOW),
]
MASKS = ["none", "ids", "query_where", "key_where", "limit", "no key counts"]


def problem(shape, mask, dtype=jnp.float32, scale=3.0, seed=0):
    """The arguments of `kernel_values`, without the reduction, and a cotangent."""
    n, m, d = shape
    random = np.random.default_rng(seed)
    rows = [random.normal(size=(count, d)) for count in (n, m)]
    queries, keys = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rows)
    ids = {
        "query_ids": random.integers(0, 3, n).astype(np.int32),
        "key_ids": random.integers(0, 3, m).astype(np.int32),
    }
    query_where = {"query_where": random.random(n) < 0.7}
    key_where = {"key_where": random.random(m) < 0.7}
    limit = {"limit": np.float32(0.3 * scale)}
    pairs = {
        "none": {},
        "ids": ids,
        "query_where": query_where,
        "key_where": key_where,
        "limit": limit,
        "all": ids | query_where | key_where | limit,
        "no key counts": {"key_where": np.zeros(m, bool)},
    }[mask]
    return (
        jnp.asarray(queries, dtype),
        jnp.asarray(keys, dtype),
        jnp.float32(scale),
        jnp.asarray(random.normal(size=n), jnp.float32),
        Pairs(**{name: jnp.asarray(value) for name, value in pairs.items()}),
    ), jnp.asarray(random.uniform(0.5, 2, n) * random.choice([-1, 1], n), jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def dense(reduction, arguments, cotangent):
    """Value, normalizer, and gradients of queries, keys, scale and shift, by way of the matrix."""
    queries, keys, scale, shift, pairs = arguments
    queries, keys = queries.astype(jnp.float32), keys.astype(jnp.float32)

    def values(queries, keys, scale, shift):
        return reduce_rows(reduction, similarity_logits(queries * scale, keys, shift, pairs))

    value, pull, normalizer = jax.vjp(values, queries, keys, scale, shift, has_aux=True)
    return value, normalizer, pull(cotangent)


@functools.partial(jax.jit, static_argnums=0)
def kernel(reduction, arguments, cotangent):
    """The same by the kernels."""
    value, normalizer = kernel_values(reduction, *arguments, interpret=True)
    found = kernel_gradients(reduction, *arguments, normalizer, cotangent, interpret=True)
    return value, normalizer, (found.queries, found.keys, found.scale, found.shift)


def check(found, expected, tolerance, of_gradients=None):
    """Values row by row; gradients against the largest entry of each."""
    value, normalizer, gradients = expected
    np.testing.assert_allclose(found[0], value, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(found[1], normalizer, rtol=tolerance, atol=tolerance)
    for name, ours, theirs in zip(
        ("queries", "keys", "scale", "shift"), found[2], gradients, strict=True
    ):
        assert ours.dtype == jnp.float32
        assert np.isfinite(ours).all(), name
        bound = (of_gradients or tolerance) * max(np.abs(theirs).max(), 1e-30)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=bound, err_msg=name)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_equals_dense(reduction, shape):
    arguments = problem(shape, "all")
    check(kernel(reduction, *arguments), dense(reduction, *arguments), 1e-5)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("reduction", ONE_FAST)
def test_masks(reduction, mask):
    arguments = problem((37, 131, 20), mask)
    check(kernel(reduction, *arguments), dense(reduction, *arguments), 1e-5)


@pytest.mark.slow
def test_rows_without_keys_have_the_values_that_dense_gives():
    arguments, cotangent = problem((5, 9, 4), "no key counts")
    for reduction, value in (("logsumexp", -np.inf), ("log1p_sumexp", 0), ("sum_softplus", 0)):
        found = kernel(reduction, arguments, cotangent)
        assert np.array_equal(found[0], np.full(5, value))
        assert all(not np.any(gradient) for gradient in found[2])


@pytest.mark.parametrize("scale", [1000.0, pytest.param(1e-3, marks=SLOW)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_extreme_logits(reduction, scale):
    arguments = problem((37, 131, 20), "all", scale=scale)
    # Logits of 1000 are known to 1000 * 2**-24 * a few, and so are the weights.
    check(kernel(reduction, *arguments), dense(reduction, *arguments), 1e-5, of_gradients=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [14.0, 2.0])
@pytest.mark.parametrize("reduction", ONE_FAST)
def test_bfloat16_rows(reduction, scale):
    """The products of bfloat16 rows are exact; weights are rounded once, by 2**-8 at most."""
    arguments, cotangent = problem((300, 700, 64), "all", jnp.bfloat16, scale)
    found = kernel(reduction, arguments, cotangent)
    expected = dense(reduction, arguments, cotangent)
    check(found, expected, 1e-5, of_gradients=1e-2)
    np.testing.assert_allclose(found[2][3], expected[2][3], rtol=1e-5, atol=1e-5)  # of shift

    queries, keys, scale, shift, pairs = arguments
    queries, keys = queries.astype(jnp.float32), keys.astype(jnp.float32)
    logits = similarity_logits(queries * scale, keys, shift, pairs)
    share = jax.grad(lambda logits: reduce_rows(reduction, logits)[0].sum())(logits)
    share *= scale * np.abs(cotangent)[:, None]
    for ours, theirs, terms in zip(
        found[2], expected[2], (share @ np.abs(keys), share.T @ np.abs(queries)), strict=False
    ):
        assert (np.abs(ours - theirs) <= 2**-8 * terms + 1e-6 * np.abs(theirs).max()).all()
        assert np.linalg.norm(ours - theirs) <= 2**-9 * np.linalg.norm(theirs)


@pytest.mark.slow
def test_other_types_are_widened():
    arguments, cotangent = problem((9, 13, 5), "none")
    queries, keys, *rest = arguments
    for types in ((jnp.float16, jnp.float16), (jnp.bfloat16, jnp.float32)):
        mixed = (queries.astype(types[0]), keys.astype(types[1]), *rest)
        expected = dense("logsumexp", mixed, cotangent)
        check(kernel("logsumexp", mixed, cotangent), expected, 1e-5)


@pytest.mark.parametrize("dtype", [jnp.int8, pytest.param(jnp.uint16, marks=SLOW), jnp.uint32])
def test_ids_of_any_integer_type(dtype):
    arguments, cotangent = problem((9, 13, 5), "ids")
    pairs = arguments[-1]
    # The largest id too, which wraps round to -1.
    largest = np.array(np.iinfo(dtype).max, dtype)
    pairs = Pairs(*(jnp.where(x == 2, largest, x.astype(dtype)) for x in pairs[:2]))
    expected = dense("logsumexp", arguments, cotangent)
    check(kernel("logsumexp", (*arguments[:-1], pairs), cotangent), expected, 1e-5)


@pytest.mark.slow
def test_vmap_over_everything():
    many = [problem((37, 131, 20), "all", scale=2.0 + seed, seed=seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *many)
    found = jax.vmap(functools.partial(kernel, "logsumexp"))(*stacked)
    for index, each in enumerate(many):
        one = jax.tree.map(lambda leaf, index=index: leaf[index], found)
        check(one, dense("logsumexp", *each), 1e-5)


@pytest.mark.slow
def test_vmap_over_queries_alone():
    arguments, cotangent = problem((12, 40, 6), "all")
    queries, *rest = arguments
    both = jnp.stack([queries, queries[::-1]])
    found = jax.vmap(lambda own: kernel("log1p_sumexp", (own, *rest), cotangent))(both)
    for index in range(2):
        one = jax.tree.map(lambda leaf, index=index: leaf[index], found)
        check(one, dense("log1p_sumexp", (both[index], *rest), cotangent), 1e-5)


@pytest.mark.slow
def test_keys_without_gradient():
    arguments, cotangent = problem((9, 13, 5), "none")
    normalizer = kernel_values("logsumexp", *arguments, interpret=True)[1]
    found = kernel_gradients(
        "logsumexp", *arguments, normalizer, cotangent, for_keys=False, interpret=True
    )
    assert found.keys is None
    np.testing.assert_allclose(
        found.queries, dense("logsumexp", arguments, cotangent)[2][0], rtol=1e-5, atol=1e-6
    )


@pytest.mark.slow
def test_normalizer_over_more_keys_than_these():
    """As on a ring: the gradients of parts of the keys add up to those of all."""
    arguments, cotangent = problem((9, 13, 5), "key_where")
    queries, keys, scale, shift, pairs = arguments
    expected = dense("logsumexp", arguments, cotangent)
    total = 0
    for part in (slice(0, 4), slice(4, 13)):
        cut = (queries, keys[part], scale, shift, Pairs(key_where=pairs.key_where[part]))
        found = kernel_gradients("logsumexp", *cut, expected[1], cotangent, interpret=True)
        total += found.queries
        np.testing.assert_allclose(found.keys, expected[2][1][part], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(total, expected[2][0], rtol=1e-5, atol=1e-6)


def test_what_the_kernels_do_not_take():
    rows, numbers = jnp.ones((4, 3)), jnp.arange(4)
    assert supports(rows, rows, Pairs(numbers, numbers))
    assert not supports(rows, jnp.ones((4, 4, 3)), Pairs())
    assert not supports(rows, rows, Pairs(numbers, jnp.ones((4, 4), int)))
    assert not supports(jnp.ones((4, 4097)), jnp.ones((4, 4097)), Pairs())
    assert not supports(rows, jnp.ones((0, 3)), Pairs())
    with jax.enable_x64():
        assert not supports(rows.astype(jnp.float64), rows, Pairs())
        assert not supports(rows, rows, Pairs(numbers.astype(jnp.int64), numbers))
    with pytest.raises(ValueError, match=r"keys \(4, 4, 3\) float32 .* ask `supports` first"):
        kernel_values("logsumexp", rows, jnp.ones((4, 4, 3)), jnp.float32(1), jnp.zeros(4), Pairs())


@pytest.fixture
def tpu():
    """A chip of a topology, for the compiler alone."""
    pytest.importorskip("libtpu", reason='pip install "jaxcl[plan]"')
    return lambda name: find_slice(name).devices()[0]


@SLOW
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x4", "v6e:2x2"])
@pytest.mark.parametrize(
    ("reduction", "shape"),
    [(reduction, (8192, 16384, 128)) for reduction in REDUCTIONS]
    + [("logsumexp", (2000, 3000, width)) for width in (1, 100, 512, 768, 1024, 2048, 4096)],
    ids=str,
)
def test_compiles_for_tpu(tpu, topology, reduction, shape, dtype):
    n, m, d = shape
    where = jax.sharding.SingleDeviceSharding(tpu(topology))

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    def run(cotangent, *arguments):
        values, normalizer = kernel_values(reduction, *arguments)
        return values, kernel_gradients(reduction, *arguments, normalizer, cotangent)

    pairs = Pairs(
        array(n, dtype=jnp.int32),
        array(m, dtype=jnp.int32),
        array(n, dtype=bool),
        array(m, dtype=bool),
        array(),
    )
    arguments = (array(n, d, dtype=dtype), array(m, d, dtype=dtype), array(), array(n), pairs)
    compiled = jax.jit(run).lower(array(n), *arguments).compile()
    assert compiled.as_text().count('custom_call_target="tpu_custom_call"') == 3
    # Copies of the rows at most, filled up to whole blocks; the matrix would have 4 N M.
    rows = 4 * (n + m + 1024) * max(d, 128)
    assert compiled.memory_analysis().temp_size_in_bytes <= 4 * rows
    # Forward 2, backward 4 for each side's gradient: what each kernel has said of itself.
    cost = compiled.cost_analysis()
    assert cost["flops"] >= 10 * n * m * d
    assert cost["transcendentals"] >= 3 * n * m
