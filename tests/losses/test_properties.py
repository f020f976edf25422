"""What holds for any batch: invariances, bounds and how losses are bound to each other."""

import functools
import inspect
import math

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st
from loss_cases import BACKENDS, CASES, LABELS, D, M, N, is_float, numpy_of, parameters

from jaxcl import losses

T = 0.3  # the temperature of the cases


def for_any(**strategies):
    """Runs a test on drawn arguments: the same ones in every run, more of them when slow."""

    def decorate(test):
        def run(examples, **fixed):
            settings = hypothesis.settings(
                max_examples=examples,
                derandomize=True,
                database=None,
                deadline=None,
                suppress_health_check=list(hypothesis.HealthCheck),
            )

            def drawn(**given):
                test(**fixed, **given)

            settings(hypothesis.given(**strategies)(drawn))()

        fixed = [name for name in inspect.signature(test).parameters if name not in strategies]
        run.__signature__ = inspect.Signature(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in ["examples", *fixed]
        )
        run.__name__, run.__doc__ = test.__name__, test.__doc__
        slow = pytest.param(200, marks=pytest.mark.slow)
        return pytest.mark.parametrize("examples", [20, slow])(run)

    return decorate


SEEDS = st.integers(0, 2**32 - 1)
ORDERS = st.permutations(range(N))
# Each row a copy of one of them; or zero, where it is -1.
COPIES = st.lists(st.integers(-1, N - 1), min_size=N, max_size=N)
EXPONENTS = st.lists(st.floats(-4, 4), min_size=N, max_size=N)


def gaussian(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def drawn_rows(case, seed, copies):
    """The case's arrays with other numbers, some rows equal or zero; labels stay."""
    random = np.random.default_rng(seed)
    copies = np.array(copies)

    def draw(x):
        if not is_float(x):
            return x
        rows = random.normal(size=x.shape).astype(np.float32)[copies]
        return np.where((copies < 0).reshape(-1, *[1] * (x.ndim - 1)), 0, rows)

    return jax.tree.map(draw, case.rows)


@functools.cache
def loss_of(name):
    """Values of a case for a stack of batches."""
    case = CASES[name]
    return jax.jit(jax.vmap(lambda rows: case(rows, case.whole, case.scalars)))


def close(found, wanted, tolerance=2e-5):
    """But for the rounding of the largest terms."""
    scale = np.maximum(1, np.abs(wanted).max())
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance * scale)


def count_equal(rows):
    """How many rows are each one's like, itself included."""
    return np.sum(np.all(rows[:, None] == rows, axis=-1), axis=1)


def entropy(logits):
    logits = np.float64(logits) - np.max(logits, axis=-1, keepdims=True)
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return -np.sum(shares * np.log(np.maximum(shares, 1e-300)), axis=-1)


