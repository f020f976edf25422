"""Bad arguments: errors while tracing name the argument, what came and what is expected."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import losses

N, M, D = 6, 5, 4
X = jnp.ones((N, D))
WHERE = jnp.ones(N, bool)
IDS = jnp.arange(N)

# Each loss with its arrays' names; the first gives N and D to the others.
ARRAYS = {
    losses.info_nce: ["queries", "positives"],
    losses.nt_xent: ["z0", "z1"],
    losses.dcl: ["z0", "z1"],
    losses.dclw: ["z0", "z1"],
    losses.hard_nt_xent: ["z0", "z1"],
    losses.clip: ["image", "text"],
    losses.siglip: ["image", "text"],
    losses.triplet: ["anchor", "positive", "negative"],
    losses.distance_difference: ["anchor", "positive", "negative"],
    losses.negative_cosine: ["predictions", "targets"],
}
REQUIRED = {
    losses.triplet: {"margin": 0.5},
    losses.clip: {"logit_scale": 1.0},
    losses.siglip: {"logit_scale": 1.0, "logit_bias": 0.0},
}
SOFTMAX = [losses.info_nce, losses.nt_xent, losses.dcl, losses.dclw, losses.hard_nt_xent]
WITH_IDS = [*SOFTMAX, losses.clip, losses.siglip]
DISTANCE = [losses.triplet, losses.distance_difference]


def raises(kind, message, loss, *arrays, **options):
    """Also under eval_shape, where nothing is computed: the error comes while tracing."""
    options = REQUIRED.get(loss, {}) | options

    def call(*arrays):
        return loss(*arrays, **options)

    with pytest.raises(kind, match=message):
        call(*arrays)
    with pytest.raises(kind, match=message):
        jax.eval_shape(call, *arrays)


@pytest.mark.parametrize("loss", ARRAYS, ids=lambda loss: loss.__name__)
def test_embeddings(loss):
    names = ARRAYS[loss]
    for position, name in enumerate(names):
        good = [X] * len(names)

        def with_wrong(array, good=good, position=position):
            return [*good[:position], array, *good[position + 1 :]]

        integers = with_wrong(X.astype(int))
        raises(TypeError, f"{name} has dtype int32, expected floating point", loss, *integers)
        raises(ValueError, rf"{name} has shape \(4,\), expected \[N", loss, *with_wrong(X[0]))
        if position:
            wider = with_wrong(jnp.ones((N, D + 1)))
            raises(ValueError, rf"{name} has shape \(6, 5\), .* D = 4", loss, *wider)
            raises(ValueError, rf"{name} has shape \(5, 4\), .* N = 6", loss, *with_wrong(X[1:]))


@pytest.mark.parametrize("loss", ARRAYS, ids=lambda loss: loss.__name__)
def test_where(loss):
    arrays = [X] * len(ARRAYS[loss])
    raises(
        ValueError,
        r"where has shape \(5,\), expected \[N\] with N = 6",
        loss,
        *arrays,
        where=WHERE[1:],
    )
    raises(TypeError, "where has dtype int32, expected bool", loss, *arrays, where=IDS)


@pytest.mark.parametrize("loss", SOFTMAX, ids=lambda loss: loss.__name__)
def test_softmax_options(loss):
    for wrong in (0.0, -1, np.float32(0)):
        raises(
            ValueError, f"temperature is {wrong}, expected above 0", loss, X, X, temperature=wrong
        )
    raises(
        ValueError,
        r"temperature has shape \(1,\), expected a scalar",
        loss,
        X,
        X,
        temperature=jnp.ones(1),
    )
    raises(ValueError, "temperature is nan", loss, X, X, temperature=float("nan"))


@pytest.mark.parametrize("loss", WITH_IDS, ids=lambda loss: loss.__name__)
def test_options_of_similarities(loss):
    def check(kind, message, **options):
        raises(kind, message, loss, X, X, **options)

    check(ValueError, "similarity is 'cosin'.*did you mean 'cosine'", similarity="cosin")
    check(
        ValueError,
        "similarity is 'kernel', expected one of 'cosine', 'dot'(\n|$)",
        similarity="kernel",
    )
    check(ValueError, "axis_name is 'batch', but no axis", axis_name="batch")
    check(ValueError, "block_size is 0, expected None or at least 1", block_size=0)
    check(ValueError, "backend is 'tile', expected .*did you mean 'tiled'", backend="tile")
    check(ValueError, "backend is 'ring', but axis_name is None", backend="ring")
    check(ValueError, r"ids has shape \(5,\), expected \[N\] with N = 6", ids=IDS[1:])
    check(TypeError, "ids has dtype float32, expected integers", ids=jnp.ones(N))


def test_sup_con():
    def check(kind, message, *arrays, **options):
        raises(kind, message, losses.sup_con, *arrays, **options)

    check(TypeError, "embeddings has dtype int32", X.astype(int), IDS)
    check(ValueError, r"labels has shape \(5,\), expected \[N\] with N = 6", X, IDS[1:])
    check(TypeError, "labels has dtype float32, expected integers", X, jnp.ones(N))
    check(ValueError, "memory_labels is missing", X, IDS, X)
    check(ValueError, "memory is missing", X, IDS, memory_labels=IDS)
    check(
        ValueError, r"memory has shape \(5, 3\), expected .* D = 4", X, IDS, jnp.ones((5, 3)), IDS
    )
    check(ValueError, r"memory_labels has shape \(5,\), expected \[M\]", X, IDS, X, IDS[1:])
    check(ValueError, "temperature is 0, expected above 0", X, IDS, temperature=0)
    check(ValueError, r"where has shape \(5,\)", X, IDS, where=WHERE[1:])
    check(ValueError, "block_size is -1", X, IDS, block_size=-1)


def test_info_nce_negatives():
    def check(kind, message, negatives, **options):
        raises(kind, message, losses.info_nce, X, X, negatives, **options)

    check(TypeError, "negatives has dtype int32", jnp.ones((M, D), int))
    check(ValueError, r"negatives has shape \(5, 3\), expected .* D = 4", jnp.ones((M, 3)))
    check(ValueError, r"negatives has shape \(5, 5, 4\), .* N = 6", jnp.ones((5, M, D)))
    check(ValueError, r"negatives has shape \(1, 6, 5, 4\)", jnp.ones((1, N, M, D)))
    check(ValueError, "axis_name is 'batch', but no axis", jnp.ones((M, D)), axis_name="batch")
    check(ValueError, "negative_ids is missing", jnp.ones((M, D)), ids=IDS)
    check(ValueError, "ids is missing", jnp.ones((M, D)), negative_ids=IDS[1:])
    check(
        ValueError,
        r"negative_ids has shape \(6,\), expected \[M\] with M = 5",
        jnp.ones((M, D)),
        ids=IDS,
        negative_ids=IDS,
    )
    check(ValueError, "negative_ids came without negatives", None, ids=IDS, negative_ids=IDS)


def test_nt_xent_negatives():
    def check(kind, message, negatives, **options):
        raises(kind, message, losses.nt_xent, X, X, negatives, **options)

    check(TypeError, "negatives has dtype int32", jnp.ones((M, D), int))
    check(ValueError, r"negatives has shape \(5, 3\), expected .* D = 4", jnp.ones((M, 3)))
    check(ValueError, r"negatives has shape \(6, 5, 4\), expected \[M, D\]", jnp.ones((N, M, D)))
    check(ValueError, "negative_ids is missing", jnp.ones((M, D)), ids=IDS)
    check(ValueError, "ids is missing", jnp.ones((M, D)), negative_ids=IDS[1:])
    check(ValueError, "negative_ids came without negatives", None, ids=IDS, negative_ids=IDS)


@pytest.mark.parametrize("loss", DISTANCE, ids=lambda loss: loss.__name__)
def test_distance_options(loss):
    raises(
        ValueError,
        "distance is 'euclid'.*did you mean 'euclidean'",
        loss,
        X,
        X,
        X,
        distance="euclid",
    )
    raises(ValueError, r"negative has shape \(5, 3, 4\), .* N = 6", loss, X, X, jnp.ones((5, 3, D)))


def test_hyper_parameters():
    raises(ValueError, "margin is -0.1, expected at least 0", losses.triplet, X, X, X, margin=-0.1)
    raises(ValueError, "sigma is 0, expected above 0", losses.dclw, X, X, sigma=0)
    raises(ValueError, "tau_plus is 1.5, expected", losses.hard_nt_xent, X, X, tau_plus=1.5)
    raises(ValueError, "beta is -1, expected at least 0", losses.hard_nt_xent, X, X, beta=-1)
    wrong = {"logit_scale": jnp.ones(2)}
    raises(
        ValueError, r"logit_scale has shape \(2,\), expected a scalar", losses.clip, X, X, **wrong
    )
