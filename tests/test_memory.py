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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.parametrize("outside", [SIZE, -2])
@pytest.mark.parametrize("kind", [np.array, list])
def test_known_indices_outside_are_refused(outside, kind):
    bank = memory.init_bank(jax.random.key(0), SIZE, DIM)
    message = f"indices has {outside}, expected 0 to {SIZE - 1}"
    with pytest.raises(ValueError, match=message):
        memory.lookup(bank, kind([0, outside]))
    with pytest.raises(ValueError, match=message):
        memory.refresh(bank, kind([0, outside]), jnp.ones((2, DIM)), momentum=0.5)
    padded = memory.lookup(bank, kind([0, -1]))
    np.testing.assert_array_equal(np.isnan(padded).all(axis=1), [False, True])


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


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_labels_and_ids_lie_beside_their_rows():
    queue = memory.init_queue(jax.random.key(0), SIZE, DIM, labels=True, ids=True)
    assert np.all(queue.labels == -1)
    expected = collections.deque([(-1, -1)] * SIZE, maxlen=SIZE)
    enqueue = jax.jit(memory.enqueue, donate_argnums=0)
    first = 0
    for keys in batches([3, 5, 16, 2]):
        ids = np.arange(first, first + len(keys))
        queue = enqueue(queue, keys, labels=ids % 3, ids=ids)
        expected.extend(zip(ids % 3, ids, strict=True))
        first += len(keys)
        found = np.roll(np.stack([queue.labels, queue.ids], axis=1), -int(queue.cursor), axis=0)
        np.testing.assert_array_equal(found, np.stack(expected))


@pytest.mark.slow
def test_age_counts_the_rows_enqueued_since():
    queue = memory.init_queue(jax.random.key(0), SIZE, DIM, ids=True)
    for number in range(23):
        queue = memory.enqueue(queue, jnp.ones((1, DIM)), ids=jnp.array([number]))
        known = queue.ids >= 0
        np.testing.assert_array_equal(memory.age(queue)[known], number - queue.ids[known])
        assert sorted(memory.age(queue).tolist()) == list(range(SIZE))


@pytest.mark.slow
def test_labels_of_all_devices_are_enqueued_in_the_order_of_the_rows():
    start = memory.init_queue(jax.random.key(0), SIZE, DIM, labels=True)
    keys, labels = batches([6])[0], np.arange(6)
    whole = memory.enqueue(start, keys, labels=labels)
    split = jax.vmap(
        lambda keys, labels: memory.enqueue(start, keys, labels=labels, axis_name="d"),
        axis_name="d",
    )(keys.reshape(3, 2, DIM), labels.reshape(3, 2))
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_array_equal(ours, np.stack([theirs] * 3)),
        split,
        whole,
    )


def sharded(size, devices):
    """A function that maps over the shards of a bank, and the bank whole."""
    bank = memory.init_bank(jax.random.key(3), size, DIM)

    def start(_):
        return memory.init_sharded_bank(jax.random.key(3), size, DIM, axis_name="d")

    return jax.vmap(start, axis_name="d")(jnp.arange(devices)), bank


def whole_rows(shards, size):
    return np.asarray(shards.embeddings).reshape(-1, DIM)[:size]


@pytest.mark.slow
@pytest.mark.parametrize("size", [21, 16, 5])  # even, with rows past the end, with empty devices
def test_a_sharded_bank_is_the_bank(size):
    shards, bank = sharded(size, 8)
    np.testing.assert_array_equal(whole_rows(shards, size), bank.embeddings)
    indices = jax.random.randint(jax.random.key(0), (8, 4), -1, size + 1)  # outside ones, doubles
    new = np.random.default_rng(1).normal(size=(8, 4, DIM)).astype(np.float32)

    found = jax.vmap(lambda bank, i: memory.lookup(bank, i, axis_name="d"), axis_name="d")(
        shards, indices
    )
    wanted = memory.lookup(bank, indices.reshape(-1))
    np.testing.assert_array_equal(found.reshape(-1, DIM), wanted)

    def refresh(bank, i, rows):
        return memory.refresh(bank, i, rows, momentum=0.5, axis_name="d")

    after = jax.jit(jax.vmap(refresh, axis_name="d"))(shards, indices, new)
    wanted = memory.refresh(bank, indices.reshape(-1), new.reshape(-1, DIM), momentum=0.5)
    np.testing.assert_allclose(whole_rows(after, size), wanted.embeddings, rtol=1e-6, atol=1e-7)


def test_a_sharded_bank_under_shard_map_holds_its_share_of_bytes():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("d",))
    spec = jax.sharding.PartitionSpec("d")
    size, rows = 800_000, 100_000

    def step(embeddings, indices, new):
        bank = memory.ShardedBank(embeddings, size)
        old = memory.lookup(bank, indices, axis_name="d")
        return memory.refresh(bank, indices, old + new, momentum=0.5, axis_name="d").embeddings

    mapped = jax.shard_map(step, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    shapes = [
        jax.ShapeDtypeStruct((size, 16), jnp.float32),
        jax.ShapeDtypeStruct((64,), jnp.int32),
        jax.ShapeDtypeStruct((64, 16), jnp.float32),
    ]
    compiled = jax.jit(mapped, donate_argnums=0).lower(*shapes).compile()
    found = compiled.memory_analysis()
    assert found.alias_size_in_bytes == rows * 16 * 4  # written in place
    assert found.argument_size_in_bytes < rows * 16 * 4 * 1.01
    assert found.temp_size_in_bytes < 1e6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda queue, bank: memory.enqueue(queue, jnp.ones((2, DIM)), labels=jnp.arange(2)),
            r"labels came, but the queue keeps none: start it with init_queue\(..., labels=True\)",
        ),
        (lambda queue, bank: memory.enqueue(queue, jnp.ones((2, DIM))), "ids are missing"),
        (
            lambda queue, bank: memory.enqueue(queue, jnp.ones((2, DIM)), ids=jnp.arange(3)),
            r"ids has shape \(3,\), expected \[B\] with B = 2",
        ),
        (
            lambda queue, bank: memory.lookup(bank, jnp.arange(2)),
            "axis_name is None: a ShardedBank",
        ),
        (
            lambda queue, bank: memory.refresh(
                bank, jnp.arange(2), jnp.ones((2, DIM)), momentum=0.5
            ),
            "axis_name is None: a ShardedBank",
        ),
    ],
)
def test_what_does_not_go_with_the_memory_is_named(call, message):
    queue = memory.init_queue(jax.random.key(0), SIZE, DIM, ids=True)
    with pytest.raises(ValueError, match=message):
        call(queue, memory.ShardedBank(jnp.ones((4, DIM)), 16))
