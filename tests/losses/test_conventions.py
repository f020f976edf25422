"""What every loss keeps to: masked rows, finite values, float types, traced scalars, directions."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_cases import (
    ARRAYS,
    CASES,
    SCALAR_LOSSES,
    WHERE,
    N,
    is_float,
    map_floats,
    numpy_of,
    parameters,
    values_and_gradients,
)

from jaxcl import losses
from jaxcl.similarity.checks import Scalar

NO_LOSSES = {
    "MinedTriplets",
    "PairMasks",
    "ScaleAndBias",
    "distance_weighted_pairs",
    "hard_pairs",
    "init_learnable_temperature",
    "init_scale_and_bias",
    "label_pairs",
    "learnable_temperature",
    "mined_triplets",
    "multi_similarity_pairs",
    "semi_hard_pairs",
    "sinkhorn",
    "update_center",
}

# What losses commonly break on, as functions of an array of ordinary rows.
EXTREMES = {
    "zero rows": lambda x: put(x, slice(2), 0),
    "all zero": np.zeros_like,
    "all rows equal": lambda x: np.broadcast_to(x[:1], x.shape),
    "two rows equal": lambda x: put(x, 0, x[3]),
    "two rows nearly equal": lambda x: put(x, 0, x[3] * np.float32(1 + 2e-7)),
    "a constant dimension": lambda x: put(x, (..., 0), 3.7),
    "two equal dimensions": lambda x: put(x, (..., 0), x[..., 1]),
    "large rows": lambda x: x * np.float32(1e4),
    "small rows": lambda x: x * np.float32(1e-4),
    "tiny rows": lambda x: x * np.float32(1e-30),
}
LABELLINGS = {"no negatives": np.zeros(N, int), "no positives": np.arange(N)}
ORDER = np.random.default_rng(0).permutation(N)
LENGTHS = 10 ** np.linspace(-3, 3, N, dtype=np.float32)
ONE = np.arange(N) == 2
HALF = {"bfloat16": jnp.bfloat16, "float16": jnp.float16}
SCALES = {"": np.float32(1), " large": np.float32(1e4)}


def put(x, index, value):
    """A copy with other entries at an index."""
    x = x.copy()
    x[index] = value
    return x


def changed(arrays, change):
    """All that is real, changed."""
    return {part: map_floats(change, arrays[part]) for part in arrays}


def by_row(values, x):
    """[N] values for an array [N, ...]."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def with_first(rows, change):
    """Rows of which the first array is changed."""
    first, *others = rows
    value = rows[first]
    new = [change(value[0]), *value[1:]] if isinstance(value, list) else change(value)
    return {first: new} | {name: rows[name] for name in others}


def entries_of(case):
    """Arguments by what they are: rows, whole, scalars, where; all of the same shapes."""
    plain = {
        "rows": case.rows,
        "whole": case.whole,
        "scalars": {name: np.float32(value) for name, value in case.scalars.items()},
        "where": np.ones(N, bool),
    }
    arrays = {part: plain[part] for part in ("rows", "whole")}
    nan_where_not = functools.partial(map_floats, lambda x: put(x, ~WHERE, np.nan), case.rows)
    sharp = plain["scalars"] | {name: np.float32(x) for name, x in case.sharp.items()}
    entries = {
        "plain": {},
        "masked": {"rows": nan_where_not(), "where": WHERE},
        "nothing counts": {"rows": nan_where_not(), "where": np.zeros(N, bool)},
        "extreme one row counts": {"where": ONE},
        "nan": {"rows": with_first(case.rows, lambda x: put(x, 2, np.nan))},
        "permuted": {"rows": jax.tree.map(lambda x: x[ORDER], case.rows)},
        "other lengths": {"rows": with_first(case.rows, lambda x: x * by_row(LENGTHS, x))},
    }
    for dtype in HALF:
        for scale, factor in SCALES.items():
            entries[dtype + scale] = changed(arrays, functools.partial(rounded, dtype, factor))
            entries["float32" + scale] = changed(arrays, lambda x, factor=factor: x * factor)
    for name, change in EXTREMES.items():
        entries[f"extreme {name}"] = changed(arrays, change)
        entries[f"extreme {name}, sharp"] = changed(arrays, change) | {"scalars": sharp}
    if "labels" in case.rows:
        for name, labels in LABELLINGS.items():
            entries[f"extreme {name}"] = {"rows": case.rows | {"labels": labels}}
    for name in case.scalars:
        for word, factor in (("above", 1.01), ("below", 0.99)):
            value = {name: plain["scalars"][name] * np.float32(factor)}
            entries[f"{name} {word}"] = {"scalars": plain["scalars"] | value}
    return {name: plain | entry for name, entry in entries.items()}


def rounded(dtype, factor, x):
    return (x * factor).astype(HALF[dtype]).astype(np.float32)


