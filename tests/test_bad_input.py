"""Bad arguments of losses and memories: errors that say the argument, what came, what was expected.

Good calls are listed, with the axes of their arrays. From these and the signatures come the
mistakes that all functions share; what is one function's own is listed after them. Each is an error
while tracing, before anything is computed.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import losses, memory
from jaxcl.similarity import Pairs, mutual_similarity_rows, similarity_rows
from jaxcl.similarity.checks import Scalar

SIZES = {"N": 6, "G": 6, "D": 4, "K": 4, "M": 5, "V": 3, "T": 2, "A": 2, "B": 3, "E": 2}
INTEGERS = {"labels", "ids", "negative_ids", "memory_labels", "indices", "exclude", "same"}
OF_TWO_RANKS = {"negatives", "negative", "negative_ids", "exclude", "keys"}
KEY = jax.random.key(0)
MASK = np.ones((6, 6), bool)
PAIRS = losses.PairMasks(MASK, MASK)
EMBEDDINGS = np.ones((10, 4), np.float32)
QUEUE = memory.Queue(EMBEDDINGS, np.int32(0))
LABELLED_QUEUE = dataclasses.replace(QUEUE, labels=np.zeros(10, int), ids=np.zeros(10, int))
BANK, SHARDED = memory.Bank(EMBEDDINGS), memory.ShardedBank(EMBEDDINGS, 16)


@dataclasses.dataclass(frozen=True)
class Call:
    """A call that is right.

    Attributes:
      function: a public one.
      arrays: each array's axes, by argument; the first with an axis gives its size to the others.
      options: what is no array, or is none of the caller's.
      bound: axes whose sizes an option gives.
    """

    function: Callable[..., Any]
    arrays: dict[str, str]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    bound: str = ""

    def arguments(self) -> dict[str, Any]:
        return {name: array_of(name, axes.split()) for name, axes in self.arrays.items()}


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A call, what is wrong in it, and what is said of that, in order."""

    call: Call
    wrong: dict[str, Any]
    kind: type[Exception]
    said: tuple[str, ...]

    def __str__(self):
        return f"{self.call.function.__name__} {' '.join(self.said[:1])}"


def array_of(name, axes, sizes=SIZES):
    dtype = int if name in INTEGERS else np.float32
    return np.ones([sizes[axis] for axis in axes], dtype)


RETRIEVAL = {"embeddings": "N D", "labels": "N"}
TWO_VIEWS = {"z0": "N D", "z1": "N D", "ids": "N"}
IMAGE_AND_TEXT = {"image": "N D", "text": "N D", "ids": "N"}
TRIPLET = {"anchor": "N D", "positive": "N D"}
INFO_NCE = {"queries": "N D", "positives": "N D", "ids": "N"}
WITH_SHARED = INFO_NCE | {"negatives": "M D", "negative_ids": "M"}
ONE_OF_MANY = {"alpha": 2.0, "beta": 50.0, "base": 0.5}

