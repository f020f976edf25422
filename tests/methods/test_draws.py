"""Drop path in training: drawn by the key and each example's number, and by nothing else."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_cases import make_methods

from jaxcl.encoders import MLP, ConvNeXt, ViT, keep_feature_map
from jaxcl.encoders.drop_path import DropPath
from jaxcl.methods import Batch, MoCo, MoCoV3, PlainMemory, SimCLR, cached_loss_and_grad
from jaxcl.methods.draws import Draws
from jaxcl.methods.networks import forward, forward_sizes

KEY = jax.random.key(0)
N = 16


class Dropping(nn.Module):
    """A residual branch that half of the examples skip."""

    rate: float = 0.5

    @nn.compact
    def __call__(self, x, *, train=False, axis_name=None):
        x = nn.Dense(8, name="stem")(x)
        x = x + DropPath(self.rate, name="drop_path")(nn.Dense(8, name="branch")(x), train=train)
        keep_feature_map(self, x.reshape(len(x), 2, 2, -1))
        return x


class DroppingOut(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False, axis_name=None):
        return nn.Dropout(0.5, deterministic=not train)(nn.Dense(8)(x))


ENCODER, HEAD = MLP((12, 8)), MLP((9, 6))
METHODS = {
    "moco": MoCo(ENCODER, HEAD, queue_size=40),
    "moco_v3": MoCoV3(ENCODER, HEAD, HEAD),
    "simclr": SimCLR(ENCODER, HEAD),
    "simclr, queue": SimCLR(ENCODER, HEAD, queue_size=40),
    "memory": PlainMemory(ENCODER, HEAD, memory_size=64, negatives=8),
    "memory, own entry": PlainMemory(ENCODER, HEAD, memory_size=64, negatives=8, positive="memory"),
    **make_methods(ENCODER, HEAD, HEAD, examples=64),
}
METHODS = {
    name: dataclasses.replace(method, encoder=Dropping()) for name, method in METHODS.items()
}


def make_batch(index=True):
    keys = jax.random.split(KEY, 3)
    base = jax.random.normal(keys[0], (N, 7))
    views = tuple(base + 0.5 * jax.random.normal(key, base.shape) for key in keys[1:])
    numbers = jax.random.permutation(keys[0], 64)[:N]
    return Batch(views, numbers if index else None, jnp.arange(N) // 3)


def represent(method, *seeds, devices=1):
    """The embeddings with each key, by one program."""
    batch = make_batch()
    split = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)

    @jax.jit
    def embeddings(key):
        params, state = method.init(KEY, batch)
        found = jax.vmap(
            lambda part: method.represent(params, state, part, key=key, axis_name="d")[0],
            axis_name="d",
        )(split)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)

    return [jax.tree.map(np.asarray, embeddings(jax.random.key(seed))) for seed in seeds]


def fast(*names):
    """All methods, those not named marked slow."""
    return [pytest.param(name, marks=[] if name in names else pytest.mark.slow) for name in METHODS]


@pytest.mark.slow
@pytest.mark.parametrize("name", fast("moco", "byol", "simclr", "dense_cl"))
def test_the_online_network_of_every_method_draws_by_the_key(name):
    """MoCo's key shuffles too, but rows come back to their places."""
    method = METHODS[name]
    found, again, other = represent(method, 1, 1, 2)
    (plain,) = represent(dataclasses.replace(method, encoder=Dropping(0.0)), 1)
    np.testing.assert_array_equal(found[0], again[0])
    # Of 16 rows some are dropped, others under another key, and kept branches count twice.
    for theirs in (other[0], plain[0]):
        assert (np.abs(found[0] - theirs).reshape(N, -1).max(1) > 1e-4).sum() >= 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["moco", "moco_v3", "tico", "dino", "ressl", "moco_v2_plus"])
