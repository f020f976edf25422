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
    "triplet_l2": (losses.triplet, ["anchor", "positive", "negative"]),
    "triplet_cosine": (cosine_triplet, ["anchor", "positive", "negative"]),
    "negative_cosine": (losses.negative_cosine, ["p", "z"]),
}


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients(golden, case):
    loss, names = CASES[case]
    reference = golden(case)
    inputs = [jnp.asarray(reference.inputs[name]) for name in names]

    def mean_loss(*inputs):
        return jnp.mean(loss(*inputs, **reference.parameters))

    value, gradients = jax.jit(jax.value_and_grad(mean_loss, argnums=range(len(inputs))))(*inputs)
    np.testing.assert_allclose(value, reference.loss, rtol=1e-5)
    for name, gradient in zip(names, gradients, strict=True):
        wanted = reference.gradients[name]
        # Entries that nearly cancel are off by the rounding of the others.
        np.testing.assert_allclose(
            gradient, wanted, rtol=1e-4, atol=1e-6 * np.abs(wanted).max(), err_msg=name
        )