CALLS = [
    Call(losses.info_nce, INFO_NCE),
    Call(losses.info_nce, WITH_SHARED),
    Call(losses.info_nce, INFO_NCE | {"negatives": "N M D", "negative_ids": "N M"}),
    Call(losses.nt_xent, TWO_VIEWS),
    Call(losses.nt_xent, TWO_VIEWS | {"negatives": "M D", "negative_ids": "M"}),
    Call(losses.dcl, TWO_VIEWS),
    Call(losses.dclw, TWO_VIEWS),
    Call(losses.hard_nt_xent, TWO_VIEWS),
    Call(losses.sup_con, RETRIEVAL),
    Call(losses.sup_con, RETRIEVAL | {"memory": "M D", "memory_labels": "M"}),
    Call(losses.clip, IMAGE_AND_TEXT, {"logit_scale": 1.0}),
    Call(losses.siglip, IMAGE_AND_TEXT, {"logit_scale": 1.0, "logit_bias": 0.0}),
    Call(losses.n_pairs, {"anchors": "N D", "positives": "N D", "ids": "N"}),
    Call(losses.bilinear_nce, {"anchors": "N D", "positives": "N E", "weights": "D E", "ids": "N"}),
    Call(losses.ge2e, RETRIEVAL),
    Call(losses.time_nce, {"earlier": "N D", "later": "N D", "last": "N D"}),
    Call(losses.hierarchical, {"z0": "N T D", "z1": "N T D"}),
    Call(losses.triplet, TRIPLET | {"negative": "N D"}, {"margin": 0.5}),
    Call(losses.triplet, TRIPLET | {"negative": "N K D"}, {"margin": 0.5}),
    Call(losses.distance_difference, TRIPLET | {"negative": "N D"}),
    Call(losses.distance_difference, TRIPLET | {"negative": "N K D"}),
    Call(losses.pair_margin, {"x": "N D", "y": "N D", "same": "N"}, {"margin": 1.0}),
    Call(losses.multi_similarity, RETRIEVAL, ONE_OF_MANY),
    Call(losses.circle, RETRIEVAL, {"margin": 0.4, "gamma": 80.0}),
    Call(losses.lifted_structure, RETRIEVAL),
    Call(losses.negative_cosine, {"predictions": "N D", "targets": "N D"}),
    Call(losses.alignment, {"x": "N D", "y": "N D"}),
    Call(losses.uniformity, {"x": "N D"}),
    Call(losses.koleo, {"x": "N D"}),
    Call(losses.barlow_twins, {"z0": "N D", "z1": "N D"}),
    Call(losses.vicreg, {"z0": "N D", "z1": "N D"}),
    Call(losses.sinkhorn, {"scores": "N K", "memory": "M K"}),
    Call(losses.swav, {"scores": "V N K", "memory": "A M K"}, bound="A"),
    Call(losses.dino, {"student": "V N K", "teacher": "T N K", "center": "K"}),
    Call(losses.update_center, {"center": "K", "teacher": "T N K"}),
    Call(losses.tico, {"z0": "N D", "z1": "N D", "covariance": "D D"}),
    Call(losses.mmcr, {"views": "V N D"}),
    Call(losses.w_mse, {"views": "V N D"}),
    Call(losses.sig_reg, {"x": "N D"}, {"key": KEY}),
    Call(losses.label_pairs, {"labels": "N"}),
    Call(losses.hard_pairs, RETRIEVAL),
    Call(losses.semi_hard_pairs, RETRIEVAL, {"key": KEY, "margin": 0.5}),
    Call(losses.distance_weighted_pairs, RETRIEVAL, {"key": KEY}),
    Call(losses.multi_similarity_pairs, RETRIEVAL),
    Call(losses.mined_triplets, {"embeddings": "N D"}, {"pairs": PAIRS}),
    Call(losses.learnable_temperature, {"logit_scale": ""}),
    Call(losses.init_learnable_temperature, {}),
    Call(losses.init_scale_and_bias, {}),
    Call(
        similarity_rows,
        {"queries": "N D", "keys": "M D", "shift": "N"},
        {"reduction": "logsumexp"},
    ),
    Call(
        mutual_similarity_rows,
        {"rows": "N D", "shift": "N"},
        {"reduction": "logsumexp", "halves": True},
    ),
    Call(memory.init_queue, {}, {"key": KEY, "size": 8, "dim": 4}),
    Call(memory.init_bank, {}, {"key": KEY, "size": 8, "dim": 4}),
    Call(memory.enqueue, {"keys": "B D"}, {"queue": QUEUE}, bound="D"),
    Call(
        memory.enqueue,
        {"keys": "B D", "labels": "B", "ids": "B"},
        {"queue": LABELLED_QUEUE},
        bound="D",
    ),
    Call(memory.age, {}, {"queue": QUEUE}),
    Call(memory.lookup, {"indices": "B"}, {"bank": BANK}),
    Call(
        memory.refresh,
        {"indices": "B", "embeddings": "B D"},
        {"bank": BANK, "momentum": 0.5},
        bound="D",
    ),
    Call(memory.draw, {}, {"key": KEY, "memory": QUEUE, "n": 3}),
    Call(memory.nearest, {"queries": "N D"}, {"memory": BANK, "k": 2}, bound="D"),
    Call(memory.hardest, {"queries": "N D", "exclude": "N"}, {"memory": BANK, "k": 2}, bound="D"),
    Call(
        memory.hardest, {"queries": "N D", "exclude": "N E"}, {"memory": QUEUE, "k": 2}, bound="D"
    ),
]
# Called with an axis only: the mistake is the rule there.
ON_DEVICES = [
    Call(memory.init_sharded_bank, {}, {"key": KEY, "size": 8, "dim": 4, "axis_name": "d"}),
    Call(memory.lookup, {"indices": "B"}, {"bank": SHARDED}),
    Call(
        memory.refresh,
        {"indices": "B", "embeddings": "B D"},
        {"bank": SHARDED, "momentum": 0.5},
        bound="D",
    ),
]


