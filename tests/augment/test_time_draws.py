"""What is drawn of times, against the distribution that is said: counted over many keys."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxcl import augment

COUNT = 20_000
KEYS = jax.random.split(jax.random.key(0), COUNT)


def draws(draw):
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(draw))(KEYS))


def check_even(found, wanted):
    """Every one of `wanted`, and as often as the others."""
    counts = [0] * len(wanted)
    place = {one: number for number, one in enumerate(wanted)}
    for one in found:
        counts[place[one]] += 1
    assert len(counts) == 1 or stats.chisquare(counts).pvalue > 1e-3


def test_windows_begin_anywhere():
    check_even(draws(lambda key: augment.window_start(key, 9, 4)).tolist(), range(6))
    assert not draws(lambda key: augment.window_start(key, 9, 9)).any()


def test_near_and_far_are_even_over_all_that_are():
    length, near, far = 7, 1, 3
    times, nears, fars = draws(
        lambda key: augment.near_and_far(key, length, near=near, far=far, count=2)
    )
    # The one in the middle has none more than 3 away.
    able = [t for t in range(length) if max(t, length - 1 - t) > far]
    assert 3 not in able
    check_even(times.tolist(), able)
    for time in able:
        own = times == time
        close = [t for t in range(length) if 0 < abs(t - time) <= near]
        away = [t for t in range(length) if abs(t - time) > far]
        check_even(nears[own].tolist(), close)
        check_even(list(map(tuple, fars[own])), [*itertools.product(away, away)])


def test_far_times_of_two_cameras():
    times, fars = draws(lambda key: augment.far_times(key, 5, far=1))
    assert fars.shape == (COUNT, 1)
    check_even(times.tolist(), range(5))
    for time in range(5):
        away = [t for t in range(5) if abs(t - time) > 1]
        check_even(fars[times == time, 0].tolist(), away)


def test_times_in_order_are_every_choice():
    found = draws(lambda key: augment.in_order(key, 6, 3))
    check_even(list(map(tuple, found)), [*itertools.combinations(range(6), 3)])


def test_spans_are_hidden_as_the_paper_says():
    length, share, span = 12, 0.25, 2
    found = draws(lambda key: augment.span_mask(key, length, share=share, span=span))
    # Every choice of three starts is as likely: what it hides, worked out.
    likely = {}
    choices = [*itertools.combinations(range(length), 3)]
    for starts in choices:
        hidden = frozenset(t for s in starts for t in range(s, min(s + span, length)))
        likely[hidden] = likely.get(hidden, 0) + 1 / len(choices)
    counts = dict.fromkeys(likely, 0)
    for row in found:
        counts[frozenset(np.flatnonzero(row).tolist())] += 1
    expected = [COUNT * p for p in likely.values()]
    assert stats.chisquare([*counts.values()], expected).pvalue > 1e-3


def test_the_papers_mask_hides_about_half():
    """Section 3.1: p = 0.065 and M = 10 hide 49 % of all time steps."""
    masks = jax.vmap(lambda key: augment.span_mask(key, 750, share=0.065, span=10))(KEYS[:200])
    assert abs(masks.mean() - 0.49) < 0.01


def test_others_are_hidden_ones_but_not_ones_own():
    hidden = jnp.array([False, True, True, False, False, True, True])
    found = draws(lambda key: augment.masked_others(key, hidden, 2))
    assert found.shape == (COUNT, 7, 2)
    for time in (1, 2, 5, 6):
        others = [t for t in (1, 2, 5, 6) if t != time]
        check_even(list(map(tuple, found[:, time])), [*itertools.product(others, others)])
    alone = augment.masked_others(KEYS[0], jnp.arange(4) == 2, 3)
    assert ((alone >= 0) & (alone < 4)).all()


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda key: augment.window_start(key, 3, 4), "does not fit into 3"),
        (lambda key: augment.near_and_far(key, 9, near=3, far=2), "1 <= near <= far"),
        (lambda key: augment.near_and_far(key, 5, near=1, far=4), "longer windows"),
        (lambda key: augment.far_times(key, 3, far=2), "longer windows"),
        (lambda key: augment.in_order(key, 2, 3), "3 different times"),
        (lambda key: augment.span_mask(key, 9, share=0.0, span=2), "share 0.0"),
    ],
)
def test_what_cannot_be_drawn_is_said(draw, words):
    with pytest.raises(ValueError, match=words):
        draw(KEYS[0])


def test_frames_are_cropped_alike_or_each_by_itself():
    video = np.arange(3 * 8 * 8 * 2, dtype=np.float32).reshape(3, 8, 8, 2) / 400
    alike = augment.EachFrame(augment.RandomCrop(5))(KEYS[0], video)
    assert alike.shape == (3, 5, 5, 2)
    np.testing.assert_allclose(np.diff(alike, axis=0), 128 / 400, rtol=1e-5)
    each = augment.EachFrame(augment.RandomCrop(5), alike=False)(KEYS[0], video)
    assert np.abs(np.diff(each, axis=0) - 128 / 400).max() > 0.01
    assert "frames alike: RandomCrop" in str(augment.EachFrame(augment.RandomCrop(5)))
    with pytest.raises(ValueError, match=r"a video \[T, H, W, C\]"):
        augment.EachFrame(augment.RandomCrop(5))(KEYS[0], video[0])


def test_crops_are_from_anywhere_and_hold_what_is_there():
    image = np.arange(6 * 7, dtype=np.float32).reshape(6, 7, 1)
    found = draws(lambda key: augment.RandomCrop((4, 5))(key, image))
    corners = [int(image[top, left, 0]) for top in range(3) for left in range(3)]
    check_even(found[:, 0, 0, 0].astype(int).tolist(), corners)
    offsets = image[:4, :5, 0] - image[0, 0, 0]
    np.testing.assert_array_equal(found[:50, ..., 0] - found[:50, :1, :1, 0], [offsets] * 50)
    padded = augment.RandomCrop(6, padding=2)(KEYS[0], image)
    assert padded.shape == (6, 6, 1)
    with pytest.raises(ValueError, match="is smaller"):
        augment.RandomCrop(7)(KEYS[0], image)