NOT_NEGATIVE = (0, np.inf)
# The least and the most of a value, cosines being within 1 of 0.
BOUNDS = {
    "info_nce": (math.log1p((N - 1) * math.exp(-2 / T)), math.log1p((N - 1) * math.exp(2 / T))),
    "info_nce shared": (0, math.log1p(M * math.exp(2 / T))),
    "info_nce ignoring": (0, math.log1p(M * math.exp(2 / T))),
    "nt_xent ignoring": (0, math.log1p((2 * N - 2) * math.exp(2 / T))),
    "clip ignoring": (0, math.log1p((N - 1) * math.exp(2 * math.exp(1.2)))),
    "info_nce own": (0, math.log1p(M * math.exp(2 / T))),
    "nt_xent": (
        math.log1p((2 * N - 2) * math.exp(-2 / T)),
        math.log1p((2 * N - 2) * math.exp(2 / T)),
    ),
    "nt_xent memory": (0, math.log1p((2 * N - 2 + M) * math.exp(2 / T))),
    "dcl": (math.log(2 * N - 2) - 2 / T, math.log(2 * N - 2) + 2 / T),
    # g is no less than M exp(-1 / t).
    "hard_nt_xent": (math.log1p((2 * N - 2) * math.exp(-2 / T)), np.inf),
    "debiased nt_xent": (math.log1p((2 * N - 2) * math.exp(-2 / T)), np.inf),
    "sup_con": (0, math.log(N - 1) + 2 / T),
    "sup_con memory": (0, math.log(N - 1 + M) + 2 / T),
    "clip": (0, math.log1p((N - 1) * math.exp(2 * math.exp(1.2)))),
    "siglip": (0, N * math.log1p(math.exp(math.exp(1.2) + 2))),
    "n_pairs": NOT_NEGATIVE,
    "bilinear_nce": NOT_NEGATIVE,
    "time_nce": NOT_NEGATIVE,
    "hierarchical": NOT_NEGATIVE,
    "ge2e": (0, math.log1p((N - 1) * math.exp(2 * 3))),
    "ge2e contrast": (0, 2),
    "triplet": NOT_NEGATIVE,
    "triplet cosine": (0, 2.45),
    "distance_difference": (-2, 2),
    "pair_margin": NOT_NEGATIVE,
    "multi_similarity": NOT_NEGATIVE,
    "multi_similarity mined": NOT_NEGATIVE,
    "circle": NOT_NEGATIVE,
    "lifted_structure": NOT_NEGATIVE,
    "lifted_structure squared": NOT_NEGATIVE,
    "lifted_structure cosine": NOT_NEGATIVE,
    "negative_cosine": (-1, 1),
    "alignment": (0, 4),
    "uniformity": (-8, 0),
    "koleo": (-math.log(2 + 1e-3), -math.log(1e-3)),
    "barlow_twins": (0, 4 * D + 0.2 * D * (D - 1)),
    # N times the integral of a distance of at most 2, squared, under a bell of area sqrt(2 pi).
    "sig_reg": (0, N * 4 * math.sqrt(2 * math.pi)),
    "vicreg": NOT_NEGATIVE,
    "swav": NOT_NEGATIVE,
    "swav without memory": NOT_NEGATIVE,
    "dino": NOT_NEGATIVE,
    # 1 - cosine, and rho times a quotient of Rayleigh: at most the sum of the eigenvalues.
    "tico": (0, 2 + 8 * max(0.9 * (1 + 0.3 * D) + 0.1, 1)),
    # |mean views|_* <= sqrt(N D); |views of a row|_* <= the sum of 3 lengths.
    "mmcr": (-math.sqrt(N * D), 0.1 * 3),
    "w_mse": (0, 4),
}
# The order of sums decides where numbers are nothing but rounding: at a miner's threshold, and for
# rows that are their batch's mean, which have no direction. So it may at a similarity above which
# negatives are left out.
AT_RANDOM = {"multi_similarity mined", "w_mse"}


@pytest.mark.parametrize("name", parameters(CASES))
@for_any(seed=SEEDS, order=ORDERS, copies=COPIES, exponents=EXPONENTS)
def test_order_and_length_of_rows_and_bounds(name, seed, order, copies, exponents):
    case = CASES[name]
    if name == "koleo":  # to a zero row, which is not on the sphere, any other is the nearest
        copies = np.maximum(copies, 0)
    rows = drawn_rows(case, seed, range(N) if name in AT_RANDOM else copies)
    lengths = np.float32(10) ** np.array(exponents, np.float32)

    def scaled(x):
        return x * lengths.reshape(-1, *[1] * (x.ndim - 1)) if is_float(x) else x

    variants = [rows, jax.tree.map(lambda x: x[np.array(order)], rows)]
    variants.append(jax.tree.map(scaled, rows) if case.ignores_length else rows)
    plain, permuted, longer = numpy_of(
        loss_of(name)(jax.tree.map(lambda *x: np.stack(x), *variants))
    )
    if case.returns == "scalar":
        close(permuted, plain)
    else:
        close(permuted.reshape(-1, N), plain.reshape(-1, N)[:, order], 20 * case.tolerance)
    close(longer, plain)
    low, high = BOUNDS.get(name, (-np.inf, np.inf))
    assert np.all(plain >= low - 1e-5 * max(1, abs(low)))
    assert np.all(plain <= high + 1e-5 * max(1, abs(high)))


def test_all_but_the_weighted_have_bounds():
    """dclw's weights are constants that may be negative."""
    assert set(CASES) - set(BOUNDS) == {"dclw"}


REPRESENTATIVE = {"sup_con", "siglip", "uniformity", "swav"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in REPRESENTATIVE else pytest.mark.slow)
        for name, case in CASES.items()
        if case.takes("axis_name")
    ],
)
@for_any(seed=SEEDS, copies=COPIES)
def test_devices_and_blocks_do_not_matter(name, seed, copies):
    if name == "koleo":
        copies = np.maximum(copies, 0)
    rows = drawn_rows(CASES[name], seed, range(N) if name in AT_RANDOM else copies)
    found, wanted = numpy_of(split_and_whole(name)(rows))
    for each in found:
        close(each, wanted, 20 * CASES[name].tolerance)


