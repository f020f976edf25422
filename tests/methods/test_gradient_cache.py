"""Gradient caching of a plain pair of functions equals the direct gradient, in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxcl import losses
from jaxcl.encoders.winograd import convolve_3x3
from jaxcl.methods import grad_cache
from jaxcl.methods.gradient_cache import _has_convolutions

N, KEY = 64, jax.random.key(0)
INPUTS = tuple(jax.random.normal(KEY, (2, N, 7)))


def mlp_params():
    keys = jax.random.split(KEY, 3)
    return {
        "w0": jax.random.normal(keys[0], (7, 16)) / 3,
        "b0": 0.1 * jax.random.normal(keys[1], (16,)),
        "w1": jax.random.normal(keys[2], (16, 5)) / 4,
        "scale": jnp.float32(1.0),  # learned: gradient comes through the objective alone
    }


PARAMS = mlp_params()


def encode(params, x):
    return jnp.tanh(x @ params["w0"] + params["b0"]) @ params["w1"]


def represent(params, inputs):
    return tuple(encode(params, x) for x in inputs)


def softmax_loss(queries, keys, scale, axis):
    """InfoNCE in four lines, for tests that are not about the loss: it compiles in no time."""
    assert axis is None
    logits = queries @ keys.T * jnp.exp(scale)
    return jax.nn.logsumexp(logits, axis=1) - jnp.diagonal(logits)


LOSSES = {
    "softmax": softmax_loss,
    "info_nce": lambda q, p, scale, axis: losses.info_nce(
        q, p, temperature=jnp.exp(-scale), axis_name=axis
    ),
    "nt_xent": lambda q, p, scale, axis: losses.nt_xent(
        q, p, temperature=jnp.exp(-scale), axis_name=axis
    ),
    "clip": lambda q, p, scale, axis: losses.clip(q, p, logit_scale=scale, axis_name=axis),
}


def objective_of(name, axis_name=None):
    def objective(params, embeddings):
        return LOSSES[name](*embeddings, params["scale"], axis_name).mean()

    return objective


def direct(objective, represent=represent, **options):
    def loss(params, inputs, *rest):
        return objective(params, represent(params, inputs), *rest)

    return jax.jit(jax.value_and_grad(loss, **options))


def assert_equal(found, expected, tolerance=1e-5):
    """Within the tolerance, relative to the largest entry of each array where that is above 1."""

    def compare(ours, theirs):
        scale = max(1.0, float(jnp.max(jnp.abs(theirs))))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale)

    jax.tree.map(compare, found, expected)


def and_slow(fast, slow):
    return [*fast, *(pytest.param(*case, marks=pytest.mark.slow) for case in slow)]


@pytest.mark.parametrize(
    ("name", "chunks"),
    and_slow(
        [("softmax", 1), ("softmax", 2), ("softmax", 8)],
        [(name, count) for name in ("clip", "nt_xent", "info_nce") for count in (1, 2, 8)],
    ),
)
def test_equals_the_direct_gradient(name, chunks):
    objective = objective_of(name)
    expected = direct(objective)(PARAMS, INPUTS)
    assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(expected[1]))
    cached = jax.jit(grad_cache(represent, objective, micro_batch=N // chunks))
    assert_equal(cached(PARAMS, INPUTS), expected)


def test_a_micro_batch_larger_than_the_batch_is_the_batch():
    objective = objective_of("softmax")
    cached = jax.jit(grad_cache(represent, objective, micro_batch=1000))
    assert_equal(cached(PARAMS, INPUTS), direct(objective)(PARAMS, INPUTS))


@pytest.mark.parametrize(
    ("name", "devices", "mapping"),
    and_slow(
        [("clip", 8, "vmap")],
        [("clip", count, "vmap") for count in (1, 2)]
        + [("clip", count, "shard_map") for count in (1, 2, 8)]
        + [("clip", count, "pmap") for count in (1, 2, 8)]
        + [(name, 8, kind) for name in ("info_nce", "nt_xent") for kind in ("vmap", "shard_map")],
    ),
)
def test_devices_change_nothing(name, devices, mapping):
    cached = grad_cache(represent, objective_of(name, "d"), micro_batch=4)

    def step(inputs):
        return jax.lax.pmean(cached(PARAMS, inputs), "d")

    split = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), INPUTS)
    if mapping == "vmap":
        found = jax.jit(jax.vmap(step, axis_name="d"))(split)
    elif mapping == "pmap":
        found = jax.pmap(step, axis_name="d", devices=jax.devices()[:devices])(split)
    else:
        mesh = Mesh(np.array(jax.devices()[:devices]), ("d",))
        mapped = jax.shard_map(
            lambda inputs: jax.tree.map(lambda x: x[None], step(inputs)),
            mesh=mesh,
            in_specs=P("d"),
            out_specs=P("d"),
            check_vma=False,
        )
        found = jax.jit(mapped)(INPUTS)
    expected = direct(objective_of(name))(PARAMS, INPUTS)
    for device in range(devices):
        assert_equal(jax.tree.map(lambda x, d=device: x[d], found), expected)


def test_steps_inside_scan():
    objective = objective_of("softmax")

    def descend(loss_and_grad):
        def step(params, inputs):
            loss, grads = loss_and_grad(params, inputs)
            return jax.tree.map(lambda p, g: p - 0.5 * g, params, grads), loss

        batches = tuple(jax.random.normal(KEY, (2, 3, 16, 7)))
        return jax.jit(lambda params: jax.lax.scan(step, params, batches))(PARAMS)

    found = descend(grad_cache(represent, objective, micro_batch=4))
    assert_equal(found, descend(direct(objective)))


def drop(key, x):
    return jnp.where(jax.random.bernoulli(key, 0.7, x.shape), x / 0.7, 0.0)


@pytest.mark.slow
def test_dropout_is_the_same_in_both_passes():
    """Equal to a direct computation that drops what micro-batch i drops with key i."""
    objective = objective_of("softmax")
    micro_batch = 16

    def represent_dropped(params, inputs, key):
        return tuple(
            encode(params, drop(jax.random.fold_in(key, view), x)) for view, x in enumerate(inputs)
        )

    def represent_all(params, inputs):
        parts = [
            represent_dropped(params, rows, jax.random.fold_in(KEY, number))
            for number, rows in enumerate(
                zip(*(jnp.split(x, N // micro_batch) for x in inputs), strict=True)
            )
        ]
        return jax.tree.map(lambda *rows: jnp.concatenate(rows), *parts)

    cached = jax.jit(grad_cache(represent_dropped, objective, micro_batch=micro_batch))
    expected = direct(objective, represent_all)(PARAMS, INPUTS)
    assert_equal(cached(PARAMS, INPUTS, key=KEY), expected)
    other, _ = cached(PARAMS, INPUTS, key=jax.random.key(1))
    assert abs(other - expected[0]) > 1e-3


@pytest.mark.slow
def test_rows_with_keys_of_their_own_draw_the_same_in_any_micro_batch():
    objective = objective_of("softmax")

    def represent_noisy(params, inputs):
        views, keys = inputs
        return tuple(
            encode(params, jax.vmap(drop)(jax.vmap(jax.random.fold_in, (0, None))(keys, view), x))
            for view, x in enumerate(views)
        )

    inputs = (INPUTS, jax.random.split(KEY, N))
    expected = direct(objective, represent_noisy)(PARAMS, inputs)
    for micro_batch in (N // 2, N // 8):
        cached = jax.jit(grad_cache(represent_noisy, objective, micro_batch=micro_batch))
        assert_equal(cached(PARAMS, inputs), expected)


def test_labels_beside_embeddings_aux_and_whole_arguments():
    """Integers may ride along with the rows or go to the objective whole."""
    labels = jnp.arange(N) % 5

    def represent_labelled(params, inputs):
        return {"rows": encode(params, inputs[0]), "labels": inputs[1]}

    def objective(params, embeddings, whole):
        same = embeddings["labels"][:, None] == embeddings["labels"]
        similarities = embeddings["rows"] @ embeddings["rows"].T
        return jnp.where(same, -similarities, similarities).mean(), (embeddings["labels"], whole)

    arguments = (PARAMS, (INPUTS[0], labels), labels)
    cached = jax.jit(grad_cache(represent_labelled, objective, micro_batch=8, has_aux=True))
    found = cached(*arguments)
    assert_equal(found, direct(objective, represent_labelled, has_aux=True)(*arguments))
    np.testing.assert_array_equal(found[0][1][0], labels)


@pytest.mark.slow
def test_narrow_parameters_are_summed_in_float32():
    """256 equal gradients of 1.0: in bfloat16 the sum would stop at 256 / 2 or before."""
    params = jnp.bfloat16(2.0)
    rows = jnp.ones((257, 1), jnp.bfloat16)
    cached = grad_cache(lambda w, x: w * x, lambda w, z: z.astype(jnp.float32).sum(), micro_batch=1)
    loss, gradient = cached(params, rows)
    assert gradient.dtype == jnp.bfloat16
    assert float(loss) == 514.0
    assert float(gradient) == float(jnp.bfloat16(257.0))
    cached = grad_cache(lambda w, x: w * x, lambda w, z: 3 * jnp.sum(z), micro_batch=1)
    assert float(cached(params, jnp.ones((400, 1), jnp.bfloat16))[1]) == 1200.0


@pytest.mark.slow
def test_the_compiler_reserves_less_than_a_quarter_of_the_memory_for_8_chunks():
    layers = jax.random.normal(KEY, (8, 64, 64)) / 8

    def deep(layers, inputs):
        for weights in layers:
            inputs = jnp.tanh(inputs @ weights)
        return inputs[:, :8]

    def objective(layers, rows):
        return jnp.square(rows.mean(0)).sum() - jnp.square(rows).mean()  # needs no memory

    inputs = jax.random.normal(KEY, (1024, 64))

    def temporaries(function):
        compiled = jax.jit(function).lower(layers, inputs).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    def of(micro_batch):
        return temporaries(grad_cache(deep, objective, micro_batch=micro_batch))

    assert of(128) < temporaries(direct(objective, deep)) / 4
    assert of(128) < of(512)


def test_convolutions_of_either_kind_are_seen():
    """They may not stand in a loop on a CPU."""
    images, kernel = jnp.ones((2, 4, 8, 8, 3)), jnp.ones((3, 3, 3, 5))

    def by_jax(kernel, images):
        return jax.lax.conv(
            images.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1), (1, 1), "SAME"
        )

    def by_fewer_products(kernel, images):
        return convolve_3x3(images, kernel)

    assert _has_convolutions(by_jax, kernel, images)
    assert _has_convolutions(by_fewer_products, kernel, images)
    assert not _has_convolutions(lambda kernel, images: images + kernel.sum(), kernel, images)


@pytest.mark.slow
def test_convolutions_take_less_memory():
    """On a CPU they may not stand in a loop, and unrolled the compiler may not mix the chunks."""
    layers = jax.random.normal(KEY, (6, 3, 3, 32, 32)) / 17

    def convolve(layers, images):
        for kernel in layers:
            images = jax.lax.conv_general_dilated(
                images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            images = jax.nn.relu(images)
        return images.mean((1, 2))

    def objective(layers, rows):
        return softmax_loss(rows, rows[::-1], 0.0, None).mean()

    arguments = (layers, jax.random.normal(KEY, (64, 16, 16, 32)))
    programs = [
        jax.jit(function).lower(*arguments).compile()
        for function in (
            direct(objective, convolve),
            grad_cache(convolve, objective, micro_batch=8),
        )
    ]
    at_once, cached = (program.memory_analysis().temp_size_in_bytes for program in programs)
    assert cached < at_once / 4

    assert_equal(programs[1](*arguments), programs[0](*arguments))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: grad_cache(represent, objective_of("softmax"), micro_batch=0),
            "at least 1, got 0",
        ),
        (
            lambda: grad_cache(represent, objective_of("softmax"), micro_batch=24)(PARAMS, INPUTS),
            "micro_batch 24 does not divide a device's batch of 64 rows: use 16 or 32",
        ),
        (
            lambda: grad_cache(represent, objective_of("softmax"), micro_batch=8)(
                PARAMS, (INPUTS[0], INPUTS[1][:32])
            ),
            r"same N > 0, got \(64, 7\) at inputs\[0\], \(32, 7\) at inputs\[1\]",
        ),
        (
            lambda: grad_cache(represent, objective_of("softmax"), micro_batch=8)(PARAMS, ()),
            "same N > 0, got no array",
        ),
        (
            lambda: grad_cache(represent, objective_of("softmax"), micro_batch=8)(
                PARAMS, (INPUTS[0], jnp.float32(1.0))
            ),
            r"got \(64, 7\) at inputs\[0\], \(\) at inputs\[1\]",
        ),
        (
            lambda: grad_cache(
                lambda params, x: jnp.concatenate(represent(params, x)),
                lambda params, z: z.mean(),
                micro_batch=8,
            )(PARAMS, INPUTS),
            r"shape \(16, 5\) for a micro-batch of 8 rows, expected \[8, ...\]",
        ),
        (
            lambda: grad_cache(represent, lambda params, z: z[0].mean(1), micro_batch=8)(
                PARAMS, INPUTS
            ),
            r"scalar loss, got shape \(64,\): take its mean",
        ),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