def of_arrays(call):
    """Wrong dtypes, ranks and sizes of each array."""
    bound = set(call.bound.split())
    for name, axes in call.arrays.items():
        axes = axes.split()
        right = array_of(name, axes)
        if name == "same":
            yield {name: right.astype(np.float32)}, TypeError, (f"{name} has dtype float32", "int")
        elif name in INTEGERS:
            wanted = "expected integers"
            yield {name: right.astype(np.float32)}, TypeError, (f"{name} has dtype float32", wanted)
        else:
            wanted = "expected floating point"
            yield {name: right.astype(int)}, TypeError, (f"{name} has dtype int", wanted)
        if name == "logit_scale":
            yield {name: right[None]}, ValueError, (f"{name} has shape (1,)", "expected a scalar")
            continue
        ranks = {right.ndim + 1, right.ndim - 1} - {0}
        if name in OF_TWO_RANKS:
            ranks = {4}
        for rank in ranks:
            other = np.ones([2] * rank, right.dtype)
            yield {name: other}, ValueError, (f"{name} has shape {other.shape}", "expected [")
        for axis in dict.fromkeys(axes):
            if axis in bound:
                other = array_of(name, axes, SIZES | {axis: SIZES[axis] + 1})
                said = (f"{name} has shape {other.shape}", "expected [", f"{axis} = {SIZES[axis]}")
                yield {name: other}, ValueError, said
        bound |= set(axes)


def of_options(call):
    """Wrong options, of the names that mean the same everywhere."""
    parameters = inspect.signature(call.function).parameters
    annotations = inspect.get_annotations(call.function)
    if "axis_name" in parameters:
        said = ("axis_name is 'other', but no axis of that name is mapped", "jax.shard_map")
        yield {"axis_name": "other"}, ValueError, said
    if "block_size" in parameters:
        for wrong in (0, -1, 1.5):
            said = (f"block_size is {wrong}, expected None or at least 1",)
            yield {"block_size": wrong}, ValueError, said
        said = ("block_size is 3, but backend 'dense'",)
        yield {"block_size": 3, "backend": "dense"}, ValueError, said
    if "backend" in parameters:
        said = ("backend is 'tile'", "expected one of 'auto', 'dense'", "did you mean 'tiled'")
        yield {"backend": "tile"}, ValueError, said
        yield {"backend": "ring"}, ValueError, ("backend is 'ring', but axis_name is None",)
    if "similarity" in parameters:
        wanted = "expected one of 'cosine', 'dot'"
        said = ("similarity is 'cosin'", wanted, "did you mean 'cosine'")
        yield {"similarity": "cosin"}, ValueError, said
        yield {"similarity": "kernel"}, ValueError, ("similarity is 'kernel'", wanted)
    if "distance" in parameters:
        said = ("distance is 'euclid'", "expected one of", "did you mean 'euclidean'")
        yield {"distance": "euclid"}, ValueError, said
    if "where" in parameters:
        said = ("where has shape (7,)", "expected [N]", "N = 6")
        yield {"where": np.ones(7, bool)}, ValueError, said
        yield {"where": MASK}, ValueError, ("where has shape (6, 6)", "expected [N]")
        yield {"where": np.ones(6, int)}, TypeError, ("where has dtype int", "expected bool")
    for name, annotation in annotations.items():
        if annotation == Scalar or annotation == Scalar | None:
            for wrong in (np.ones(1), jnp.ones(2)):
                said = (f"{name} has shape {wrong.shape}", "expected a scalar")
                yield {name: wrong}, ValueError, said
            yield {name: float("nan")}, ValueError, (f"{name} is nan", "expected")


