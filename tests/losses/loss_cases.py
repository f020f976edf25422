"""Every public loss with arguments for it: what is listed here is held to all that losses share.

A case lists what the signature cannot say. Whether a loss takes `where`, `ids`, `axis_name` or a
backend is read from it.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import losses

N, M, D = 16, 5, 4
RANDOM = np.random.default_rng(0)
# In NumPy: each operation on jax arrays outside of jit is a program to compile.
ARRAYS = list(RANDOM.normal(size=(5, N, D)).astype(np.float32))
X, Y, Z = ARRAYS[:3]
VIEWS = [X + 0.5 * noise for noise in RANDOM.normal(size=(3, N, D)).astype(np.float32)]
OWN = RANDOM.normal(size=(N, M, D)).astype(np.float32)
MEMORY = list(RANDOM.normal(size=(2, M, D)).astype(np.float32))
CENTER = RANDOM.normal(size=D).astype(np.float32)
WEIGHTS = RANDOM.normal(size=(D, D)).astype(np.float32)
SERIES = RANDOM.normal(size=(2, N, 5, D)).astype(np.float32)
STATE = np.eye(D, dtype=np.float32) + np.float32(0.3)
SAME = np.array([1, 0, 0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1, 0, 0, 1], bool)
# Classes are spread over devices; the rows of 6 and 8 have no positive.
LABELS = np.array([3, 7, 7, 3, 1, 2, 4, 4, 3, 8, 9, 9, 2, 1, 6, 2])
# Equal ids are on different devices, or on one.
IDS = np.array([3, 7, 7, 3, 1, 2, 4, 5, 3, 8, 9, 9, 10, 1, 11, 12])
# On 8 devices one has no row that counts, and others have both or one.
WHERE = np.array([1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 1, 0, 1, 1, 0, 1], bool)
BACKENDS = ("dense", "tiled", "ring")

Arrays = dict[str, Any]
"""Arguments by name; one that is a list has a view's array an entry."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A loss and arguments for it.

    Attributes:
      loss: the public function.
      rows: the arrays that are split over devices, [N, ...]; of integers or bool as well.
      whole: the arrays that every device has whole.
      scalars: every scalar that may be traced or learned, at an ordinary value.
      sharp: some of them where numbers are likeliest to break.
      options: what is no array.
      returns: [N] values, [2N] of two views, or a scalar of the whole batch.
      ignores_length: whether only the rows' directions count.
      constants: scalars that the gradient does not see, as the papers' weights and targets.
      has_slope: whether its gradient is the slope of its value: nothing of the arrays is held
        constant either.
      is_fast: whether the fast tests have it: the first of a loss; others repeat most of its code.
      backends: those that take it; None: all, where the signature has a backend.
      tolerance: of sums in another order, relative.
      call: calls the loss as the tests need it; None: as it is.
    """

    loss: Callable[..., Any]
    rows: Arrays
    scalars: dict[str, float] = dataclasses.field(default_factory=dict)
    whole: Arrays = dataclasses.field(default_factory=dict)
    sharp: dict[str, float] = dataclasses.field(default_factory=dict)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    returns: Literal["rows", "two views", "scalar"] = "rows"
    ignores_length: bool = False
    constants: tuple[str, ...] = ()
    has_slope: bool = True
    is_fast: bool = True
    backends: tuple[str | None, ...] | None = None
    tolerance: float = 1e-5
    call: Callable[..., jax.Array] | None = None

    def __call__(self, *arguments: Arrays, **options: Any) -> jax.Array:
        """The loss of arrays and scalars by name."""
        by_name = {name: value for given in arguments for name, value in given.items()}
        return (self.call or self.loss)(**by_name, **self.options | options)

    def takes(self, name: str) -> bool:
        return name in inspect.signature(self.loss).parameters

    def all_backends(self) -> tuple[str | None, ...]:
        return self.backends or (BACKENDS if self.takes("backend") else (None,))


def is_float(array: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(array), jnp.floating)


def map_floats(function: Callable[[Any], Any], arrays: Arrays) -> Arrays:
    """Labels and masks stay."""
    return jax.tree.map(lambda x: function(x) if is_float(x) else x, arrays)


def values_and_gradients(
    case: Case, rows: Arrays, whole: Arrays, scalars: Arrays, **options: Any
) -> tuple[jax.Array, Arrays]:
    """The values, and the gradients of their mean with respect to all that is real, by name."""
    given = {"rows": rows, "whole": whole, "scalars": scalars}
    leaves, structure = jax.tree.flatten_with_path(given)
    numbers = [i for i, (_, leaf) in enumerate(leaves) if is_float(leaf)]

    def mean_loss(learned):
        every = [leaf for _, leaf in leaves]
        for number, leaf in zip(numbers, learned, strict=True):
            every[number] = leaf
        values = case(*jax.tree.unflatten(structure, every).values(), **options)
        return jnp.mean(values), values

    learned = [leaves[number][1] for number in numbers]
    gradients, values = jax.grad(mean_loss, has_aux=True)(learned)
    names = [jax.tree_util.keystr(leaves[n][0], simple=True, separator=" ") for n in numbers]
    return values, dict(zip(names, gradients, strict=True))


def parameters(names, is_fast=lambda case: case.is_fast) -> list[Any]:
    """Names of cases to parametrize by; the others are slow."""
    return [
        pytest.param(name, marks=[] if is_fast(CASES[name]) else pytest.mark.slow) for name in names
    ]


def mined(embeddings, labels, *, where=None, axis_name=None, **options):
    """Over pairs of a miner, as a user does it."""
    devices = {"where": where, "axis_name": axis_name}
    pairs = losses.multi_similarity_pairs(embeddings, labels, epsilon=0.3, **devices)
    return losses.multi_similarity(embeddings, labels, pairs=pairs, **devices, **options)


def loss_of_tico(**arguments):
    return losses.tico(**arguments)[0]


TWO_VIEWS = {"z0": X, "z1": Y}
RETRIEVAL = {"alpha": 2.0, "beta": 10.0, "base": 0.5}
with_two_views = functools.partial(Case, rows=TWO_VIEWS, returns="two views", ignores_length=True)
with_image_and_text = functools.partial(
    Case,
    rows={"image": X, "text": Y},
    ignores_length=True,
)
with_labels = functools.partial(Case, rows={"embeddings": X, "labels": LABELS})
LOW_TEMPERATURE = {"temperature": 1e-3}

CASES = {
    "info_nce": Case(
        losses.info_nce,
        {"queries": X, "positives": Y},
        {"temperature": 0.3},
        sharp=LOW_TEMPERATURE,
        ignores_length=True,
    ),
    "info_nce shared": Case(
        losses.info_nce,
        {"queries": X, "positives": Y, "ids": IDS},
        {"temperature": 0.3},
        {"negatives": MEMORY[0], "negative_ids": np.arange(M)},
        sharp=LOW_TEMPERATURE,
        ignores_length=True,
    ),
    "info_nce own": Case(
        losses.info_nce,
        {"queries": X, "positives": Y, "negatives": OWN},
        {"temperature": 0.3},
        sharp=LOW_TEMPERATURE,
        ignores_length=True,
        backends=("dense",),  # a set for each query is held whole
        is_fast=False,
    ),
    "info_nce ignoring": Case(
        losses.info_nce,
        {"queries": X, "positives": Y},
        {"temperature": 0.3},
        {"negatives": MEMORY[0]},
        sharp=LOW_TEMPERATURE,
        options={"ignore_above": 0.6},
        ignores_length=True,
        is_fast=False,
    ),
    "nt_xent": with_two_views(losses.nt_xent, scalars={"temperature": 0.3}, sharp=LOW_TEMPERATURE),
    "nt_xent ignoring": with_two_views(
        losses.nt_xent,
        scalars={"temperature": 0.3},
        sharp=LOW_TEMPERATURE,
        options={"ignore_above": 0.6},
        is_fast=False,
    ),
    "nt_xent memory": with_two_views(
        losses.nt_xent,
        rows=TWO_VIEWS | {"ids": IDS},
        scalars={"temperature": 0.3},
        whole={"negatives": MEMORY[0], "negative_ids": np.arange(M)},
        sharp=LOW_TEMPERATURE,
        is_fast=False,
    ),
    "dcl": with_two_views(losses.dcl, scalars={"temperature": 0.3}, sharp=LOW_TEMPERATURE),
    "dclw": with_two_views(
        losses.dclw,
        scalars={"temperature": 0.3, "sigma": 0.5},
        sharp={"temperature": 1e-3, "sigma": 1e-3},
        constants=("sigma",),
        has_slope=False,
    ),
    "hard_nt_xent": with_two_views(
        losses.hard_nt_xent,
        scalars={"temperature": 0.3, "tau_plus": 0.1, "beta": 1.0},
        sharp=LOW_TEMPERATURE,
    ),
    "debiased nt_xent": with_two_views(
        losses.hard_nt_xent,
        scalars={"temperature": 0.5, "tau_plus": 0.1},  # at 0.3 the temperature's slope is near 0
        sharp=LOW_TEMPERATURE,
        options={"beta": 0},
        is_fast=False,
    ),
    "sup_con": with_labels(
        losses.sup_con, scalars={"temperature": 0.3}, sharp=LOW_TEMPERATURE, ignores_length=True
    ),
    "sup_con memory": with_labels(
        losses.sup_con,
        scalars={"temperature": 0.3},
        whole={"memory": MEMORY[0], "memory_labels": np.arange(M)},
        sharp=LOW_TEMPERATURE,
        ignores_length=True,
        is_fast=False,
    ),
    "clip": with_image_and_text(
        losses.clip, scalars={"logit_scale": 1.2}, sharp={"logit_scale": 6.9}, returns="two views"
    ),
    "clip ignoring": with_image_and_text(
        losses.clip,
        scalars={"logit_scale": 1.2},
        sharp={"logit_scale": 6.9},
        options={"ignore_above": 0.6},
        returns="two views",
        is_fast=False,
    ),
    "siglip": with_image_and_text(
        losses.siglip,
        scalars={"logit_scale": 1.2, "logit_bias": -2.0},
        sharp={"logit_scale": 6.9, "logit_bias": -100.0},
    ),
    "n_pairs": Case(losses.n_pairs, {"anchors": X, "positives": Y}),
    "bilinear_nce": Case(
        losses.bilinear_nce, {"anchors": X, "positives": Y}, whole={"weights": WEIGHTS}
    ),
    "ge2e": with_labels(
        losses.ge2e,
        scalars={"scale": 3.0},
        sharp={"scale": 1e3},
        options={"bias": -1.0},  # which "softmax" does not depend on
        ignores_length=True,
    ),
    "ge2e contrast": with_labels(
        losses.ge2e,
        scalars={"scale": 3.0, "bias": -1.0},
        sharp={"scale": 1e3},
        options={"contrast": "contrast"},
        ignores_length=True,
        is_fast=False,
    ),
    "time_nce": Case(
        losses.time_nce,
        {"earlier": X, "later": Y, "last": Z},
        {"temperature": 0.7},
        sharp=LOW_TEMPERATURE,
    ),
    "hierarchical": Case(
        losses.hierarchical,
        {"z0": SERIES[0], "z1": SERIES[1]},
        {"alpha": 0.4},
    ),
    "triplet": Case(losses.triplet, {"anchor": X, "positive": Y, "negative": Z}, {"margin": 0.5}),
    "triplet cosine": Case(
        losses.triplet,
        {"anchor": X, "positive": Y, "negative": OWN},
        {"margin": 0.45},
        options={"distance": "cosine"},
        ignores_length=True,
        is_fast=False,
    ),
    "distance_difference": Case(
        losses.distance_difference,
        {"anchor": X, "positive": Y, "negative": OWN},
        ignores_length=True,
    ),
    "pair_margin": Case(losses.pair_margin, {"x": X, "y": Y, "same": SAME}, {"margin": 2.5}),
    "multi_similarity": with_labels(
        losses.multi_similarity,
        scalars=RETRIEVAL,
        sharp={"alpha": 1e3, "beta": 1e3},
        ignores_length=True,
    ),
    "multi_similarity mined": with_labels(
        losses.multi_similarity,
        scalars=RETRIEVAL,
        sharp={"alpha": 1e3, "beta": 1e3},
        ignores_length=True,
        is_fast=False,
        call=mined,
    ),
    "circle": with_labels(
        losses.circle,
        scalars={"margin": 0.4, "gamma": 8.0},
        sharp={"gamma": 1e3},
        ignores_length=True,
        constants=("margin",),
        has_slope=False,
    ),
    "lifted_structure": with_labels(losses.lifted_structure, scalars={"margin": 1.0}),
    "lifted_structure squared": with_labels(
        losses.lifted_structure,
        scalars={"margin": 2.0},
        options={"distance": "squared_euclidean"},
        is_fast=False,
    ),
    "lifted_structure cosine": with_labels(
        losses.lifted_structure,
        scalars={"margin": 1.0},
        options={"distance": "cosine"},
        ignores_length=True,
        is_fast=False,
    ),
    "negative_cosine": Case(
        losses.negative_cosine, {"predictions": X, "targets": Y}, ignores_length=True
    ),
    "alignment": Case(losses.alignment, {"x": X, "y": Y}, {"alpha": 2.0}, ignores_length=True),
    "uniformity": Case(
        losses.uniformity,
        {"x": X},
        {"t": 2.0},
        sharp={"t": 500.0},
        returns="scalar",
        ignores_length=True,
    ),
    "koleo": Case(losses.koleo, {"x": X}, {"epsilon": 1e-3}, ignores_length=True),
    "sig_reg": Case(
        losses.sig_reg,
        {"x": X},
        {"largest": 3.0},
        options={"key": jax.random.key(0), "directions": 8, "knots": 5},
        returns="scalar",
    ),
    "barlow_twins": Case(
        losses.barlow_twins,
        {"z0": VIEWS[0], "z1": VIEWS[1]},
        {"lambd": 0.2, "epsilon": 0.1},
        returns="scalar",
    ),
    "vicreg": Case(
        losses.vicreg,
        {"z0": VIEWS[0], "z1": VIEWS[1]},
        {"lambd": 25.0, "mu": 25.0, "nu": 1.0, "gamma": 2.0, "epsilon": 1e-2},
        returns="scalar",
    ),
    "swav": Case(
        losses.swav,
        {"scores": VIEWS},
        {"temperature": 0.2, "epsilon": 0.2},
        {"memory": MEMORY},
        sharp={"temperature": 1e-3, "epsilon": 1e-3},
        constants=("epsilon",),
        has_slope=False,
    ),
    "swav without memory": Case(
        losses.swav,
        {"scores": VIEWS},
        {"temperature": 0.2, "epsilon": 0.2},
        sharp={"temperature": 1e-3, "epsilon": 1e-3},
        constants=("epsilon",),
        has_slope=False,
        is_fast=False,
    ),
    "dino": Case(
        losses.dino,
        {"student": ARRAYS[:3], "teacher": ARRAYS[3:]},
        {"student_temperature": 0.2, "teacher_temperature": 0.1},
        {"center": CENTER},
        sharp={"student_temperature": 1e-3, "teacher_temperature": 1e-3},
        constants=("teacher_temperature",),
        has_slope=False,
    ),
    "tico": Case(
        losses.tico,
        {"z0": VIEWS[0], "z1": VIEWS[1]},
        {"beta": 0.9, "rho": 8.0},
        {"covariance": STATE},
        ignores_length=True,
        constants=("beta",),
        has_slope=False,
        call=loss_of_tico,
    ),
    "mmcr": Case(
        losses.mmcr, {"views": VIEWS}, {"lambd": 0.1}, returns="scalar", ignores_length=True
    ),
    "w_mse": Case(losses.w_mse, {"views": VIEWS}, {"epsilon": 1e-2}, tolerance=1e-4),
}


def next_covariance(**arguments):
    return jnp.sum(WEIGHTS * losses.tico(**arguments)[1])


def next_center(**arguments):
    return WEIGHTS[0] @ losses.update_center(**arguments)


# What is handed on from step to step: no losses, but the same on any number of devices as well.
STATES = {
    "tico's covariance": dataclasses.replace(CASES["tico"], call=next_covariance),
    "dino's center": Case(
        losses.update_center,
        {"teacher": VIEWS[:2]},
        {"momentum": 0.7},
        {"center": CENTER},
        call=next_center,
    ),
}
SCALAR_LOSSES = [name for name, case in CASES.items() if case.returns == "scalar"]


def masked(case: Case) -> Case:
    """With rows that do not count and, where the loss takes them, ids."""
    more = {"where": WHERE}
    if case.takes("ids") and "negatives" not in case.rows | case.whole:
        more["ids"] = IDS
    return dataclasses.replace(case, rows=case.rows | more)


def numpy_of(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)
