"""Parts of the vision transformer against their definitions in NumPy."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl.encoders.vit import AttentionPool, interpolate_positions

KEY = jax.random.key(0)


def bicubic(old, new):
    """[new, old] weights of Keys' cubic (a = -1/2), stretched where the new grid is coarser: what
    PyTorch's interpolate(mode="bicubic", antialias=True) and so timm multiply positions by."""
    stretch = max(old / new, 1.0)
    centers = (np.arange(new)[:, None] + 0.5) * old / new - 0.5
    x = np.abs(np.arange(old) - centers) / stretch
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("grid", [(6, 6), (7, 10), (20, 16)])
def test_positions_are_interpolated_bicubically(grid):
    positions = np.random.default_rng(0).normal(size=(14, 14, 5))
    found = interpolate_positions(jnp.float32(positions.reshape(-1, 5)), (14, 14), grid)
    rows, columns = bicubic(14, grid[0]), bicubic(14, grid[1])
    wanted = np.einsum("ri,cj,ijd->rcd", rows, columns, positions)
    # Places up to 14 in float32 are known to 1e-6, and so are weights.
    np.testing.assert_allclose(found, wanted.reshape(-1, 5), atol=5e-6)


def test_attention_pool_is_one_query_and_two_layers():
    tokens = jax.random.normal(KEY, (2, 5, 8))
    pool = AttentionPool(2, partial(nn.LayerNorm, 1e-6), "gelu", "float32")
    draw = np.random.default_rng(0)
    shapes = jax.eval_shape(pool.init, KEY, tokens)["params"]
    params = jax.tree.map(lambda leaf: np.float32(draw.normal(0, 0.3, leaf.shape)), shapes)
    found = jax.jit(pool.apply)({"params": params}, tokens)
    p, x = jax.tree.map(np.float64, (params, tokens))

    def dense(x, p):
        return x @ p["kernel"] + p["bias"]

    query = dense(p["latent"], p["q"])
    keys, values = np.split(dense(x, p["kv"]), 2, axis=-1)
    pooled = np.zeros((2, 8))
    for row in range(2):
        for head in (slice(0, 4), slice(4, 8)):
            shares = np.exp(keys[row, :, head] @ query[head] / 2)
            pooled[row, head] = shares / shares.sum() @ values[row, :, head]
    y = dense(pooled, p["proj"])
    z = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)
    z = dense(z * p["norm"]["scale"] + p["norm"]["bias"], p["mlp"]["fc1"])
    z = np.float64(jax.nn.gelu(z, approximate=False))
    np.testing.assert_allclose(found, y + dense(z, p["mlp"]["fc2"]), rtol=1e-5, atol=1e-6)
