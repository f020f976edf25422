"""CLIP's embeddings of images and texts, as transformers has them."""

import dataclasses

import jax
import numpy as np
import pytest
from weights import GOLDEN, IMAGES, write

from jaxcl.methods import Batch
from jaxcl.pretrained import load_clip


def padded():
    tokens = GOLDEN["CLIP/tokens"]
    return np.where(tokens == 0, -1, tokens).astype(np.int32)


def test_images_and_texts_are_those_of_transformers(tmp_path):
    model = load_clip(write(tmp_path, "CLIP"))
    np.testing.assert_allclose(model.images(IMAGES), GOLDEN["CLIP/images"], atol=1e-5)
    np.testing.assert_allclose(model.texts(padded()), GOLDEN["CLIP/texts"], atol=1e-5)


@pytest.mark.slow
def test_it_trains_on_from_there(tmp_path):
    model = load_clip(write(tmp_path, "CLIP"))
    batch = Batch((IMAGES[:2], padded()))
    loss, (_, metrics) = model.method.loss(
        model.params, model.state, batch, key=jax.random.key(0), progress=0.0
    )
    logits = float(GOLDEN["CLIP/scale"]) * GOLDEN["CLIP/images"][:2] @ GOLDEN["CLIP/texts"].T
    rows = [-np.log(np.exp(row) / np.exp(row).sum())[i] for i, row in enumerate(logits)]
    columns = [-np.log(np.exp(row) / np.exp(row).sum())[i] for i, row in enumerate(logits.T)]
    np.testing.assert_allclose(loss, np.mean(rows + columns), rtol=1e-4)
    assert dataclasses.is_dataclass(model.state)
    assert metrics


@pytest.mark.slow
def test_siglips_images_and_texts_are_those_of_transformers(tmp_path):
    model = load_clip(write(tmp_path, "SigLIP"))
    np.testing.assert_allclose(model.images(IMAGES), GOLDEN["SigLIP/images"], atol=1e-5)
    tokens = GOLDEN["SigLIP/tokens"]
    np.testing.assert_allclose(model.texts(tokens), GOLDEN["SigLIP/texts"], atol=1e-5)
    short = np.where(tokens == 1, -1, tokens)[:, :4].astype(np.int32)  # filled up as there
    np.testing.assert_allclose(model.texts(short), GOLDEN["SigLIP/texts"], atol=1e-5)


@pytest.mark.slow
def test_siglips_loss_is_that_of_its_logits(tmp_path):
    model = load_clip(write(tmp_path, "SigLIP"))
    batch = Batch((IMAGES[:2], GOLDEN["SigLIP/tokens"].astype(np.int32)))
    loss, _ = model.method.loss(
        model.params, model.state, batch, key=jax.random.key(0), progress=0.0
    )
    logits = GOLDEN["SigLIP/logits"][:2]
    signs = 2 * np.eye(2) - 1
    np.testing.assert_allclose(loss, np.log1p(np.exp(-signs * logits)).sum() / 2, rtol=1e-4)


def without(name):
    return lambda arrays: arrays.pop(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("logit_scale"), "lack logit_scale"),
        (without("text_model.final_layer_norm.bias"), r"missing: final_layer_norm\.bias \[32\]"),
        (without("vision_model.pre_layrnorm.bias"), r"missing: norm_pre\.bias \[32\]"),
        (
            lambda arrays: arrays.update({"visual_projection.weight": np.zeros((9, 32), "f4")}),
            "expected to map 32 and 32 to one width",
        ),
    ],
)
def test_what_does_not_fit_is_said(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        load_clip(write(tmp_path, "CLIP", change))


def test_another_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a model of type 'vit', expected 'clip' or 'siglip'"):
        load_clip(write(tmp_path, "Hugging Face ViT"))
