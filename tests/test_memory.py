"""Queue and bank against a deque and loops; across devices; what is chosen from them."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import memory
from jaxcl.memory import Bank, Queue

SIZE, DIM = 7, 3


def batches(sizes, dim=DIM, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(size, dim)).astype(np.float32) for size in sizes]


def oldest_first(queue):
    return np.roll(queue.embeddings, -int(queue.cursor), axis=0)


@pytest.mark.parametrize(
    "sizes", [[7, 7], [3, 3, 3, 3], [1] * 9, [5, 16, 2], [7, 8, 14, 0, 3], [20]], ids=str
)
def test_enqueue_is_first_in_first_out(sizes):
    queue = memory.init_queue(jax.random.key(0), SIZE, DIM)
    expected = collections.deque(np.asarray(queue.embeddings), maxlen=SIZE)
    enqueue = jax.jit(memory.enqueue, donate_argnums=0)
    for batch in batches(sizes):
        queue = enqueue(queue, batch)
        expected.extend(batch)
        np.testing.assert_array_equal(oldest_first(queue), np.stack(expected))
    assert int(queue.cursor) == sum(sizes) % SIZE


def test_enqueue_writes_row_by_row_at_the_cursor():
    """Not only the order: each row lies where a ring written row by row has it."""
    queue = Queue(jnp.zeros((SIZE, DIM)), jnp.int32(5))
    ring, cursor = np.zeros((SIZE, DIM), np.float32), 5
    for batch in batches([4, 9, 16]):
        queue = memory.enqueue(queue, batch)
        for row in batch:
            ring[cursor], cursor = row, (cursor + 1) % SIZE
        np.testing.assert_array_equal(queue.embeddings, ring)
        assert int(queue.cursor) == cursor


def test_enqueue_under_scan_and_in_bfloat16():
    queue = memory.init_queue(jax.random.key(0), SIZE, DIM, jnp.bfloat16)
    stacked = np.stack(batches([4, 4, 4]))
    queue, _ = jax.lax.scan(lambda queue, keys: (memory.enqueue(queue, keys), None), queue, stacked)
    assert queue.embeddings.dtype == jnp.bfloat16
    wanted = stacked.reshape(-1, DIM)[-SIZE:].astype(jnp.bfloat16)
    np.testing.assert_array_equal(oldest_first(queue), wanted)


def test_donated_state_is_written_in_place():
    queue = memory.init_queue(jax.random.key(0), SIZE, DIM)
    bank = memory.init_bank(jax.random.key(0), SIZE, DIM)
    keys = batches([2])[0]

    def refresh(bank, keys):
        return memory.refresh(bank, jnp.array([1, 4]), keys, momentum=0.5)

    for update, state in ((memory.enqueue, queue), (refresh, bank)):
        compiled = jax.jit(update, donate_argnums=0).lower(state, keys).compile()
        held = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        assert compiled.memory_analysis().alias_size_in_bytes == held


def test_initial_rows_are_unit_and_spread():
    for state in (
        memory.init_queue(jax.random.key(0), 2000, 16),
        memory.init_bank(jax.random.key(0), 2000, 16),
    ):
        np.testing.assert_allclose(jnp.linalg.norm(state.embeddings, axis=1), 1, rtol=1e-6)
        # Independent directions: a dimension's mean is within 4 standard errors of 0.
        assert np.max(np.abs(jnp.mean(state.embeddings, axis=0))) < 4 * 0.25 / 2000**0.5
        np.testing.assert_allclose(jnp.var(state.embeddings), 1 / 16, rtol=0.01)


def refreshed(bank, indices, embeddings, momentum):
    """A loop, in which later rows overwrite what earlier ones of the batch have made of a row."""
    new = bank.copy()
    for i, row in zip(indices, embeddings, strict=True):
        if 0 <= i < len(bank):
            mixed = momentum * bank[i] + (1 - momentum) * row
            new[i] = mixed / np.linalg.norm(mixed)
    return new


@pytest.mark.parametrize(
    "indices",
    [[2, 0, 6], [3, 3, 3], [5, 1, 5, 1, 5], [-1, 2, 7, 100, -7, 2]],
    ids=["distinct", "one row thrice", "repeated", "outside"],
)
def test_refresh(indices):
    bank = memory.init_bank(jax.random.key(0), SIZE, DIM)
    embeddings = batches([len(indices)])[0]
    wanted = refreshed(np.asarray(bank.embeddings), indices, embeddings, 0.3)
    for update in (memory.refresh, jax.jit(memory.refresh, donate_argnums=0)):
        found = update(Bank(bank.embeddings.copy()), jnp.array(indices), embeddings, momentum=0.3)
        np.testing.assert_allclose(found.embeddings, wanted, rtol=1e-6, atol=1e-7)
    untouched = [i for i in range(SIZE) if i not in indices]
    np.testing.assert_array_equal(found.embeddings[np.array(untouched)], wanted[untouched])


def test_lookup():
    bank = memory.init_bank(jax.random.key(0), SIZE, DIM)
    rows = memory.lookup(bank, jnp.array([6, 0, 6]))
    np.testing.assert_array_equal(rows, bank.embeddings[jnp.array([6, 0, 6])])
    outside = memory.lookup(bank, jnp.array([7, -1, 3]))
    np.testing.assert_array_equal(np.isnan(outside).all(axis=1), [True, True, False])


@pytest.mark.parametrize("mapping", ["pmap", "shard_map", "vmap"])
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_all_devices_take_in_the_rows_of_all(mapping, count):
    """Twice, the second time past the queue's end; repeated indices lie on different devices."""
    queue = memory.init_queue(jax.random.key(0), 13, DIM)
    bank = memory.init_bank(jax.random.key(1), SIZE, DIM)
    steps = np.stack(batches([8, 8]))
    indices = jnp.array([0, 3, 1, 3, 6, 0, -1, 3])

    def update(state, rows, indices):
        queue, bank = state
        return (
            memory.enqueue(queue, rows, axis_name="devices"),
            memory.refresh(bank, indices, rows, momentum=0.5, axis_name="devices"),
        )

    if mapping == "vmap":
        mapped = jax.jit(jax.vmap(update, axis_name="devices"))
    elif mapping == "pmap":
        mapped = jax.pmap(update, axis_name="devices", devices=jax.devices()[:count])
    else:
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:count]), ("devices",))
        spec = jax.sharding.PartitionSpec("devices")

        def with_device_axis(*inputs):
            outputs = update(*jax.tree.map(lambda x: x[0], inputs))
            return jax.tree.map(lambda x: x[None], outputs)

        mapped = jax.jit(
            jax.shard_map(
                with_device_axis, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
            )
        )

    def by_device(x):
        return x.reshape(count, -1, *x.shape[1:])

    state = jax.tree.map(lambda x: jnp.stack([x] * count), (queue, bank))
    for rows in steps:
        state = mapped(state, by_device(rows), by_device(indices))
        queue = memory.enqueue(queue, rows)
        bank = memory.refresh(bank, indices, rows, momentum=0.5)
    for found, wanted in zip(jax.tree.leaves(state), jax.tree.leaves((queue, bank)), strict=True):
        np.testing.assert_allclose(found, jnp.stack([wanted] * count), rtol=1e-6, atol=1e-7)