ABOVE_ZERO = {
    "temperature": [losses.info_nce, losses.nt_xent, losses.dcl, losses.dclw],
    "sigma": [losses.dclw],
    "gamma": [losses.circle],
    "alpha": [losses.multi_similarity, losses.alignment],
    "beta": [losses.multi_similarity],
    "margin": [losses.pair_margin, losses.semi_hard_pairs],
    "t": [losses.uniformity],
    "epsilon": [losses.koleo, losses.barlow_twins, losses.vicreg, losses.sinkhorn, losses.swav],
    "student_temperature": [losses.dino],
    "teacher_temperature": [losses.dino],
    "smallest": [losses.distance_weighted_pairs],
    "largest": [losses.distance_weighted_pairs, losses.sig_reg],
    "scale": [losses.init_scale_and_bias, losses.ge2e],
    "max_scale": [losses.learnable_temperature],
}
ABOVE_ZERO["temperature"] += [losses.hard_nt_xent, losses.sup_con, losses.swav, losses.time_nce]
ABOVE_ZERO["temperature"] += [losses.init_learnable_temperature]
AT_LEAST_ZERO = {
    "margin": [losses.triplet, losses.lifted_structure],
    "beta": [losses.hard_nt_xent],
    "lambd": [losses.barlow_twins, losses.vicreg, losses.mmcr],
    "mu": [losses.vicreg],
    "nu": [losses.vicreg],
    "gamma": [losses.vicreg],
    "rho": [losses.tico],
}
SHARES = {
    "alpha": [losses.hierarchical],
    "margin": [losses.circle],
    "beta": [losses.tico],
    "epsilon": [losses.w_mse],
    "momentum": [losses.update_center, memory.refresh],
}


def of_bounds():
    """Numbers out of range."""
    for name, functions in ABOVE_ZERO.items():
        for function in functions:
            for wrong in (0, 0.0, -1, np.float32(0)):
                yield function, {name: wrong}, ValueError, (f"{name} is {wrong}, expected above 0",)
    for name, functions in AT_LEAST_ZERO.items():
        for function in functions:
            yield function, {name: -0.1}, ValueError, (f"{name} is -0.1, expected at least 0",)
    for wrong in (-0.1, 1.0):
        said = (f"tau_plus is {wrong}, expected at least 0 and below 1",)
        yield losses.hard_nt_xent, {"tau_plus": wrong}, ValueError, said
    for name, functions in SHARES.items():
        for function in functions:
            for wrong in (-0.1, 1.5):
                said = (f"{name} is {wrong}, expected at least 0 and at most 1",)
                yield function, {name: wrong}, ValueError, said


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


