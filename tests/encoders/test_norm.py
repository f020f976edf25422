"""BatchNorm against NumPy, in groups, and across devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl.encoders import BatchNorm
from jaxcl.planning import find_collectives

X = np.random.default_rng(0).normal(3.0, 2.0, (16, 5, 4)).astype(np.float32)
VARIABLES = {
    "params": {"scale": jnp.array([1.0, 2.0, 3.0, 4.0]), "bias": jnp.array([0.0, 1.0, 2.0, 3.0])},
    "batch_stats": {"mean": jnp.full(4, 0.5), "var": jnp.full(4, 2.0)},
}


def normalized(x):
    x = x.astype(np.float64)
    mean, var = x.mean((0, 1)), x.var((0, 1))
    scale, bias = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 1.0, 2.0, 3.0])
    return (x - mean) / np.sqrt(var + 1e-5) * scale + bias


def apply(norm, x, axis_name=None):
    return norm.apply(VARIABLES, x, train=True, axis_name=axis_name, mutable=["batch_stats"])


@pytest.mark.slow
def test_training_normalizes_by_the_batch_and_updates_as_pytorch():
    y, updated = apply(BatchNorm(), X)
    np.testing.assert_allclose(y, normalized(X), atol=1e-4)
    flat = X.reshape(-1, 4).astype(np.float64)
    stats = updated["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.9 * 0.5 + 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 * 2.0 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)


def test_evaluation_normalizes_by_the_running_statistics():
    y = BatchNorm(affine=False).apply({"batch_stats": VARIABLES["batch_stats"]}, X, train=False)
    np.testing.assert_allclose(y, (X - 0.5) / np.sqrt(2.0 + 1e-5), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_groups_normalize_consecutive_rows_apart():
    y, updated = apply(BatchNorm(groups=4), X)
    expected = np.concatenate([normalized(part) for part in np.split(X, 4)])
    np.testing.assert_allclose(y, expected, atol=1e-4)
    variances = [part.reshape(-1, 4).var(0, ddof=1) for part in np.split(X.astype(np.float64), 4)]
    np.testing.assert_allclose(
        updated["batch_stats"]["var"], 0.9 * 2.0 + 0.1 * np.mean(variances, 0), rtol=1e-5
    )


def test_a_mean_far_from_zero_costs_no_digits_once_the_running_one_is_near():
    far = X + 1e4
    stats = {"mean": jnp.full(4, 1e4 + 2), "var": jnp.full(4, 2.0)}
    y, _ = BatchNorm().apply(
        VARIABLES | {"batch_stats": stats}, far, train=True, mutable="batch_stats"
    )
    np.testing.assert_allclose(y, normalized(far), atol=5e-3)  # 1e4 itself has steps of 1e-3
    first, _ = BatchNorm().apply(
        VARIABLES | {"batch_stats": stats | {"mean": jnp.zeros(4)}},
        far,
        train=True,
        mutable="batch_stats",
    )
    assert np.abs(first - normalized(far)).max() > 0.05  # what the distance would cost


@pytest.mark.slow
def test_a_few_values_far_from_the_running_mean_cost_no_digits():
    far = (X[:4, 0] / 100 + 30).astype(np.float32)
    for groups in (None, 2):
        y, _ = apply(BatchNorm(groups=groups), far)
        parts = np.split(far[:, None], groups or 1)
        expected = np.concatenate([normalized(part) for part in parts])
        np.testing.assert_allclose(y[:, None], expected, atol=2e-3)  # 30 has steps of 2e-6


@pytest.mark.slow
def test_a_constant_has_no_variance_and_finite_gradients():
    def total(x):
        y, updated = apply(BatchNorm(), x)
        return jnp.sin(y).sum(), updated

    gradient, updated = jax.grad(total, has_aux=True)(jnp.full((8, 4), 1.7))
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9 * 2.0, rtol=1e-5)


def test_both_moments_cross_devices_at_once():
    """One exchange forward, one backward."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("d",))
    axes = jax.sharding.PartitionSpec("d")

    def gradient(x):
        return jax.grad(lambda x: jnp.sin(apply(BatchNorm(), x, "d")[0]).sum())(x)

    mapped = jax.shard_map(gradient, mesh=mesh, in_specs=axes, out_specs=axes, check_vma=False)
    text = jax.jit(mapped).lower(X).compile().as_text()
    found = find_collectives(text)
    assert [(each.kind, each.bytes) for each in found] == [("all-reduce", 2 * 4 * 4)] * 2


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 8])
def test_across_devices_equals_the_global_batch(devices):
    def local(x):
        return apply(BatchNorm(), x, axis_name="d")

    y, updated = jax.vmap(local, axis_name="d")(X.reshape(devices, -1, 5, 4))
    whole, whole_updated = apply(BatchNorm(), X)
    np.testing.assert_allclose(y.reshape(X.shape), whole, atol=1e-5)
    for name in ("mean", "var"):
        for device in range(devices):
            np.testing.assert_allclose(
                updated["batch_stats"][name][device],
                whole_updated["batch_stats"][name],
                rtol=1e-5,
            )


@pytest.mark.slow
def test_one_group_a_device_equals_groups_on_one_device():
    def local(x):
        return apply(BatchNorm(groups=1), x, axis_name="d")

    y, updated = jax.vmap(local, axis_name="d")(X.reshape(4, -1, 5, 4))
    whole, whole_updated = apply(BatchNorm(groups=4), X)
    np.testing.assert_allclose(y.reshape(X.shape), whole, atol=1e-5)
    np.testing.assert_allclose(
        updated["batch_stats"]["var"][0], whole_updated["batch_stats"]["var"], rtol=1e-6
    )


def test_statistics_of_bfloat16_are_float32():
    x = (1000.0 + X).astype(jnp.bfloat16)
    y, updated = apply(BatchNorm(dtype="bfloat16"), x)
    assert y.dtype == jnp.bfloat16
    assert updated["batch_stats"]["mean"].dtype == jnp.float32


def test_groups_that_do_not_divide_are_named():
    with pytest.raises(ValueError, match="3 groups do not divide"):
        apply(BatchNorm(groups=3), X)