class Found:
    """A case and what its loss says of all entries: computed at once, by one program."""

    def __init__(self, name):
        self.name, self.case = name, CASES[name]
        self.entries = entries_of(self.case)

        def evaluate(entry):
            parts = [entry[part] for part in ("rows", "whole", "scalars")]
            return values_and_gradients(self.case, *parts, where=entry["where"])

        stacked = jax.tree.map(lambda *x: np.stack(x), *self.entries.values())
        results = numpy_of(jax.jit(jax.vmap(evaluate))(stacked))
        self.by_entry = {
            entry: jax.tree.map(lambda x, i=i: x[i], results)
            for i, entry in enumerate(self.entries)
        }

    def __getitem__(self, entry):
        """Values, and gradients by name."""
        return self.by_entry[entry]

    def of_rows(self, rows):
        """Which of the values are those rows': of both views."""
        return np.tile(rows, 2) if self.case.returns == "two views" else rows


@pytest.fixture(scope="module", params=parameters(CASES))
def found(request):
    """One case after another, so that each is computed once."""
    return Found(request.param)


def widens(case):
    """One of each way in which embeddings become float32 rows."""
    return case.loss in (losses.nt_xent, losses.triplet, losses.swav, losses.mmcr) and case.is_fast


def check_as_if_absent(found, entry, where):
    """The loss without `where` and with Python scalars, of the rows that count alone."""
    case = found.case
    values, gradients = found[entry]
    present = jax.tree.map(lambda x: x[where], case.rows)
    alone = jax.jit(functools.partial(values_and_gradients, case, scalars=case.scalars))
    wanted, wanted_gradients = numpy_of(alone(present, case.whole))

    close = functools.partial(np.testing.assert_allclose, rtol=case.tolerance)
    if case.returns == "scalar":
        close(values, wanted)
    else:
        close(values[found.of_rows(where)], wanted, atol=case.tolerance / 10)
        assert not np.any(values[found.of_rows(~where)])
    # A mean of values is over all N rows, of which where.sum() are left.
    factor = 1 if case.returns == "scalar" else N / where.sum()
    for name, expected in wanted_gradients.items():
        gradient = factor * gradients[name]
        if name.startswith("rows"):
            assert not np.any(gradient[~where]), name
            gradient = gradient[where]
        atol = max(case.tolerance / 10 * np.abs(expected).max(initial=0), 1e-6)
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=atol, err_msg=name)


def test_masked_rows_are_as_if_absent(found):
    """NaN in them reaches nothing; the others have the losses and gradients of a batch without."""
    check_as_if_absent(found, "masked", WHERE)
    for nothing in jax.tree.leaves(found["nothing counts"]):
        assert not np.any(nothing)


@pytest.mark.slow
def test_one_row(found):
    """As the only one of a batch, and as the only one that counts."""
    check_as_if_absent(found, "extreme one row counts", ONE)


def test_nan_in_a_row_that_counts_is_not_hidden(found):
    if found.name == "multi_similarity mined":
        return  # NaN is in no pair that is mined
    values, _ = found["nan"]
    assert np.isnan(values if found.case.returns == "scalar" else values[2])


def test_finite_at_extremes(found):
    broken = {
        entry
        for entry in found.entries
        for leaf in jax.tree.leaves(found[entry])
        if entry.startswith("extreme") and not np.all(np.isfinite(leaf))
    }
    assert not broken


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("found", parameters(CASES, widens), indirect=True)
def test_half_precision(found, dtype):
    """All is computed in float32, from the rounded inputs; rows of 1e4 do not overflow."""
    case, kind = found.case, HALF[dtype]
    arrays = {"rows": case.rows, "whole": case.whole}
    by_scale = [changed(arrays, lambda x, f=f: (x * f).astype(kind)) for f in SCALES.values()]
    stacked = jax.tree.map(lambda *x: np.stack(x), *by_scale)
    loss = jax.jit(jax.vmap(lambda arrays: case(*arrays.values(), case.scalars)))
    for values, scale in zip(loss(stacked), SCALES, strict=True):
        assert values.dtype == jnp.float32
        close = functools.partial(np.testing.assert_allclose, np.asarray(values))
        close(found[dtype + scale][0], rtol=case.tolerance, atol=case.tolerance / 10)
    wide = found["float32"][0]
    difference = np.abs(np.mean(found[dtype][0]) - np.mean(wide))
    assert difference < 1e-2 * np.mean(np.abs(wide))
    gradients = jax.eval_shape(
        lambda arrays: values_and_gradients(case, *arrays.values(), case.scalars)[1],
        by_scale[0],
    )
    assert all(g.dtype == kind for name, g in gradients.items() if "scalars" not in name)


def test_order_of_rows_does_not_matter(found):
    wanted = found["plain"][0]
    if found.case.returns != "scalar":
        wanted = wanted.reshape(-1, N)[:, ORDER].reshape(-1)
    np.testing.assert_allclose(
        found["permuted"][0], wanted, rtol=found.case.tolerance, atol=found.case.tolerance / 10
    )


