"""Losses over pairs, and over how rows lie on the sphere, as the tests that all share call them."""

import functools

import jax
import jax.numpy as jnp

from jaxcl.losses.labelled_pairs import circle, lifted_structure, multi_similarity
from jaxcl.losses.miners import multi_similarity_pairs
from jaxcl.losses.n_pairs import n_pairs
from jaxcl.losses.pairs import pair_margin
from jaxcl.losses.spread import alignment, koleo, uniformity

N, D = 16, 4
X, Y = jax.random.normal(jax.random.key(0), (2, N, D))
SAME = jnp.array([1, 0, 0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1, 0, 0, 1], bool)
# Classes are spread over devices; the rows of 6 and 8 have no positive.
LABELS = jnp.array([3, 7, 7, 3, 1, 2, 4, 4, 3, 8, 9, 9, 2, 1, 6, 2])
# On 8 devices one has no row that counts, and others have both or one.
WHERE = jnp.array([1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 1, 0, 1, 1, 0, 1], bool)

multi_similarity = functools.partial(multi_similarity, alpha=2.0, beta=10.0, base=0.5)
circle = functools.partial(circle, margin=0.4, gamma=8.0)


def mined(embeddings, labels, **options):
    """With pairs of a miner, as a user does it."""
    pairs = multi_similarity_pairs(embeddings, labels, epsilon=0.3, **options)
    return multi_similarity(embeddings, labels, pairs=pairs, **options)


def on_one_device(loss):
    """Takes the axis name of a loss that crosses no devices, and so has none."""
    return lambda *arrays, axis_name=None, **options: loss(*arrays, **options)


# name: the loss, its arrays
LOSSES = {
    "pair_margin": (
        on_one_device(functools.partial(pair_margin, margin=2.5)),
        [X, Y, SAME],
    ),
    "n_pairs": (n_pairs, [X, Y]),
    "multi_similarity": (multi_similarity, [X, LABELS]),
    "multi_similarity mined": (mined, [X, LABELS]),
    "circle": (circle, [X, LABELS]),
    "lifted_structure": (lifted_structure, [X, LABELS]),
    "lifted_structure squared": (
        functools.partial(lifted_structure, distance="squared_euclidean", margin=2.0),
        [X, LABELS],
    ),
    "lifted_structure cosine": (
        functools.partial(lifted_structure, distance="cosine"),
        [X, LABELS],
    ),
    "alignment": (on_one_device(alignment), [X, Y]),
    "uniformity": (uniformity, [X]),
    "koleo": (koleo, [X]),
}
SCALARS = ["uniformity"]
COSINE = ["multi_similarity", "circle", "lifted_structure cosine", "alignment"]
COSINE += ["uniformity", "koleo"]


def is_float(array):
    return jnp.issubdtype(array.dtype, jnp.floating)


def values_and_gradients(loss, inputs, **options):
    def mean_loss(*inputs):
        values = loss(*inputs, **options)
        return jnp.mean(values), values

    floats = [i for i, x in enumerate(inputs) if is_float(x)]
    gradients, values = jax.grad(mean_loss, floats, has_aux=True)(*inputs)
    return values, gradients
