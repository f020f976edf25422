"""Written encoders: the names, shapes and numbers of the file that they came from."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from weights import IMAGES, arrays_of, write

from jaxcl import encoders
from jaxcl.pretrained import load_images, save_images

# Whose own file a case is, what it holds beside the backbone.
SAME = [
    ("timm resnet18", "torchvision", ("fc.",)),
    ("timm resnet50", "timm", ("fc.",)),
    ("timm ViT", "timm", ("head.",)),
    ("timm ViT of layer scales", "timm", ("head.",)),
    ("timm ViT of mean", "timm", ("head.",)),
    ("timm ViT of registers", "timm", ("head.",)),
    ("timm ViT of attention", "timm", ("head.",)),
    ("timm ConvNeXt", "timm", ("head.fc.",)),
    ("timm EfficientNet-Lite", "timm", ("classifier.",)),
    ("Hugging Face ViT", "huggingface", ("pooler.",)),
    ("DINOv2", "huggingface", ("embeddings.mask_token",)),
    ("DINOv2 with registers", "huggingface", ("embeddings.mask_token",)),
]


@pytest.mark.parametrize(
    ("case", "to", "others"),
    [
        pytest.param(
            *one,
            marks=[pytest.mark.slow] if "resnet" in one[0] or "Efficient" in one[0] else [],
            id=one[0],
        )
        for one in SAME
    ],
)
def test_what_is_written_is_what_was_read(tmp_path, case, to, others):
    model = load_images(write(tmp_path / "theirs", case))
    save_images(tmp_path / "ours", model.encoder, model.variables, to=to)
    written = safetensors.numpy.load_file(tmp_path / "ours" / "model.safetensors")
    wanted = {name: one for name, one in arrays_of(case).items() if not name.startswith(others)}
    written = {name: one for name, one in written.items() if not name.startswith(others)}
    assert set(written) == set(wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(written[name], array, err_msg=name)


def test_the_towers_image_part_is_clips(tmp_path):
    model = load_images(write(tmp_path / "theirs", "CLIP"))
    save_images(tmp_path / "ours", model.encoder, model.variables, to="huggingface")
    written = safetensors.numpy.load_file(tmp_path / "ours" / "model.safetensors")
    wanted = arrays_of("CLIP")
    assert set(written) == {name for name in wanted if name.startswith("vision_model.")}
    assert all((array == wanted[name]).all() for name, array in written.items())
    again = load_images(tmp_path / "ours")
    np.testing.assert_array_equal(again(IMAGES), model(IMAGES))


def small(encoder):
    images = np.zeros((1, 32, 32, 3), np.float32)
    return encoder, jax.jit(encoder.init)(jax.random.key(0), images)


@pytest.mark.parametrize(
    ("encoder", "to", "words"),
    [
        (encoders.ResNet(18, stem="cifar"), "torchvision", "no ResNet with stem 'cifar', only"),
        (encoders.ResNet(18, width=8), "timm", "no ResNet with width 8, only with 64"),
        (encoders.ViT("tiny", image_size=32), "torchvision", "is written for ResNets only"),
        (encoders.ViT("tiny", positions="sincos"), "timm", "learned positions"),
        (encoders.ViT("tiny", pool="mean"), "huggingface", "pool 'mean', only with 'class'"),
        (encoders.SmallCNN((4,)), "timm", "no build for SmallCNN: ResNet, ViT, ConvNeXt"),
        (encoders.ResNet(18), "keras", "to is 'keras', expected one of torchvision, timm"),
    ],
)
def test_what_a_library_has_no_build_for_is_said(tmp_path, encoder, to, words):
    with pytest.raises(ValueError, match=words):
        save_images(tmp_path, encoder, {}, to=to)
    assert not list(tmp_path.iterdir())


def test_configs_tell_the_build(tmp_path):
    encoder, variables = small(encoders.ViT("tiny", depth=1, image_size=32))
    save_images(tmp_path, encoder, variables, to="huggingface")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "vit"
    assert (config["hidden_size"], config["num_attention_heads"]) == (192, 3)
    assert load_images(tmp_path).encoder.dimensions == (192, 1, 3)
