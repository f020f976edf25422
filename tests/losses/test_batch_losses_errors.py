"""Arguments that the losses over statistics of a batch refuse, and what they say of them."""

import jax.numpy as jnp
import pytest

from jaxcl.losses.clusters import dino, sinkhorn, swav, update_center
from jaxcl.losses.covariance import mmcr, tico, w_mse
from jaxcl.losses.redundancy import barlow_twins, vicreg

ROWS = jnp.ones((4, 3))
STACK = jnp.ones((2, 4, 3))
BAD = {
    "barlow widths": (lambda: barlow_twins(ROWS, ROWS[:, :2]), r"z1 has shape \(4, 2\).*D = 3"),
    "barlow rows": (lambda: barlow_twins(ROWS, ROWS[:2]), r"z1 has shape \(2, 3\).*N = 4"),
    "barlow rank": (lambda: barlow_twins(STACK, STACK), r"z0 has shape .*expected \[N, D\]"),
    "barlow lambd": (lambda: barlow_twins(ROWS, ROWS, lambd=-1), "lambd is -1, expected at least"),
    "barlow lambd shape": (
        lambda: barlow_twins(ROWS, ROWS, lambd=jnp.ones(2)),
        r"lambd has shape \(2,\), expected a scalar",
    ),
    "barlow epsilon": (lambda: barlow_twins(ROWS, ROWS, epsilon=0), "epsilon is 0, expected above"),
    "barlow axis": (lambda: barlow_twins(ROWS, ROWS, axis_name="x"), "axis_name is 'x', but no"),
    "vicreg rows": (lambda: vicreg(ROWS, ROWS[:2]), r"z1 has shape \(2, 3\).*N = 4"),
    "vicreg mu": (lambda: vicreg(ROWS, ROWS, mu=-1), "mu is -1, expected at least 0"),
    "vicreg where": (
        lambda: vicreg(ROWS, ROWS, where=jnp.ones(3, bool)),
        r"where has shape \(3,\), expected \[N\] with N = 4",
    ),
    "vicreg axis": (lambda: vicreg(ROWS, ROWS, axis_name="x"), "axis_name is 'x', but no axis"),
    "sinkhorn rank": (lambda: sinkhorn(STACK), r"scores has shape .* expected \[N, K\]"),
    "sinkhorn memory": (lambda: sinkhorn(ROWS, ROWS[:, :2]), r"memory has shape .*K = 3"),
    "sinkhorn epsilon": (lambda: sinkhorn(ROWS, epsilon=0), "epsilon is 0, expected above 0"),
    "sinkhorn iterations": (
        lambda: sinkhorn(ROWS, iterations=0),
        "iterations is 0, expected an integer of at least 1",
    ),
    "sinkhorn axis": (lambda: sinkhorn(ROWS, axis_name="x"), "axis_name is 'x', but no axis"),
    "swav rank": (lambda: swav(ROWS), r"scores has shape \(4, 3\), expected \[V, N, K\]"),
    "swav one view": (lambda: swav(STACK[:1], assigned_views=1), "scores has 1 views"),
    "swav assigned": (lambda: swav(STACK, assigned_views=3), "assigned_views is 3"),
    "swav assigned 0": (lambda: swav(STACK, assigned_views=0), "assigned_views is 0, expected"),
    "swav memory": (lambda: swav(STACK, STACK[:1]), r"memory has shape .*A = 2"),
    "swav temperature": (lambda: swav(STACK, temperature=0), "temperature is 0, expected above 0"),
    "swav iterations": (lambda: swav(STACK, iterations=1.5), "iterations is 1.5, expected"),
    "swav axis": (lambda: swav(STACK, axis_name="x"), "axis_name is 'x', but no axis"),
    "dino widths": (lambda: dino(STACK, STACK[..., :2]), r"teacher has shape .*K = 3"),
    "dino teacher views": (lambda: dino(STACK[:1], STACK), "student has 1 views and teacher 2"),
    "dino center": (lambda: dino(STACK, STACK, jnp.ones(2)), r"center has shape \(2,\).*K = 3"),
    "dino temperature": (
        lambda: dino(STACK, STACK, teacher_temperature=0),
        "teacher_temperature is 0, expected above 0",
    ),
    "center momentum": (
        lambda: update_center(jnp.ones(3), STACK, momentum=2),
        "momentum is 2, expected at least 0 and at most 1",
    ),
    "center shape": (lambda: update_center(jnp.ones(2), STACK), r"center has shape \(2,\)"),
    "center axis": (
        lambda: update_center(jnp.ones(3), STACK, axis_name="x"),
        "axis_name is 'x', but no axis",
    ),
    "tico covariance": (lambda: tico(ROWS, ROWS, jnp.eye(4)), r"covariance has shape .*D = 3"),
    "tico beta": (lambda: tico(ROWS, ROWS, jnp.eye(3), beta=2), "beta is 2, expected at least 0"),
    "tico rho": (lambda: tico(ROWS, ROWS, jnp.eye(3), rho=-1), "rho is -1, expected at least 0"),
    "tico axis": (lambda: tico(ROWS, ROWS, jnp.eye(3), axis_name="x"), "axis_name is 'x', but no"),
    "mmcr rank": (lambda: mmcr(ROWS), r"views has shape \(4, 3\), expected \[V, N, D\]"),
    "mmcr similarity": (lambda: mmcr(STACK, similarity="cosin"), "did you mean 'cosine'"),
    "mmcr axis": (lambda: mmcr(STACK, axis_name="x"), "axis_name is 'x', but no axis"),
    "w_mse one view": (lambda: w_mse(STACK[:1]), "views has 1 views, expected at least 2"),
    "w_mse epsilon": (lambda: w_mse(STACK, epsilon=2), "epsilon is 2, expected at least 0"),
    "w_mse axis": (lambda: w_mse(STACK, axis_name="x"), "axis_name is 'x', but no axis"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_argument(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()


WRONG_TYPES = {
    "barlow_twins": (lambda rows: barlow_twins(rows, ROWS), "z0"),
    "vicreg": (lambda rows: vicreg(ROWS, rows), "z1"),
    "sinkhorn": (sinkhorn, "scores"),
    "sinkhorn memory": (lambda rows: sinkhorn(ROWS, rows), "memory"),
    "swav": (lambda rows: swav([rows, rows]), "scores"),
    "dino": (lambda rows: dino([rows, rows], STACK), "student"),
    "dino teacher": (lambda rows: dino(STACK, [rows, rows]), "teacher"),
    "update_center": (lambda rows: update_center(ROWS[0], [rows]), "teacher"),
    "tico": (lambda rows: tico(rows, ROWS, jnp.eye(3)), "z0"),
    "mmcr": (lambda rows: mmcr([rows, rows]), "views"),
    "w_mse": (lambda rows: w_mse([rows, rows]), "views"),
}


@pytest.mark.parametrize("case", WRONG_TYPES)
def test_integers_are_refused(case):
    call, argument = WRONG_TYPES[case]
    with pytest.raises(TypeError, match=f"{argument} has dtype int32, expected floating point"):
        call(jnp.ones((4, 3), jnp.int32))