def test_targets_draw_nothing(name):
    """As in the papers' code."""
    method = METHODS[name]
    found, other = represent(method, 1, 2)
    np.testing.assert_allclose(found[-1], other[-1], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["byol", "simclr", "swav"])
def test_each_view_draws_on_its_own(name):
    """With equal views, which a network without draws would map to equal embeddings."""
    method, batch = METHODS[name], make_batch()
    batch = dataclasses.replace(batch, views=(batch.views[0],) * 2)

    @jax.jit
    def embeddings():
        params, state = method.init(KEY, batch)
        return method.represent(params, state, batch, key=KEY)[0]

    first, second, *_ = embeddings()
    assert 3 <= (np.abs(first - second).max(1) > 1e-4).sum() <= 13


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simclr", "byol", "swav"])
def test_devices_change_no_draw(name):
    on_1, on_8 = (represent(METHODS[name], 0, devices=devices) for devices in (1, 8))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), on_8, on_1)


def test_without_numbers_draws_hang_on_places_in_the_global_batch():
    batch = make_batch(index=False)
    split = jax.vmap(lambda _: batch.draws(KEY, "d").index, axis_name="d")(jnp.arange(2))
    np.testing.assert_array_equal(split, np.arange(2 * N).reshape(2, N))
    np.testing.assert_array_equal(batch.draws(KEY).index, np.arange(N))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simclr", "moco", "dino"])
def test_micro_batches_repeat_the_draws_of_the_whole_batch(name):
    method, batch = METHODS[name], make_batch()
    params, state = jax.jit(method.init)(KEY, batch)
    whole, parts = (
        jax.jit(cached_loss_and_grad(method, micro_batch=size))(params, state, batch, key=KEY)
        for size in (None, 4)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), parts, whole)


def networks(encoder, images):
    params = jax.jit(encoder.init)(KEY, images)["params"]
    return {"encoder": encoder}, {"encoder": params}, {"encoder": {}}


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "blocks"])
@pytest.mark.parametrize(
    "make",
    [
        lambda **options: ViT(
            patch=4, image_size=8, width=8, depth=2, heads=2, pool="mean", **options
        ),
        lambda **options: ConvNeXt(width=4, depths=(1, 1), patch=2, **options),
    ],
)
def test_encoders_draw_for_each_example_and_not_in_evaluation(make, remat):
    encoder = make(drop_path=0.5, remat=remat)
    images = jnp.broadcast_to(jax.random.normal(KEY, (1, 8, 8, 3)), (12, 8, 8, 3))
    of_networks = networks(encoder, images)
    if isinstance(encoder, ConvNeXt):  # whose branches start at nearly nothing
        of_networks = jax.tree_util.tree_map_with_path(
            lambda path, x: jnp.ones_like(x) if "gamma" in str(path) else x, of_networks
        )

    @functools.partial(jax.jit, static_argnums=2)
    def outputs(index, images, train=True):
        draws = Draws(KEY, index)
        return forward(*of_networks, images, train=train, draws=draws)[0]

    index = jnp.arange(12)
    found = np.asarray(outputs(index, images))
    assert len(np.unique(found.round(4), axis=0)) > 1
    np.testing.assert_allclose(outputs(index[6:], images[6:]), found[6:], atol=1e-5)
    evaluated = np.asarray(outputs(index, images, False))
    assert len(np.unique(evaluated.round(4), axis=0)) == 1


def test_the_mean_over_keys_is_the_branch():
    """Of a rate of 0.5 each draw is 0 or twice the branch: deviation 1 / sqrt(keys)."""
    encoder, inputs = Dropping(), make_batch().views[0]
    of_networks = networks(encoder, inputs)
    index = jnp.arange(N)

    @jax.jit
    @jax.vmap
    def branch(key):
        outputs, _ = forward(*of_networks, inputs, train=True, draws=Draws(key, index))
        return outputs

    plain = np.asarray(forward(*of_networks, inputs)[0])
    kernel = of_networks[1]["encoder"]
    stem = np.asarray(inputs @ kernel["stem"]["kernel"] + kernel["stem"]["bias"])
    each = np.asarray(branch(jax.random.split(KEY, 4000))) - stem
    share = each.mean(0) / (plain - stem)  # [N, 8]
    np.testing.assert_allclose(share, share[:, :1].repeat(8, 1), atol=1e-3)  # a whole example
    np.testing.assert_allclose(share, 1, atol=4.5 / np.sqrt(4000))
    assert abs(np.corrcoef(each[:, 0, 0], each[:, 1, 0])[0, 1]) < 0.07  # rows on their own