# function, what is wrong, the error, what it says: of the function's last call above.
OWN = [
    (losses.info_nce, {"negatives": ones(1, 6, 5, 4)}, ValueError, "negatives has shape (1, 6, 5"),
    (losses.info_nce, {"ids": None}, ValueError, "ids is missing"),
    (losses.info_nce, {"negative_ids": None}, ValueError, "negative_ids is missing"),
    (losses.info_nce, {"negatives": None}, ValueError, "negative_ids came without negatives"),
    (losses.info_nce, {"backend": "tiled"}, ValueError, "backend is 'tiled', but negatives [N, M"),
    (losses.nt_xent, {"negatives": ones(6, 5, 4)}, ValueError, "negatives has shape (6, 5, 4)"),
    (losses.nt_xent, {"ids": None}, ValueError, "ids is missing"),
    (losses.nt_xent, {"negative_ids": None}, ValueError, "negative_ids is missing"),
    (losses.nt_xent, {"negatives": None}, ValueError, "negative_ids came without negatives"),
    (losses.sup_con, {"memory_labels": None}, ValueError, "memory_labels is missing"),
    (losses.sup_con, {"memory": None}, ValueError, "memory is missing"),
    (losses.ge2e, {"contrast": "softmin"}, ValueError, "contrast is 'softmin', expected one of"),
    (losses.ge2e, {"bias": ones(2)}, ValueError, "bias has shape (2,), expected a scalar"),
    (
        losses.sinkhorn,
        {"iterations": 0},
        ValueError,
        "iterations is 0, expected an integer of at l",
    ),
    (
        losses.swav,
        {"iterations": 1.5},
        ValueError,
        "iterations is 1.5, expected an integer of at l",
    ),
    (losses.swav, {"assigned_views": 0}, ValueError, "assigned_views is 0, expected an integer"),
    (losses.swav, {"assigned_views": 4}, ValueError, "scores has 3 views and assigned_views is 4"),
    (losses.swav, {"scores": ones(1, 6, 4)}, ValueError, "scores has 1 views"),
    (losses.dino, {"student": ones(1, 6, 4)}, ValueError, "student has 1 views and teacher 2"),
    (losses.w_mse, {"views": ones(1, 6, 4)}, ValueError, "views has 1 views, expected at least 2"),
    (losses.distance_weighted_pairs, {"largest": 3}, ValueError, "largest is 3, expected above 0"),
    (
        losses.semi_hard_pairs,
        {"key": 0},
        TypeError,
        "key has dtype int32 and shape (), expected one",
    ),
    (
        losses.distance_weighted_pairs,
        {"key": jax.random.split(KEY)},
        TypeError,
        "key has dtype key<fry> and shape (2,), expected one key",
    ),
    (losses.sig_reg, {"key": 0}, TypeError, "key has dtype int32 and shape (), expected one key"),
    (
        losses.sig_reg,
        {"directions": 0},
        ValueError,
        "directions is 0, expected an integer of at least 1",
    ),
    (losses.sig_reg, {"knots": 1}, ValueError, "knots is 1, expected an integer of at least 2"),
    (similarity_rows, {"reduction": "logsumexp "}, ValueError, "reduction is 'logsumexp ', expec"),
    (
        similarity_rows,
        {"pairs": Pairs(np.arange(5), np.arange(5))},
        ValueError,
        "pairs.query_ids has shape (5,), expected [N] with N = 6",
    ),
    (
        similarity_rows,
        {"pairs": Pairs(key_where=np.ones(6, bool))},
        ValueError,
        "pairs.key_where has shape (6,), expected [M] with M = 5",
    ),
    (
        similarity_rows,
        {"pairs": Pairs(np.ones(6, np.float32), np.ones(5, np.float32))},
        TypeError,
        "pairs.query_ids has dtype float32, expected integers",
    ),
    (
        similarity_rows,
        {"pairs": Pairs(query_where=np.ones(6, np.float32))},
        TypeError,
        "pairs.query_where has dtype float32, expected bool",
    ),
    (mutual_similarity_rows, {"reduction": "max"}, ValueError, "reduction is 'max', expected one"),
    (mutual_similarity_rows, {"temperatures": [1, 0]}, ValueError, "temperatures[1] is 0, expec"),
    (
        mutual_similarity_rows,
        {"temperatures": [ones(2)]},
        ValueError,
        "temperatures[0] has shape (2,), expected a scalar",
    ),
    (
        mutual_similarity_rows,
        {"rows": ones(5, 4), "shift": None},
        ValueError,
        "rows has shape (5, 4), expected an even number of rows to halve",
    ),
    (
        mutual_similarity_rows,
        {"pairs": Pairs(np.arange(6), np.ones((6, 6), int))},
        ValueError,
        "pairs.key_ids has shape (6, 6), expected [N] with N = 6",
    ),
    (memory.init_queue, {"size": 0}, ValueError, "size is 0, expected at least 1"),
    (memory.init_queue, {"dim": 0}, ValueError, "dim is 0, expected at least 1"),
    (memory.init_bank, {"size": 0}, ValueError, "size is 0, expected at least 1"),
    (memory.init_bank, {"dim": 0}, ValueError, "dim is 0, expected at least 1"),
    (memory.init_sharded_bank, {"size": 0}, ValueError, "size is 0, expected at least 1"),
    (memory.init_sharded_bank, {"dim": 0}, ValueError, "dim is 0, expected at least 1"),
    (memory.draw, {"n": 0}, ValueError, "n is 0, expected at least 1"),
    (memory.nearest, {"k": 11}, ValueError, "k is 11, expected 1 to 10"),
    (memory.nearest, {"k": 0}, ValueError, "k is 0, expected 1 to 10"),
    (
        memory.hardest,
        {"k": 9},
        ValueError,
        "k is 9, expected 1 to 8: the memory has 10 rows, of which 2 may be excluded",
    ),
    (memory.enqueue, {"queue": QUEUE, "ids": None}, ValueError, "labels came, but the queue keeps"),
    (memory.enqueue, {"queue": QUEUE, "labels": None}, ValueError, "ids came, but the queue keeps"),
    (memory.enqueue, {"labels": None}, ValueError, "labels are missing"),
    (memory.enqueue, {"ids": None}, ValueError, "ids are missing"),
    (memory.lookup, {}, ValueError, "axis_name is None: a ShardedBank"),
    (memory.refresh, {}, ValueError, "axis_name is None: a ShardedBank"),
]
PRIMITIVES = (similarity_rows, mutual_similarity_rows)
OF_PAIRS = [
    (PAIRS._replace(negatives=MASK[:, :2]), ValueError, "pairs.negatives has shape (6, 2), exp"),
    (
        PAIRS._replace(positives=MASK[:2]),
        ValueError,
        "pairs.positives has shape (2, 6), expected [",
    ),
    (MASK, TypeError, "pairs is a ndarray, expected PairMasks"),
    (PAIRS._replace(negatives=1 * MASK), TypeError, "pairs.negatives has dtype int"),
]
LAST_CALL = {call.function: call for call in CALLS + ON_DEVICES}
TABLE = [
    Mistake(call, wrong, kind, said)
    for call in CALLS
    for kinds in (of_arrays, of_options)
    for wrong, kind, said in kinds(call)
]
TABLE += [
    Mistake(call, wrong, kind, said)
    for call in ON_DEVICES
    for wrong, kind, said in of_options(call)
]
TABLE += [Mistake(LAST_CALL[function], *mistake) for function, *mistake in of_bounds()]
TABLE += [Mistake(LAST_CALL[function], wrong, kind, (said,)) for function, wrong, kind, said in OWN]
TABLE += [
    Mistake(call, {"pairs": wrong}, kind, (said,))
    for call in CALLS
    if "pairs" in inspect.signature(call.function).parameters
    and call.function not in PRIMITIVES  # their pairs are vectors
    for wrong, kind, said in OF_PAIRS
]


