"""Messages of the argument checks that the losses' own table does not reach."""

import jax.numpy as jnp
import pytest

from jaxcl.similarity.checks import check_choice, check_scalar, check_shape


def test_sizes_are_bound_once_and_compared_after():
    sizes = {}
    check_shape("first", jnp.ones((3, 4)), "N D", sizes)
    check_shape("second", jnp.ones((3, 7)), "N M", sizes)
    assert sizes == {"N": 3, "D": 4, "M": 7}
    message = (
        r"third has shape \(7, 5\), expected \[M, D\] with M = 7 and D = 4 as in the arguments"
    )
    with pytest.raises(ValueError, match=message):
        check_shape("third", jnp.ones((7, 5)), "M D", sizes)
    assert sizes == {"N": 3, "D": 4, "M": 7}


def test_bounds_of_a_number():
    check_scalar("share", 0, at_least=0, at_most=1)
    check_scalar("share", 1.0, at_least=0, at_most=1)
    check_scalar("traced or not, an array's value is not looked at", jnp.array(-1.0), above=0)
    for value, bounds in ((-0.1, {"at_least": 0}), (1.1, {"at_most": 1}), (0, {"above": 0})):
        with pytest.raises(ValueError, match=f"share is {value}, expected"):
            check_scalar("share", value, **bounds)


def test_a_choice_far_from_all_is_not_guessed_at():
    with pytest.raises(ValueError, match=r"colour is 'xyz', expected one of 'red', 'blue'$"):
        check_choice("colour", "xyz", ["red", "blue"])
