"""Transforms of tokens: what they change, how often, and what stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl import augment

KEY = jax.random.key(0)
TOKENS = jnp.array([2, *range(10, 30), 3, -1, -1])
DRAWS = 4000


def draws(transform, tokens=TOKENS):
    keys = jax.random.split(KEY, DRAWS)
    return np.asarray(jax.jit(jax.vmap(lambda key: transform(key, tokens)))(keys))


def test_masking_takes_each_token_alike_and_no_mark():
    found = draws(augment.MaskTokens(0.15, mask=4))
    masked = found == 4
    np.testing.assert_array_equal(np.where(masked, 0, found), np.where(masked, 0, TOKENS))
    share = masked.mean(0)
    np.testing.assert_array_equal(share[[0, 21, 22, 23]], 0)
    np.testing.assert_allclose(share[1:21], 0.15, atol=4.5 * np.sqrt(0.15 * 0.85 / DRAWS))


def test_deleting_takes_each_token_alike_and_moves_up():
    found = draws(augment.DeleteTokens(0.3))
    gone = np.array([[token not in row for token in range(10, 30)] for row in found])
    np.testing.assert_allclose(gone.mean(0), 0.3, atol=4.5 * np.sqrt(0.21 / DRAWS))
    for row, without in zip(found[:50], gone[:50], strict=True):
        left = [2, *np.arange(10, 30)[~without], 3]
        np.testing.assert_array_equal(row, [*left, *[-1] * (24 - len(left))])


@pytest.mark.slow
def test_neither_draws_by_how_far_a_text_is_padded():
    longer = jnp.pad(TOKENS, (0, 8), constant_values=-1)
    for transform in (augment.MaskTokens(0.4), augment.DeleteTokens(0.4)):
        np.testing.assert_array_equal(transform(KEY, longer)[:24], transform(KEY, TOKENS))


def test_one_of_several_texts_is_one_that_is_there():
    texts = jnp.array([[5, 6], [-1, -1], [7, -1], [8, 9]])
    found = draws(augment.OneOf(), texts)
    shares = [(found == row).all(1).mean() for row in np.asarray(texts)]
    assert shares[1] == 0
    np.testing.assert_allclose(np.delete(shares, 1), 1 / 3, atol=4.5 * np.sqrt(2 / 9 / DRAWS))
    np.testing.assert_array_equal(augment.OneOf()(KEY, jnp.full((3, 2), -1)), [-1, -1])


@pytest.mark.slow
def test_views_of_fields():
    views = augment.Views(
        (augment.RandomResizedCrop(4), augment.Unchanged()), fields=("image", "text")
    )
    examples = {
        "image": jnp.full((3, 6, 6, 1), 255, jnp.uint8),
        "text": jnp.arange(12).reshape(3, 4),
        "label": jnp.zeros(3),
    }
    image, text = augment.batch_views(views, KEY, examples, jnp.arange(3))
    np.testing.assert_allclose(image, np.ones((3, 4, 4, 1)), atol=1e-6)
    np.testing.assert_array_equal(text, examples["text"])
    with pytest.raises(ValueError, match="a view is of the field 'text'; examples have image"):
        augment.batch_views(views, KEY, {"image": examples["image"]}, jnp.arange(3))
    with pytest.raises(TypeError, match="views of image, text take examples by field"):
        views(KEY, examples["image"][0])
    assert views.of_field("text") == augment.Views((augment.Unchanged(),), fields="text")
    with pytest.raises(ValueError, match="views are of image, text, none of 'sound'"):
        views.of_field("sound")
    with pytest.raises(ValueError, match="2 views of 1 fields"):
        augment.Views((augment.Unchanged(),) * 2, fields=("text",))


def test_the_recipe_deletes_then_masks():
    assert augment.texts(3).views == (augment.Unchanged(),) * 3
    [view] = augment.texts(1, delete=0.1, mask=0.2).views
    assert view.transforms == (augment.DeleteTokens(0.1), augment.MaskTokens(0.2))
    found = draws(view)
    assert 0.05 < (found == 4).mean() < 0.3
    assert (found == -1).sum(1).mean() > 2.5