@pytest.mark.slow
def test_sizes_of_multi_crop_draw_on_their_own():
    """Two sizes that are equal but for zeros."""
    view = make_batch().views[0]
    wide = jnp.pad(view, [(0, 0), (0, 3)])

    class Cut(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False, axis_name=None):
            return Dropping(name="inner")(x[:, :7], train=train)

    of_networks = networks(Cut(), view)
    (first, second, third), _ = forward_sizes(
        *of_networks, [wide, wide, view], draws=Draws(KEY, jnp.arange(N))
    )
    for one, other in ((first, second), (first, third), (second, third)):
        assert 2 <= (np.abs(one - other).max(1) > 1e-4).sum() <= 14


@pytest.mark.slow
def test_flaxs_dropout_draws_by_the_examples_too():
    encoder, inputs = DroppingOut(), jnp.ones((8, 7))
    of_networks = networks(encoder, inputs)

    def draw(index):
        rows = inputs[: len(index)]
        return np.asarray(forward(*of_networks, rows, train=True, draws=Draws(KEY, index))[0])

    whole = draw(jnp.arange(8))
    np.testing.assert_array_equal(draw(jnp.arange(4)), whole[:4])  # on one device of two
    np.testing.assert_array_equal(draw(jnp.arange(4) + 4), whole[4:])
    assert ((whole[:4] == 0) != (whole[4:] == 0)).any()
    np.testing.assert_array_equal(draw(jnp.array([6, 1])), whole[[6, 1]])


def test_flaxs_dropout_without_draws_drops_nothing():
    encoder, inputs = DroppingOut(), jnp.ones((8, 7))
    of_networks = networks(encoder, inputs)
    training = forward(*of_networks, inputs, train=True)[0]
    np.testing.assert_array_equal(training, forward(*of_networks, inputs)[0])


@pytest.mark.slow
def test_a_network_that_draws_nothing_compiles_to_the_same_program():
    encoder, batch = MLP((12, 8), batch_norm=True), make_batch()
    variables = encoder.init(KEY, batch.views[0])
    params, stats = ({"encoder": variables[name]} for name in ("params", "batch_stats"))

    def loss(params, key, index, with_draws):
        draws = Draws(key, index) if with_draws else None
        outputs, after = forward(
            {"encoder": encoder}, params, stats, batch.views[0], train=True, draws=draws
        )
        return (outputs**3).sum(), after

    programs = [
        jax.jit(functools.partial(jax.grad(loss, has_aux=True), with_draws=with_draws))
        .lower(params, KEY, batch.index)
        .compile()
        for with_draws in (False, True)
    ]
    texts = [[line.split(", metadata")[0] for line in p.as_text().splitlines()] for p in programs]
    body = [[line for line in text if " = " in line] for text in texts]
    assert len(body[0]) > 10
    assert body[0] == body[1]


def test_rows_that_no_number_fits_are_named():
    class Doubling(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False, axis_name=None):
            return DropPath(0.5)(jnp.concatenate([x, x]), train=train)

    with pytest.raises(ValueError, match="drop path got 8 rows, expected the 4 that are numbered"):
        forward(
            {"encoder": Doubling()},
            {"encoder": {}},
            {"encoder": {}},
            jnp.ones((4, 2)),
            train=True,
            draws=Draws(KEY, jnp.arange(4)),
        )
