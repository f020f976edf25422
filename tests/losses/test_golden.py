"""Every case of the reference file: the mean loss and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import losses


def cosine_triplet(anchor, positive, negative, **options):
    return losses.triplet(anchor, positive, negative, distance="cosine", **options)


def vicreg(z0, z1, *, lambda_, mu, nu):
    return losses.vicreg(z0, z1, lambd=lambda_, mu=mu, nu=nu)


def swav(s0, s1, *, sinkhorn_iterations, **options):
    return losses.swav([s0, s1], iterations=sinkhorn_iterations, **options)


def dino(student0, student1, teacher0, teacher1, **options):
    return losses.dino([student0, student1], [teacher0, teacher1], **options)


def tico(z0, z1, **options):
    return losses.tico(z0, z1, jnp.zeros((32, 32)), **options)[0]  # as the reference begins


def mmcr(online, momentum, *, lmda):
    """The reference takes embeddings as they are, and views on the second axis."""
    views = jnp.concatenate([online, momentum], axis=1).swapaxes(0, 1)
    return losses.mmcr(views, similarity="dot", lambd=lmda)


# All are means over anchors: for nt_xent, dcl and dclw over those of both views. torch adds 1e-6 to
# each difference before it takes the length in triplet_l2, which is 1e-7 of the loss here.
CASES = {
    "moco_info_nce": (losses.info_nce, ["queries", "keys", "queue"]),
    "info_nce_in_batch": (losses.info_nce, ["queries", "keys"]),
    "nt_xent": (losses.nt_xent, ["z0", "z1"]),
    "dcl": (losses.dcl, ["z0", "z1"]),
    "dclw": (losses.dclw, ["z0", "z1"]),
    "sup_con": (losses.sup_con, ["embeddings", "labels"]),
    "clip": (losses.clip, ["image", "text", "logit_scale"]),
    "siglip": (losses.siglip, ["image", "text", "logit_scale", "logit_bias"]),
    "triplet_l2": (losses.triplet, ["anchor", "positive", "negative"]),
    "triplet_cosine": (cosine_triplet, ["anchor", "positive", "negative"]),
    "negative_cosine": (losses.negative_cosine, ["p", "z"]),
    "pair_margin": (losses.pair_margin, ["x", "y", "same"]),
    "n_pairs": (losses.n_pairs, ["anchor", "positive"]),
    "multi_similarity": (losses.multi_similarity, ["embeddings", "labels"]),
    "circle": (losses.circle, ["embeddings", "labels"]),
    "align": (losses.alignment, ["x", "y"]),
    "uniform": (losses.uniformity, ["x"]),
    "koleo": (losses.koleo, ["x"]),
    "barlow_twins": (losses.barlow_twins, ["z0", "z1"]),
    "vicreg": (vicreg, ["z0", "z1"]),
    "swav": (swav, ["s0", "s1"]),
    "dino": (dino, ["student0", "student1", "teacher0", "teacher1"]),
    "tico": (tico, ["z0", "z1"]),
    "mmcr": (mmcr, ["online", "momentum"]),
}


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients(golden, case):
    loss, names = CASES[case]
    reference = golden(case)
    inputs = {name: reference.inputs[name] for name in names}
    learned = {name: x for name, x in inputs.items() if jnp.issubdtype(x.dtype, jnp.floating)}

    def mean_loss(learned):
        given = inputs | learned
        arrays = [given[name] for name in names if given[name].ndim]
        scalars = {name: x for name, x in given.items() if not x.ndim}
        return jnp.mean(loss(*arrays, **scalars, **reference.parameters))

    value, gradients = jax.jit(jax.value_and_grad(mean_loss))(learned)
    np.testing.assert_allclose(value, reference.loss, rtol=1e-5)
    assert set(reference.gradients) <= set(gradients)
    for name, gradient in gradients.items():
        if name not in reference.gradients:
            assert not np.any(gradient), name  # a target
            continue
        wanted = reference.gradients[name]
        # Entries that nearly cancel are off by the rounding of the others.
        np.testing.assert_allclose(
            gradient, wanted, rtol=1e-4, atol=1e-6 * np.abs(wanted).max(), err_msg=name
        )


def test_every_case_is_tested(golden):
    assert set(golden.cases) == set(CASES)
