"""Every loss with a case in the reference file: its mean and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import losses


def cosine_triplet(anchor, positive, negative, **options):
    return losses.triplet(anchor, positive, negative, distance="cosine", **options)


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
}


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients(golden, case):
    loss, names = CASES[case]
    reference = golden(case)
    inputs = {name: jnp.asarray(reference.inputs[name]) for name in names}
    learned = {name: x for name, x in inputs.items() if jnp.issubdtype(x.dtype, jnp.floating)}

    def mean_loss(learned):
        given = inputs | learned
        arrays = [given[name] for name in names if given[name].ndim]
        scalars = {name: x for name, x in given.items() if not x.ndim}
        return jnp.mean(loss(*arrays, **scalars, **reference.parameters))

    value, gradients = jax.jit(jax.value_and_grad(mean_loss))(learned)
    np.testing.assert_allclose(value, reference.loss, rtol=1e-5)
    for name, gradient in gradients.items():
        wanted = reference.gradients[name]
        # Entries that nearly cancel are off by the rounding of the others.
        np.testing.assert_allclose(
            gradient, wanted, rtol=1e-4, atol=1e-6 * np.abs(wanted).max(), err_msg=name
        )