@pytest.fixture(params=[Queue, Bank], ids=["queue", "bank"])
def state(request):
    """Rows of several lengths: choices go by direction alone."""
    rows = batches([40], 5)[0] * np.linspace(0.1, 10, 40, dtype=np.float32)[:, None]
    return (
        Bank(jnp.asarray(rows)) if request.param is Bank else Queue(jnp.asarray(rows), jnp.int32(3))
    )


def by_cosine(rows, query):
    cosines = rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)
    return np.argsort(-cosines)


def test_nearest_and_hardest(state):
    rows = np.asarray(state.embeddings)
    queries = batches([6], 5, seed=1)[0]
    exclude = np.stack([by_cosine(rows, query)[[0, 2]] for query in queries])
    exclude[0] = [-1, 40]  # excludes nothing
    near = jax.jit(memory.nearest, static_argnums=2)(state, queries, 4)
    hard = memory.hardest(state, queries, 4, exclude=jnp.asarray(exclude))
    one = memory.hardest(state, queries, 4, exclude=jnp.asarray(exclude[:, 0]))
    for i, query in enumerate(queries):
        order = by_cosine(rows, query)
        np.testing.assert_array_equal(near.indices[i], order[:4])
        for found, excluded in ((hard, exclude[i]), (one, exclude[i, :1])):
            left = [row for row in order if row not in excluded]
            np.testing.assert_array_equal(found.indices[i], left[:4])
    for found in (near, hard):
        np.testing.assert_array_equal(found.embeddings, rows[np.asarray(found.indices)])


