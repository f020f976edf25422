"""Counted flops beside what is known of them."""

import jax
import jax.numpy as jnp
import pytest

from jaxcl import encoders
from jaxcl.encoders.winograd import convolve_3x3
from jaxcl.planning import count_flops


def flops(function, *arguments):
    return count_flops(jax.make_jaxpr(function)(*arguments))


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_products():
    assert flops(jnp.matmul, array(3, 5), array(5, 7)) == 2 * 3 * 5 * 7
    assert flops(lambda a, b: jnp.einsum("bij,bkj->bik", a, b), array(4, 3, 5), array(4, 6, 5)) == (
        2 * 4 * 3 * 6 * 5
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 4])
def test_convolutions_and_their_gradients(stride, groups):
    """Each gradient of a convolution takes as much as the convolution."""

    def convolve(images, kernel):
        return jax.lax.conv_general_dilated(
            images,
            kernel,
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    images, kernel = array(2, 16, 16, 8), array(3, 3, 8 // groups, 12)
    forward = 2 * 2 * (16 // stride) ** 2 * 12 * 9 * 8 // groups
    assert flops(convolve, images, kernel) == forward
    gradients = jax.grad(lambda x, k: convolve(x, k).sum(), (0, 1))
    assert flops(gradients, images, kernel) == 3 * forward


def test_convolutions_that_cpus_compute_otherwise():
    images, kernel = array(2, 16, 16, 8), array(3, 3, 8, 12)
    forward = 2 * 2 * 16**2 * 12 * 9 * 8
    assert flops(convolve_3x3, images, kernel) == forward
    gradients = jax.grad(lambda x, k: convolve_3x3(x, k).sum(), (0, 1))
    assert flops(gradients, images, kernel) == 3 * forward


def test_what_repeats_counts_as_often():
    def products(x):
        return jax.lax.scan(lambda y, _: (y @ x, None), x, length=6)[0]

    assert flops(jax.jit(products), array(4, 4)) == 6 * 2 * 4**3
    either = jax.jit(lambda x: jax.lax.cond(x[0, 0] > 0, lambda: x @ x @ x, lambda: x @ x))
    assert flops(either, array(4, 4)) == 2 * 2 * 4**3
    of_platforms = jax.jit(
        lambda x: jax.lax.platform_dependent(x, cpu=lambda x: x @ x @ x, default=lambda x: x @ x)
    )
    assert flops(of_platforms, array(4, 4)) == 2 * 4**3
    mapped = jax.vmap(lambda x: x @ x)
    assert flops(mapped, array(5, 4, 4)) == 5 * 2 * 4**3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "published"),
    [  # 1e9 multiplications and additions, as torchvision's documentation has them
        (encoders.ResNet(18), 1.81),
        (encoders.ResNet(50), 4.09),
        (encoders.ViT("base", patch=16), 17.56),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_encoders_have_the_published_number(encoder, published):
    image = array(1, 224, 224, 3)
    variables = jax.eval_shape(lambda: encoder.init(jax.random.key(0), jnp.zeros(image.shape)))

    def forward(variables, image):
        return encoder.apply(variables, image)

    assert flops(forward, variables, image) == pytest.approx(2e9 * published, rel=0.01)
    gradients = jax.grad(lambda variables, image: forward(variables, image).sum(), allow_int=True)
    assert flops(gradients, variables, image) == pytest.approx(6e9 * published, rel=0.05)
