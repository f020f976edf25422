"""Multiplications and additions of a program, counted in its jaxpr."""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core


def count_flops(jaxpr: core.ClosedJaxpr | core.Jaxpr) -> int:
    """FLOP of its matrix products and convolutions: two for each multiplication and addition.

    The body of a scan counts as often as it runs, which a compiler's own figure leaves out, and of
    a mapped function one device's part counts. Of branches the longest counts, where platforms have
    theirs TPU's, of a loop of unknown length one pass. All else, such as normalization, is left
    out.
    """
    inner = jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr
    return sum(_of_equation(equation) for equation in inner.eqns)


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    if name in ("convolve_3x3", "kernel_gradient_3x3"):  # of jaxcl.encoders.winograd
        kernel = equation.invars[1] if name == "convolve_3x3" else equation.outvars[0]
        return 2 * math.prod(equation.invars[0].aval.shape[:3]) * kernel.aval.size
    if name == "cond":
        platforms = params.get("branches_platforms")
        if platforms is not None:  # of jax.lax.platform_dependent; None is what has no name
            chosen = next(
                (place for place, each in enumerate(platforms) if each and "tpu" in each),
                next(place for place, each in enumerate(platforms) if each is None),
            )
            return count_flops(params["branches"][chosen])
        return max(map(count_flops, params["branches"]))
    times = 1
    if name == "scan":
        times = params["length"]
    elif name == "pallas_call":
        times = math.prod(params["grid_mapping"].grid)
    return times * sum(map(count_flops, _jaxprs(params)))


def _of_convolution(equation: Any) -> int:
    """Each output sums over the kernel, but for the zeros between what is dilated."""
    params = equation.params
    numbers = params["dimension_numbers"]
    kernel = equation.invars[1].aval.shape
    positions = math.prod(kernel[axis] for axis in numbers.rhs_spec[2:])
    inputs = kernel[numbers.rhs_spec[1]]  # of one group
    dilation = math.prod(params["lhs_dilation"])
    return 2 * equation.outvars[0].aval.size * positions * inputs // dilation


def _jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, core.ClosedJaxpr | core.Jaxpr):
                yield each