def check(mistake):
    """Called at once, under jit, and where shapes are all there is."""
    given = mistake.call.arguments() | mistake.call.options | mistake.wrong
    arrays = {
        name: x for name, x in given.items() if name in mistake.call.arrays or name == "where"
    }
    arrays = {name: x for name, x in arrays.items() if x is not None}
    others = {name: value for name, value in given.items() if name not in arrays}

    def call(arrays):
        return mistake.call.function(**arrays, **others)

    pattern = ".*".join(map(re.escape, mistake.said))
    for run in (call, jax.jit(call), lambda arrays: jax.eval_shape(call, arrays)):
        with pytest.raises(mistake.kind, match=pattern):
            run(arrays)


@pytest.mark.parametrize("function", LAST_CALL, ids=lambda function: function.__name__)
def test_mistakes(function):
    for mistake in TABLE:
        if mistake.call.function is function:
            try:
                check(mistake)
            except BaseException as error:
                error.add_note(f"{mistake}: {mistake.wrong}")
                raise


def public_functions():
    for module in (losses, memory):
        for name, value in vars(module).items():
            is_ours = module is losses or name in memory.__all__
            if inspect.isfunction(value) and is_ours and not name.startswith("_"):
                yield value


# What any value goes for, and what is checked where it is made.
FREE = {"dtype", "queue", "bank", "uniform", "execution"}
FREE_OF = {
    memory.init_queue: {"key", "labels", "ids"},
    memory.init_bank: {"key"},
    memory.init_sharded_bank: {"key"},
    memory.draw: {"key", "memory"},
    memory.nearest: {"memory"},
    memory.hardest: {"memory"},
    similarity_rows: {"pairs"},
    mutual_similarity_rows: {"pairs", "halves"},
}


@pytest.mark.parametrize(
    "function", [*public_functions(), *PRIMITIVES], ids=lambda function: function.__name__
)
def test_every_argument_has_its_mistakes(function):
    """A new function, or a new argument, is to be listed above."""
    assert function in LAST_CALL, f"{function.__name__} is in no call"
    said = [mistake.said[0] for mistake in TABLE if mistake.call.function is function]
    for name in inspect.signature(function).parameters:
        if name not in FREE | FREE_OF.get(function, set()):
            assert any(re.match(rf"{name}\W", first) for first in said), name
