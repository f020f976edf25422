"""What a program for TPU would run, its kernels interpreted, against blocks of rows and tiles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import losses
from jaxcl.similarity import Execution, Pairs, platform, similarity_rows, tpu_kernel

N, M, D = 13, 21, 5
X, Y, QUEUE = (
    jax.random.normal(jax.random.key(seed), (rows, D)) for seed, rows in enumerate((N, N, M))
)
IDS = jnp.arange(N) // 2
WHERE = jnp.arange(N) % 5 > 0
WEIGHTS = jax.random.uniform(jax.random.key(9), (2 * N,))
OPTIONS = {"block_size": 4, "where": WHERE}
T = {"temperature": 0.3}
LOSSES = {
    "queue": (functools.partial(losses.info_nce, **T), [X, Y, QUEUE]),
    "batch": (functools.partial(losses.info_nce, **T, ids=IDS, ignore_above=0.4), [X, Y]),
    "nt_xent": (functools.partial(losses.nt_xent, **T, ids=IDS), [X, Y]),
    "nt_xent, thinned": (functools.partial(losses.nt_xent, **T, ignore_above=0.4), [X, Y]),
    "hard_nt_xent": (functools.partial(losses.hard_nt_xent, **T), [X, Y]),
    "clip": (functools.partial(losses.clip, logit_scale=1.0), [X, Y]),
    "siglip": (functools.partial(losses.siglip, logit_scale=1.0, logit_bias=-1.0), [X, Y]),
}


@pytest.fixture
def on_tpu(monkeypatch):
    """Lets programs take the branch that is TPU's; says how many kernels were called for."""
    called = []

    def interpreted(kernel):
        def call(*arguments, **options):
            called.append(kernel.__name__)
            return kernel(*arguments, interpret=True, **options)

        return call

    for name in ("kernel_values", "kernel_gradients"):
        monkeypatch.setattr(tpu_kernel, name, interpreted(getattr(tpu_kernel, name)))

    def switch():
        monkeypatch.setattr(platform, "may_lower_for_tpu", lambda: True)
        monkeypatch.setattr(
            jax.lax, "platform_dependent", lambda *arguments, tpu, default: tpu(*arguments)
        )
        return called

    return switch


def value_and_gradients(loss, arrays, weights):
    def total(*arrays):
        values = loss(*arrays, **OPTIONS)
        return jnp.sum(values * (1.0 if weights is None else weights[: len(values)])), values

    numbers = range(len(arrays))
    (_, values), gradients = jax.jit(jax.value_and_grad(total, numbers, has_aux=True))(*arrays)
    return values, gradients


# Of each reduction one, of each way to weigh its rows.
FAST = {("queue", "weighted"), ("nt_xent", "uniform"), ("siglip", "weighted")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "weights"),
    [
        pytest.param(
            *(case, weights),
            id=f"{case}-{name}",
            marks=[] if (case, name) in FAST else pytest.mark.slow,
        )
        for case in LOSSES
        for name, weights in {"uniform": None, "weighted": WEIGHTS}.items()
    ],
)
def test_kernels_in_a_loss(on_tpu, case, weights):
    loss, arrays = LOSSES[case]
    wanted = value_and_gradients(loss, arrays, weights)
    called = on_tpu()
    found = value_and_gradients(loss, arrays, weights)
    assert {"kernel_values", "kernel_gradients"} == set(called)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6), found, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [None, 4], ids=["dense", "tiled"])
@pytest.mark.parametrize("uniform", [True, False])
def test_bfloat16_rows_without_kernels(block_size, uniform):
    """They are widened: as the same numbers in float32, but that a gradient is rounded."""
    rows, keys = X.astype(jnp.bfloat16), QUEUE.astype(jnp.bfloat16)

    def total(rows, keys):
        found = similarity_rows(
            *("logsumexp", rows, keys),
            temperature=0.3,
            pairs=Pairs(key_where=jnp.arange(M) > 2),
            execution=Execution(block_size=block_size),
            uniform=uniform,
        )
        assert found.dtype == jnp.float32
        return found.mean()

    found = jax.value_and_grad(total, (0, 1))(rows, keys)
    wanted = jax.value_and_grad(total, (0, 1))(rows.astype(jnp.float32), keys.astype(jnp.float32))
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-6)
    for ours, theirs in zip(found[1], wanted[1], strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs, rtol=2**-8, atol=1e-7)


def test_without_a_compiler_for_tpu_no_kernel_is_traced(on_tpu, monkeypatch):
    called = on_tpu()
    monkeypatch.setattr(platform, "may_lower_for_tpu", lambda: False)
    loss, arrays = LOSSES["queue"]
    value_and_gradients(loss, arrays, None)
    assert not called
