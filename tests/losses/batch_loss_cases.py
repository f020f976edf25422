"""The losses over statistics of a batch, as the tests of conventions and of devices call them.

Each takes arrays [N, ...], a view each, and options.
"""

import jax
import jax.numpy as jnp

from jaxcl.losses.clusters import dino, swav, update_center
from jaxcl.losses.covariance import mmcr, tico, w_mse
from jaxcl.losses.redundancy import barlow_twins, vicreg

N, D, M = 16, 3, 5
KEYS = jax.random.split(jax.random.key(0), 5)
ARRAYS = list(jax.random.normal(KEYS[0], (5, N, D)))
VIEWS = ARRAYS[0] + 0.5 * jax.random.normal(KEYS[1], (3, N, D))
MEMORY = jax.random.normal(KEYS[2], (2, M, D))
STATE = jnp.eye(D) + 0.3
CENTER = jax.random.normal(KEYS[3], (D,))
WEIGHTS = jax.random.normal(KEYS[4], (D, D))
# On 8 devices one has no row that counts, and others have both or one.
WHERE = jnp.array([1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 1, 0, 1, 1, 0, 1], bool)


def of_views(loss, **fixed):
    return lambda *views, **options: loss(list(views), **fixed, **options)


def swav_with_memory(*views, **options):
    return swav(list(views), MEMORY, **options)


def dino_of_views(*views, axis_name=None, **options):
    del axis_name  # nothing of it crosses devices
    return dino(list(views[:3]), list(views[3:]), CENTER, **options)


def tico_loss(z0, z1, **options):
    return tico(z0, z1, STATE, **options)[0]


def tico_state(z0, z1, **options):
    return jnp.sum(WEIGHTS * tico(z0, z1, STATE, **options)[1])


def center(t0, t1, **options):
    return WEIGHTS[0] @ update_center(CENTER, [t0, t1], **options)


# name: the loss, how many arrays it takes
LOSSES = {
    "barlow_twins": (barlow_twins, 2),
    "vicreg": (vicreg, 2),
    "swav": (of_views(swav), 3),
    "swav memory": (swav_with_memory, 3),
    "dino": (dino_of_views, 5),
    "tico": (tico_loss, 2),
    "mmcr": (of_views(mmcr, lambd=0.1), 3),
    "w_mse": (of_views(w_mse), 3),
}
SCALARS = ["barlow_twins", "vicreg", "mmcr"]
STATES = {"tico's covariance": (tico_state, 2), "dino's center": (center, 2)}


def inputs_of(name):
    count = (LOSSES | STATES)[name][1]
    return list(VIEWS)[:count] if count <= 3 else ARRAYS[:count]
