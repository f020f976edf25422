"""Arguments that losses over pairs, those on the sphere and miners refuse, and what they say."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxcl.losses.labelled_pairs import circle, lifted_structure, multi_similarity
from jaxcl.losses.miners import (
    distance_weighted_pairs,
    hard_pairs,
    mined_triplets,
    multi_similarity_pairs,
    semi_hard_pairs,
)
from jaxcl.losses.n_pairs import n_pairs
from jaxcl.losses.pairs import pair_margin
from jaxcl.losses.pairwise import PairMasks, label_pairs
from jaxcl.losses.spread import alignment, koleo, uniformity

ROWS = jnp.ones((4, 3))
LABELS = jnp.array([0, 0, 1, 1])
KEY = jax.random.key(0)
MASK = jnp.ones((4, 4), bool)

margin = functools.partial(pair_margin, margin=1.0)
multi = functools.partial(multi_similarity, alpha=2.0, beta=50.0, base=0.5)
circled = functools.partial(circle, margin=0.4, gamma=80.0)
semi_hard = functools.partial(semi_hard_pairs, KEY)
weighted = functools.partial(distance_weighted_pairs, KEY)
LABELLED = {
    "multi_similarity": multi,
    "circle": circled,
    "lifted_structure": lifted_structure,
    "hard_pairs": hard_pairs,
    "semi_hard_pairs": semi_hard,
    "distance_weighted_pairs": weighted,
    "multi_similarity_pairs": multi_similarity_pairs,
}

BAD = {
    "pair widths": (lambda: margin(ROWS, ROWS[:, :2], LABELS), r"y has shape \(4, 2\).*D = 3"),
    "pair rank": (lambda: margin(ROWS[0], ROWS[0], LABELS), r"x has shape .*expected \[N, D\]"),
    "pair same": (lambda: margin(ROWS, ROWS, LABELS[:2]), r"same has shape \(2,\).*N = 4"),
    "pair same bool": (lambda: margin(ROWS, ROWS, LABELS[:2] > 0), r"same has shape \(2,\).*N = 4"),
    "pair margin": (lambda: pair_margin(ROWS, ROWS, LABELS, margin=0), "margin is 0, expected abo"),
    "pair where": (
        lambda: margin(ROWS, ROWS, LABELS, where=MASK),
        r"where has shape \(4, 4\), expected \[N\] with N = 4",
    ),
    "n_pairs anchors": (lambda: n_pairs(ROWS[0], ROWS), r"anchors has shape \(3,\)"),
    "n_pairs rows": (lambda: n_pairs(ROWS, ROWS[:2]), r"positives has shape \(2, 3\).*N = 4"),
    "n_pairs axis": (lambda: n_pairs(ROWS, ROWS, axis_name="x"), "axis_name is 'x', but no axis"),
    "n_pairs block": (lambda: n_pairs(ROWS, ROWS, block_size=0), "block_size is 0, expected"),
    "multi alpha": (lambda: multi(ROWS, LABELS, alpha=0), "alpha is 0, expected above 0"),
    "multi beta": (lambda: multi(ROWS, LABELS, beta=jnp.ones(2)), r"beta has shape \(2,\), expec"),
    "multi base": (lambda: multi(ROWS, LABELS, base=jnp.ones(2)), r"base has shape \(2,\), expec"),
    "multi similarity": (
        lambda: multi(ROWS, LABELS, similarity="cosin"),
        "did you mean 'cosine'",
    ),
    "circle margin": (lambda: circled(ROWS, LABELS, margin=2), "margin is 2, expected at least 0"),
    "circle gamma": (lambda: circled(ROWS, LABELS, gamma=-1), "gamma is -1, expected above 0"),
    "circle masks": (
        lambda: circled(ROWS, LABELS, pairs=(MASK, MASK[:, :2])),
        r"pairs.negatives has shape \(4, 2\), expected \[N, G\] with N = 4 and G = 4",
    ),
    "lifted margin": (
        lambda: lifted_structure(ROWS, LABELS, margin=-1),
        "margin is -1, expected at least 0",
    ),
    "lifted distance": (
        lambda: lifted_structure(ROWS, LABELS, distance="euclid"),
        "distance is 'euclid'.*did you mean 'euclidean'",
    ),
    "alignment rows": (lambda: alignment(ROWS, ROWS[:2]), r"y has shape \(2, 3\).*N = 4"),
    "alignment alpha": (lambda: alignment(ROWS, ROWS, alpha=0), "alpha is 0, expected above 0"),
    "uniformity rank": (lambda: uniformity(ROWS[0]), r"x has shape \(3,\), expected \[N, D\]"),
    "uniformity t": (lambda: uniformity(ROWS, t=0), "t is 0, expected above 0"),
    "uniformity axis": (lambda: uniformity(ROWS, axis_name="x"), "axis_name is 'x', but no axis"),
    "uniformity backend": (lambda: uniformity(ROWS, backend="tile"), "did you mean 'tiled'"),
    "koleo rank": (lambda: koleo(ROWS[None]), r"x has shape \(1, 4, 3\), expected \[N, D\]"),
    "koleo epsilon": (lambda: koleo(ROWS, epsilon=0), "epsilon is 0, expected above 0"),
    "koleo axis": (lambda: koleo(ROWS, axis_name="x"), "axis_name is 'x', but no axis"),
    "label rank": (lambda: label_pairs(MASK.astype(int)), r"labels has shape \(4, 4\)"),
    "label axis": (lambda: label_pairs(LABELS, axis_name="x"), "axis_name is 'x', but no axis"),
    "hard distance": (lambda: hard_pairs(ROWS, LABELS, distance="cos"), "distance is 'cos'"),
    "semi-hard margin": (lambda: semi_hard(ROWS, LABELS, margin=0), "margin is 0, expected above"),
    "weighted smallest": (lambda: weighted(ROWS, LABELS, smallest=0), "smallest is 0, expected"),
    "weighted largest": (lambda: weighted(ROWS, LABELS, largest=3), "largest is 3, expected above"),
    "multi epsilon": (
        lambda: multi_similarity_pairs(ROWS, LABELS, epsilon=jnp.ones(2)),
        r"epsilon has shape \(2,\), expected a scalar",
    ),
    "triplets of masks": (
        lambda: mined_triplets(ROWS, PairMasks(MASK[:2], MASK)),
        r"pairs.positives has shape \(2, 4\), expected \[N, G\] with N = 4 and G = 4",
    ),
    "triplets axis": (
        lambda: mined_triplets(ROWS, (MASK, MASK), axis_name="x"),
        "axis_name is 'x', but no axis",
    ),
}
WRONG_TYPES = {
    "pair same": (lambda: margin(ROWS, ROWS, ROWS[:, 0]), "same has dtype float32, expected int"),
    "pair integers": (lambda: margin(ROWS.astype(int), ROWS, LABELS), "x has dtype int32, exp"),
    "n_pairs": (lambda: n_pairs(ROWS.astype(int), ROWS), "anchors has dtype int32, expected flo"),
    "alignment": (lambda: alignment(ROWS.astype(int), ROWS), "x has dtype int32, expected floati"),
    "uniformity": (lambda: uniformity(MASK), "x has dtype bool, expected floating"),
    "koleo where": (lambda: koleo(ROWS, where=LABELS), "where has dtype int32, expected bool"),
    "one mask": (lambda: circled(ROWS, LABELS, pairs=MASK), "pairs is a .*, expected PairMasks"),
    "mask": (lambda: circled(ROWS, LABELS, pairs=(MASK, 1 * MASK)), "pairs.negatives has dtype in"),
    "semi-hard key": (lambda: semi_hard_pairs(0, ROWS, LABELS), "key has dtype int32 and shape"),
    "weighted keys": (
        lambda: distance_weighted_pairs(jax.random.split(KEY), ROWS, LABELS),
        r"key has .* shape \(2,\), expected one key",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_values(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("case", WRONG_TYPES)
def test_types(case):
    call, message = WRONG_TYPES[case]
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize("name", LABELLED)
def test_labelled_rows(name):
    call = LABELLED[name]
    with pytest.raises(ValueError, match=r"embeddings has shape \(3,\), expected \[N, D\]"):
        call(ROWS[0], LABELS)
    with pytest.raises(TypeError, match="embeddings has dtype int32, expected floating point"):
        call(ROWS.astype(int), LABELS)
    with pytest.raises(ValueError, match=r"labels has shape \(2,\), expected \[N\] with N = 4"):
        call(ROWS, LABELS[:2])
    with pytest.raises(TypeError, match="labels has dtype float32, expected integers"):
        call(ROWS, ROWS[:, 0])
    with pytest.raises(ValueError, match=r"where has shape \(2,\), expected \[N\] with N = 4"):
        call(ROWS, LABELS, where=MASK[0, :2])
    with pytest.raises(ValueError, match="axis_name is 'x', but no axis of that name is mapped"):
        call(ROWS, LABELS, axis_name="x")


def test_older_keys_are_taken():
    assert hard_pairs(ROWS, LABELS).positives.shape == (4, 4)
    masks = semi_hard_pairs(jax.random.PRNGKey(0), ROWS, LABELS)
    assert jnp.all(masks.positives.sum(1) == 1)