def test_no_gradient_reaches_queries_or_memory(state):
    queries = jnp.asarray(batches([6], 5, seed=1)[0])

    def total(embeddings, queries):
        held = Bank(embeddings)
        chosen = memory.nearest(held, queries, 2), memory.draw(jax.random.key(0), held, 3)
        queue = memory.enqueue(Queue(state.embeddings, jnp.int32(0)), queries)
        bank = memory.refresh(Bank(state.embeddings), jnp.arange(6), queries, momentum=0.5)
        arrays = [*(c.embeddings for c in chosen), queue.embeddings, bank.embeddings]
        return sum(jnp.sum(array) for array in arrays)

    for gradient in jax.grad(total, argnums=(0, 1))(state.embeddings, queries):
        assert not np.any(gradient)


def test_draw(state):
    chosen = jax.jit(memory.draw, static_argnums=2)(jax.random.key(0), state, 20_000)
    np.testing.assert_array_equal(chosen.embeddings, state.embeddings[chosen.indices])
    counts = np.bincount(chosen.indices, minlength=40)
    # Uniform: chi-square with 39 degrees of freedom exceeds 72 once in a thousand.
    assert np.sum((counts - 500) ** 2 / 500) < 72
    again = memory.draw(jax.random.key(0), state, 20_000)
    np.testing.assert_array_equal(again.indices, chosen.indices)


def test_errors(state):
    queries = jnp.ones((2, 5))
    bank = Bank(state.embeddings)
    cases = [
        (lambda: memory.init_queue(jax.random.key(0), 0, 4), "size is 0, expected at least 1"),
        (lambda: memory.init_bank(jax.random.key(0), 4, 0), "dim is 0, expected at least 1"),
        (lambda: memory.draw(jax.random.key(0), state, 0), "n is 0, expected at least 1"),
        (lambda: memory.nearest(state, queries, 41), "k is 41, expected 1 to 40"),
        (lambda: memory.nearest(state, queries, 0), "k is 0, expected 1 to 40"),
        (
            lambda: memory.hardest(state, queries, 39, exclude=jnp.zeros((2, 2), int)),
            "k is 39, expected 1 to 38: the memory has 40 rows, of which 2 may be excluded",
        ),
        (
            lambda: memory.hardest(state, queries, 1, exclude=jnp.zeros(3, int)),
            r"exclude has shape \(3,\), expected \[N\] with N = 2",
        ),
        (lambda: memory.nearest(state, jnp.ones((2, 4)), 1), r"queries has shape .* D = 5"),
        (
            lambda: memory.enqueue(Queue(state.embeddings, jnp.int32(0)), jnp.ones((2, 4))),
            r"keys has shape \(2, 4\), expected \[B, D\] with D = 5",
        ),
        (
            lambda: memory.enqueue(
                Queue(state.embeddings, jnp.int32(0)), queries, axis_name="devices"
            ),
            "axis_name is 'devices', but no axis",
        ),
        (
            lambda: memory.refresh(bank, jnp.arange(3), queries, momentum=0.5),
            r"embeddings has shape \(2, 5\), expected .* B = 3",
        ),
        (
            lambda: memory.refresh(bank, jnp.arange(2), queries, momentum=1.5),
            "momentum is 1.5, expected at least 0 and at most 1",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="indices has dtype float32, expected integers"):
        memory.lookup(bank, jnp.ones(2))
    with pytest.raises(TypeError, match="keys has dtype int32, expected floating point"):
        memory.enqueue(Queue(state.embeddings, jnp.int32(0)), jnp.ones((2, 5), int))