def test_only_directions_count(found):
    """Of cosines; other losses see lengths."""
    values, plain = found["other lengths"][0], found["plain"][0]
    if found.case.ignores_length:
        np.testing.assert_allclose(values, plain, rtol=1e-5, atol=1e-6)
    else:
        assert np.abs(np.mean(values - plain)) > 1e-3


def test_scalars_may_be_traced_and_learned(found):
    """Gradients are slopes, but of scalars that only make constants."""
    case = found.case
    for name, value in case.scalars.items():
        plain, gradients = found["plain"]
        above, below = (np.mean(found[f"{name} {word}"][0]) for word in ("above", "below"))
        slope = gradients[f"scalars {name}"]
        assert above != below, name
        if name in case.constants:
            continue
        numeric = (above - below) / (0.02 * value)
        # A difference of float32 means is off by their rounding.
        rounding = 2e-7 * np.mean(np.abs(plain)) / (0.02 * abs(value))
        np.testing.assert_allclose(slope, numeric, rtol=2e-3, atol=rounding, err_msg=name)


@pytest.mark.parametrize(
    "name", parameters([name for name in CASES if CASES[name].takes("similarity")], widens)
)
def test_dot_takes_rows_as_they_are(name):
    case = CASES[name]

    def unit(x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    arrays = {"rows": case.rows, "whole": case.whole}
    loss = jax.jit(
        lambda arrays, scalars, similarity: case(*arrays.values(), scalars, similarity=similarity),
        static_argnames="similarity",
    )
    found = loss(changed(arrays, unit), case.scalars, "dot")
    wanted = loss(arrays, case.scalars, "cosine")
    # tico's covariance is no row, and stays.
    if "covariance" in case.whole:
        found = loss(
            {"rows": changed(arrays, unit)["rows"], "whole": case.whole}, case.scalars, "dot"
        )
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert abs(np.mean(loss(arrays, case.scalars, "dot") - wanted)) > 0.1
    # The weights of dclw see the length too, as what is ignored does, and the bound of the debiased
    # losses is for unit rows.
    sees_length = {"sigma", "tau_plus", "ignore_above"} & set(case.scalars | case.options)
    if "temperature" in case.scalars and not sees_length:
        longer = changed(arrays, lambda x: 2 * unit(x))
        found = loss(longer, {"temperature": 4 * case.scalars["temperature"]}, "dot")
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    parameters(
        [name for name in CASES if CASES[name].has_slope],
        is_fast=lambda case: case.loss is losses.lifted_structure and case.is_fast,
    ),
)
def test_gradients_are_slopes(name):
    """In float64, along one direction of all arrays; most have golden gradients beside it."""
    case = CASES[name]
    _, gradients = jax.jit(functools.partial(values_and_gradients, case))(
        case.rows, case.whole, case.scalars
    )
    with jax.enable_x64(True):
        wide = map_floats(
            lambda x: jnp.asarray(x, jnp.float64), {"rows": case.rows, "whole": case.whole}
        )
        leaves, structure = jax.tree.flatten(wide)
        random = np.random.default_rng(3)
        moves = [random.normal(size=x.shape) if is_float(x) else None for x in leaves]

        @jax.jit
        def mean_loss(step):
            moved = [x if m is None else x + step * m for x, m in zip(leaves, moves, strict=True)]
            return jnp.mean(case(*jax.tree.unflatten(structure, moved).values(), case.scalars))

        numeric = float((mean_loss(1e-6) - mean_loss(-1e-6)) / 2e-6)
    along = [g for name, g in numpy_of(gradients).items() if "scalars" not in name]
    taken = [move for move in moves if move is not None]
    found = sum(np.sum(gradient * move) for gradient, move in zip(along, taken, strict=True))
    np.testing.assert_allclose(found, numeric, rtol=1e-4)


def test_every_loss_is_listed():
    listed = {case.loss.__name__ for case in CASES.values()}
    assert listed == set(losses.__all__) - NO_LOSSES
    assert {case.loss.__name__ for case in CASES.values() if case.is_fast} == listed
    assert SCALAR_LOSSES == ["uniformity", "sig_reg", "barlow_twins", "vicreg", "mmcr"]


@pytest.mark.parametrize("name", CASES)
def test_every_scalar_is_listed(name):
    case = CASES[name]
    annotations = inspect.get_annotations(case.loss)
    scalars = {argument for argument, kind in annotations.items() if kind == Scalar}
    assert scalars == set(case.scalars) | {o for o in case.options if o in scalars}


@pytest.mark.slow
def test_numpy_inputs_are_taken():
    inputs = ARRAYS[:2]
    np.testing.assert_array_equal(
        losses.nt_xent(*inputs), losses.nt_xent(*map(jnp.asarray, inputs))
    )