@functools.cache
def split_and_whole(name):
    """A loss on four devices, in blocks of 5 rows as well where it takes them; and at once."""
    case = CASES[name]

    def local(rows, **options):
        return case(rows, case.whole, case.scalars, axis_name="d", **options)

    def evaluate(rows):
        split = jax.tree.map(lambda x: x.reshape(4, N // 4, *x.shape[1:]), rows)
        ways = [{}]
        if set(BACKENDS) <= set(case.all_backends()):
            ways += [{"backend": "ring", "block_size": 3}, {"backend": "tiled", "block_size": 3}]
        found = [
            jax.vmap(functools.partial(local, **options), axis_name="d")(split) for options in ways
        ]
        if case.returns == "scalar":
            found = [x[0] for x in found]
        else:
            found = [x.reshape(4, -1, N // 4).swapaxes(0, 1).reshape(-1) for x in found]
        return found, case(rows, case.whole, case.scalars)

    return jax.jit(evaluate)


info_nce = jax.jit(losses.info_nce)
nt_xent, dcl = jax.jit(losses.nt_xent), jax.jit(losses.dcl)
sup_con, clip, siglip = jax.jit(losses.sup_con), jax.jit(losses.clip), jax.jit(losses.siglip)
uniformity = jax.jit(losses.uniformity)


@for_any(seed=SEEDS, temperature=st.floats(0.05, 2))
def test_negatives_add_up(seed, temperature):
    """exp(loss) - 1 is a sum over negatives: over two halves of them it is the sum of both."""
    queries, positives, negatives = gaussian(seed, 3, N, D)
    whole = info_nce(queries, positives, negatives, temperature=temperature)
    halves = [
        np.expm1(np.float64(info_nce(queries, positives, half, temperature=temperature)))
        for half in np.split(negatives, 2)
    ]
    np.testing.assert_allclose(np.expm1(np.float64(whole)), sum(halves), rtol=1e-4, atol=1e-6)


@for_any(seed=SEEDS, scale=st.floats(-1, 4))
def test_clip_is_info_nce_both_ways(seed, scale):
    image, text = gaussian(seed, 2, N, D)
    found = clip(image, text, logit_scale=scale)
    close(clip(text, image, logit_scale=scale), np.roll(found, N))
    temperature = np.float32(np.exp(-scale))
    one_way = info_nce(image, text, temperature=temperature)
    other_way = info_nce(text, image, temperature=temperature)
    close(found, np.concatenate([one_way, other_way]))


@for_any(seed=SEEDS, scale=st.floats(-1, 2), bias=st.floats(-10, 10))
def test_siglip_swapped(seed, scale, bias):
    """The sum over all pairs is the same, whoever is the anchor."""
    image, text = gaussian(seed, 2, N, D)
    options = {"logit_scale": scale, "logit_bias": bias}
    found, swapped = siglip(image, text, **options), siglip(text, image, **options)
    np.testing.assert_allclose(np.sum(found), np.sum(swapped), rtol=1e-5)


@for_any(seed=SEEDS, temperature=st.floats(0.05, 2))
def test_dcl_is_nt_xent_without_the_positive(seed, temperature):
    """nt_xent = log(1 + exp(dcl)), so that dcl is below it."""
    views = gaussian(seed, 2, N, D)
    decoupled = np.float64(dcl(*views, temperature=temperature))
    found = nt_xent(*views, temperature=temperature)
    np.testing.assert_allclose(found, np.logaddexp(0, decoupled), rtol=1e-4, atol=1e-6)
    assert np.all(decoupled <= found + 1e-5 * (1 + found))


def simplex(classes):
    """Unit rows, as far from each other as can be: cosines of -1 / (classes - 1)."""
    rows = np.eye(classes) - 1 / classes
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@for_any(seed=SEEDS, temperature=st.floats(0.05, 2))
def test_least_nt_xent(seed, temperature):
    """log(1 + (2N - 2) exp(-N / (N - 1) / t)): of views that agree, on a simplex."""
    least = np.log1p((2 * N - 2) * np.exp(-N / (N - 1) / temperature))
    x, y = gaussian(seed, 2, N, N)
    close_by = x + np.float32(0.1) * y
    for pair in ((x, y), (x, close_by)):
        assert np.mean(nt_xent(*pair, temperature=temperature)) >= least - 1e-6
    corners = simplex(N)
    np.testing.assert_allclose(
        np.mean(nt_xent(corners, corners, temperature=temperature)), least, rtol=1e-4
    )


@for_any(seed=SEEDS, temperature=st.floats(0.05, 2), noise=st.floats(0, 1, width=32))
def test_least_sup_con(seed, temperature, noise):
    """Graf et al. (2021), theorem 2, for K classes of b rows: log(b - 1 + (N - b) exp(-K / (K - 1)
    / t)), of classes that are points of a simplex."""
    classes, each = 4, N // 4
    labels = np.repeat(np.arange(classes), each)
    least = np.log(each - 1 + (N - each) * np.exp(-classes / (classes - 1) / temperature))
    corners = simplex(classes)[labels]
    drawn = corners + noise * gaussian(seed, N, D)
    assert np.mean(sup_con(drawn, labels, temperature=temperature)) >= least - 1e-6
    found = np.mean(sup_con(corners, labels, temperature=temperature))
    np.testing.assert_allclose(found, least, rtol=1e-4)


@for_any(seed=SEEDS, copies=st.lists(st.integers(0, N - 1), min_size=N, max_size=N))
def test_what_cannot_be_told_apart_costs_its_logarithm(seed, copies):
    """log N less the information that pairs share: of n equal positives, any is as good."""
    queries, positives = gaussian(seed, 2, N, D)
    alike = positives[np.array(copies)]
    found = info_nce(queries, alike, temperature=np.float32(T))
    assert np.all(found >= np.log(count_equal(alike)) - 1e-5)
    own = info_nce(alike, alike, temperature=np.float32(1e-3))  # each is told from all others
    np.testing.assert_allclose(own, np.log(count_equal(alike)), rtol=1e-4, atol=1e-2)


@for_any(seed=SEEDS, copies=COPIES)
def test_sup_con_is_no_less_than_the_logarithm_of_its_positives(seed, copies):
    rows = drawn_rows(CASES["sup_con"], seed, copies)["embeddings"]
    found = sup_con(rows, LABELS, temperature=np.float32(T))
    positives = np.sum(LABELS[:, None] == LABELS, axis=1) - 1
    assert np.all(found >= np.log(np.maximum(positives, 1)) - 1e-5)


@for_any(seed=SEEDS)
def test_cross_entropy_is_no_less_than_the_targets_entropy(seed):
    """Of dino's teacher, and of swav's assignments."""
    student, teacher = gaussian(seed, 2, 2, N, D)
    found = loss_of_dino(student, teacher)
    least = np.mean(entropy(teacher / 0.1), axis=0)
    assert np.all(found >= least - 1e-5)
    found, assignments = loss_of_swav(student)
    least = np.mean(entropy(np.log(np.maximum(np.float64(assignments), 1e-300))), axis=0)
    assert np.all(found >= least - 1e-5)


@jax.jit
def loss_of_dino(student, teacher):
    return losses.dino(student, teacher, teacher_temperature=0.1)


@jax.jit
def loss_of_swav(scores):
    return losses.swav(scores, epsilon=0.3), jax.vmap(
        functools.partial(losses.sinkhorn, epsilon=0.3)
    )(scores)


@for_any(seed=SEEDS, t=st.floats(0.1, 4))
def test_uniformity_is_the_mean_over_pairs(seed, t):
    """Within [-4t, 0]; of two halves, a mean of what is within and between them."""
    rows = gaussian(seed, N, D)
    found = uniformity(rows, t=t)
    assert -4 * t <= found <= 0
    unit = np.float64(rows) / np.linalg.norm(rows, axis=1, keepdims=True)
    squared = np.sum((unit[:, None] - unit) ** 2, axis=-1)
    pairs = np.exp(-t * squared)[~np.eye(N, dtype=bool)]
    np.testing.assert_allclose(found, np.log(np.mean(pairs)), rtol=1e-4, atol=1e-6)


@for_any(seed=SEEDS, temperature=st.floats(0.05, 2), factor=st.floats(0.25, 4))
def test_temperature_divides_what_lengths_multiply(seed, temperature, factor):
    queries, positives = gaussian(seed, 2, N, D)
    wanted = n_pairs(queries * np.float32(factor / temperature), positives)
    found = dot_info_nce(queries * np.float32(factor), positives, temperature=temperature)
    close(found, wanted)


n_pairs = jax.jit(losses.n_pairs)
dot_info_nce = jax.jit(functools.partial(losses.info_nce, similarity="dot"))
