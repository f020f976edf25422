"""Losses over times and speakers against their equations, written as loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import losses

RANDOM = np.random.default_rng(0)
N, T, D = 5, 7, 3
ROWS = RANDOM.normal(size=(3, N, D))
SERIES = RANDOM.normal(size=(2, N, T, D))
EMBEDDINGS = RANDOM.normal(size=(9, D))
SPEAKERS = np.array([7, -2, 7, 7, 3, -2, 11, 7, 3])  # the only row of speaker 11 has no positive


def unit(x):
    return x / np.linalg.norm(x)


@pytest.mark.parametrize("contrast", ["softmax", "contrast"])
def test_ge2e_is_equations_6_and_7(contrast):
    scale, bias = 4.0, -1.5
    wanted = []
    for row, speaker in zip(EMBEDDINGS, SPEAKERS, strict=True):
        scores = {}
        for other in set(SPEAKERS.tolist()):
            members = [
                unit(e)
                for e, s in zip(EMBEDDINGS, SPEAKERS, strict=True)
                if s == other and e is not row and not np.array_equal(e, row)
            ]
            if members:
                scores[other] = scale * unit(row) @ unit(np.mean(members, axis=0)) + bias
        if speaker not in scores:
            wanted.append(0)
            continue
        own = scores.pop(speaker)
        if contrast == "softmax":
            wanted.append(-own + np.log(np.exp(own) + sum(np.exp([*scores.values()]))))
        else:
            sigmoid = 1 / (1 + np.exp(-np.array([own, *scores.values()])))
            wanted.append(1 - sigmoid[0] + max(sigmoid[1:]))
    found = jax.jit(losses.ge2e, static_argnames="contrast")(
        EMBEDDINGS.astype(np.float32), SPEAKERS, scale=scale, bias=bias, contrast=contrast
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert found[6] == 0


@pytest.mark.slow
def test_ge2e_of_one_speaker_is_nothing_to_tell():
    rows = EMBEDDINGS.astype(np.float32)
    same = np.zeros(len(rows), int)
    np.testing.assert_allclose(losses.ge2e(rows, same), 0, atol=1e-6)
    found = losses.ge2e(rows, same, contrast="contrast", scale=1.0, bias=0.0)
    assert ((found > 0) & (found < 1)).all()


def test_bilinear_nce_is_equation_4():
    anchors, positives, _ = ROWS
    weights = RANDOM.normal(size=(D, D))
    logits = anchors @ weights @ positives.T
    wanted = [np.log(np.exp(row - row[i]).sum()) for i, row in enumerate(logits)]
    arrays = [x.astype(np.float32) for x in (anchors, positives, weights)]
    np.testing.assert_allclose(losses.bilinear_nce(*arrays), wanted, rtol=1e-5)


def test_a_bilinear_form_may_map_to_another_width():
    anchors, positives, _ = (jnp.asarray(x, jnp.float32) for x in ROWS)
    weights = jnp.ones((D, 2))
    assert losses.bilinear_nce(anchors, positives[:, :2], weights).shape == (N,)
    with pytest.raises(ValueError, match="expected \\[D, E\\] with D = 3"):
        losses.bilinear_nce(anchors, positives, weights.T)


def test_time_nce_is_equation_1_with_all_other_recordings():
    earlier, later, last = ROWS
    wanted = []
    for i in range(N):
        near = np.exp(-np.linalg.norm(earlier[i] - later[i]) / 0.5)
        far = np.exp(-np.linalg.norm(earlier[i] - last[i]) / 0.5)
        others = sum(
            np.exp(-np.linalg.norm(earlier[i] - earlier[j]) / 0.5) for j in range(N) if j != i
        )
        wanted.append(-np.log(near / (near + far + others)))
    found = losses.time_nce(*(x.astype(np.float32) for x in ROWS), temperature=0.5)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def slow_hierarchical(z0, z1, alpha):
    """Equations 1 and 2 at every scale, a sum over each pair."""
    of_scales = []
    while True:
        times = z0.shape[1]
        both = [z0, z1]
        found = np.zeros(N)
        for i in range(N):
            for t in range(times):
                for own, other in (both, both[::-1]):
                    anchor, positive = own[i, t], np.exp(own[i, t] @ other[i, t])
                    series = sum(
                        np.exp(anchor @ view[j, t]) for view in both for j in range(N) if j != i
                    )
                    within = sum(
                        np.exp(anchor @ view[i, s]) for view in both for s in range(times) if s != t
                    )
                    found[i] -= alpha * np.log(positive / (positive + series)) / (2 * times)
                    found[i] -= (1 - alpha) * np.log(positive / (positive + within)) / (2 * times)
        of_scales.append(found)
        if times == 1:
            return np.mean(of_scales, axis=0)
        z0, z1 = (
            np.stack([z[:, t : t + 2].max(1) for t in range(0, times - 1, 2)], axis=1) for z in both
        )


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_hierarchical_is_equations_1_and_2_at_every_scale(alpha):
    found = jax.jit(losses.hierarchical)(*SERIES.astype(np.float32), alpha=alpha)
    np.testing.assert_allclose(found, slow_hierarchical(*SERIES, alpha), rtol=1e-5)
