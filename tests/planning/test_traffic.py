"""What programs move, counted in their text, beside the compiler's own figure and by hand."""

import jax
import jax.numpy as jnp
import pytest

from jaxcl.planning import count_traffic

SHAPE = (512, 256)
BYTES = 4 * 512 * 256


def compiled(function, *shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*arrays).compile()


def test_a_fused_kernel_reads_its_operands_and_writes_its_result():
    program = compiled(lambda x, y: jnp.tanh(x * 2 + y) - x, SHAPE, SHAPE)
    assert count_traffic(program.as_text()) == 3 * BYTES


def test_each_of_several_kernels_counts():
    program = compiled(lambda x, y: jnp.tanh(x @ y), SHAPE, (256, 256))
    product = BYTES + 4 * 256 * 256 + BYTES
    assert count_traffic(program.as_text()) == pytest.approx(product + 2 * BYTES, rel=0.01)


def test_a_loop_counts_as_often_as_it_runs():
    """Which the compiler's own figure leaves out."""

    def function(x):
        return jax.lax.scan(lambda x, _: (jnp.sin(x) + 1, None), x, length=10)[0]

    program = compiled(function, SHAPE)
    assert count_traffic(program.as_text()) >= 10 * 2 * BYTES
    assert count_traffic(program.as_text()) <= 10 * 3 * BYTES  # with a copy of the state


def test_it_is_near_the_compilers_figure():
    def function(x, y):
        return jax.nn.softmax(jnp.tanh(x @ y) @ y, axis=1).sum(0)

    program = compiled(jax.grad(lambda x, y: jnp.square(function(x, y)).sum()), SHAPE, (256, 256))
    theirs = program.cost_analysis()["bytes accessed"]
    assert count_traffic(program.as_text()) == pytest.approx(theirs, rel=0.1)
