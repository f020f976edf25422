"""Image encoders from the checkpoints of others."""

import dataclasses
import functools
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcl.encoders import ConvNeXt, EfficientNetLite, ResNet, ViT
from jaxcl.encoders.resnet import RESNET_BLOCKS
from jaxcl.pretrained.files import read_json, read_weights
from jaxcl.pretrained.hub import local_path
from jaxcl.pretrained.layouts import Arrays, Backbone, find_backbone
from jaxcl.pretrained.names import LEAVES, from_torch
from jaxcl.training.experiment import Start

ImageEncoder = ResNet | ViT | ConvNeXt | EfficientNetLite

_DEPTHS = {(blocks, depth >= 50): depth for depth, blocks in RESNET_BLOCKS.items()}
"""ResNets by blocks of each stage, and whether these have bottlenecks."""
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}
"""Of a config.json, and ours."""
_MOCO_V3_SMALL = (384, 12)  # width and heads; the same width has 6 elsewhere


@dataclasses.dataclass(frozen=True)
class PretrainedImages:
    """An image encoder, and what it has learned."""

    encoder: ImageEncoder
    variables: dict[str, Any]
    """Parameters, and batch statistics where it has any, as `encoder.init` gives them."""
    layout: str
    """Whose names the weights had."""

    def __call__(self, images: np.ndarray, *, batch_size: int = 64) -> np.ndarray:
        """Features [N, D] of images, float32.

        Args:
          images: [N, H, W, C] floats, scaled as the encoder was trained to see them.
          batch_size: images encoded at once.
        """
        images = np.asarray(images, np.float32)
        found = []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            padded = np.pad(batch, [(0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0)])
            found.append(np.asarray(_encode(self.encoder, self.variables, padded))[: len(batch)])
        return np.concatenate(found)


@functools.partial(jax.jit, static_argnums=0)
def _encode(encoder: nn.Module, variables: Any, images: jax.Array) -> Any:
    return encoder.apply(variables, images)


def load_images(
    path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    part: str | None = None,
    **fields: Any,
) -> PretrainedImages:
    """Reads an image encoder, of whatever checkpoint holds it: ResNet, ViT, ConvNeXt or
    EfficientNet-Lite.

    Known are the names of torchvision and timm; of MoCo v1 to v3, SimSiam, BYOL, Barlow Twins,
    VICReg, SwAV, DINO, lightly and solo-learn, which put something before them; of ViT, DINOv2,
    CLIP and SigLIP in transformers; of open_clip; and of big_vision. Heads, queues and networks
    that follow others are left out.

    Args:
      path: a file or folder, as `read_weights` takes it, or a repository of the hub, "owner/name",
        as `local_path` does.
      revision: of the repository.
      part: what stands before the encoder's names, or a part of it ("student"), where a checkpoint
        holds several; None: DINO's teacher, else the one that follows no other.
      **fields: of the encoder, such as dtype or remat; also what shapes do not tell: heads (64
        channels each unless a config.json says, or the names are MoCo v3's), activation, epsilon.

    Returns:
      The encoder and its variables.

    Raises:
      FileNotFoundError: if there is no such file or repository.
      ConnectionError: if the hub cannot be reached.
      ValueError: for damaged files, no encoder or several, or arrays that are missing, left over or
        misshapen, all named.
      ImportError: where safetensors or torch is not installed.

    Example: `features = load_images("moco_v2_800ep_pretrain.pth.tar")(images)`
    """
    path = local_path(path, revision)
    return images_among(read_weights(path), path, part=part, **fields)


def images_among(
    arrays: Arrays, path: Path, *, part: str | None = None, **fields: Any
) -> PretrainedImages:
    """As `load_images`, of arrays that have been read from a path."""
    backbone = find_backbone(arrays, part)
    encoder = image_encoder(backbone, _read_config(path), **fields)
    side = _side(encoder)
    images = jax.ShapeDtypeStruct((1, side, side, encoder.in_channels), jnp.float32)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), images)
    return PretrainedImages(encoder, _variables(backbone, shapes, str(path)), backbone.layout)


@dataclasses.dataclass(frozen=True)
class ImageWeights(Start):
    """Starts an image encoder from a checkpoint as `load_images` takes it.

    Its batch statistics start from there, too. The encoder may have another dtype, remat, drop path
    or batch-norm groups than there, not another size.
    """

    path: str
    """File, folder, or repository of the hub."""
    part: str | None = None
    """As `load_images` has it."""
    revision: str | None = None
    """As `load_images` has it."""

    def load(self, network: nn.Module, shapes: Any) -> Any:
        if not isinstance(network, ImageEncoder):
            raise ValueError(
                f"expected a ResNet, ViT, ConvNeXt or EfficientNetLite to start from {self.path}, "
                f"got {type(network).__name__}"
            )
        path = local_path(self.path, self.revision)
        backbone = find_backbone(read_weights(path), self.part)
        there = image_encoder(backbone, _read_config(path))
        _check_alike(network, there, self.path)
        return _variables(backbone, shapes, self.path)


def image_encoder(backbone: Backbone, config: Any = None, **fields: Any) -> ImageEncoder:
    """The module that an encoder's arrays are of.

    Args:
      backbone: the arrays.
      config: what a config.json beside them says; None: there is none.
      **fields: of the encoder; they go before what is found.

    Raises:
      ValueError: for a build that none of our encoders has.
    """
    make, kind = _MAKE[backbone.family]
    try:
        found = make(backbone, config or {})
        return kind(**{**found, **fields})
    except KeyError as error:
        raise ValueError(
            f"an encoder by the names of {backbone.layout} lacks {error.args[0]!r}"
        ) from error


def timm_name(path: str) -> str:
    """From a path of ours to timm's name, which torchvision's is too for a ResNet.

    Example:
      >>> timm_name("params/layer1_0/downsample_conv/kernel")
      'layer1.0.downsample.0.weight'
      >>> timm_name("params/blocks_3/ls1_gamma")
      'blocks.3.ls1.gamma'
    """
    _, *modules, leaf = path.split("/")
    names = [re.sub(r"_(?=\d)|(?<=\d)_", ".", module) for module in modules]
    joined = ".".join([*names, LEAVES.get(leaf, leaf)])
    for ours, theirs in (
        ("downsample_conv", "downsample.0"),
        ("downsample_bn", "downsample.1"),
        ("mlp_fc", "mlp.fc"),
        ("head_norm", "head.norm"),
        ("_gamma", ".gamma"),
    ):
        joined = joined.replace(ours, theirs)
    return joined


def _resnet(backbone: Backbone, config: Any) -> dict[str, Any]:
    arrays = backbone.arrays
    blocks = tuple(_count(arrays, rf"layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
    has_bottlenecks = "layer1.0.conv3.weight" in arrays
    if (blocks, has_bottlenecks) not in _DEPTHS:
        raise ValueError(
            f"a ResNet of {', '.join(map(str, blocks))} blocks with"
            f"{'' if has_bottlenecks else 'out'} bottlenecks is none of depth "
            f"{', '.join(map(str, sorted(_DEPTHS.values())))}"
        )
    first = arrays["conv1.weight"]
    width = first.shape[0]
    if first.shape[2] not in (3, 7):
        raise ValueError(f"a ResNet that begins with {first.shape[2]}x{first.shape[2]} is unknown")
    return {
        "depth": _DEPTHS[blocks, has_bottlenecks],
        "stem": "imagenet" if first.shape[2] == 7 else "cifar",
        "width": width,
        "bottleneck_factor": arrays["layer1.0.conv2.weight"].shape[0] // width,
        "in_channels": first.shape[1],
    }


def _vit(backbone: Backbone, config: Any) -> dict[str, Any]:
    arrays = backbone.arrays
    kernel = arrays["patch_embed.proj.weight"]
    width, channels, patch = kernel.shape[:3]
    has_class, has_query = "cls_token" in arrays, "attn_pool.latent" in arrays
    positions = arrays["pos_embed"].shape[-2] - has_class
    side = math.isqrt(positions)
    if side * side != positions:
        raise ValueError(f"a ViT of {positions} positions is not for square images")
    hidden = arrays["blocks.0.mlp.fc1.weight"].shape[0]
    if hidden != 4 * width:
        raise ValueError(f"a ViT with {hidden} hidden channels: expected 4 times its {width}")
    of_clip = "norm_pre.weight" in arrays
    known = backbone.layout in ("Hugging Face CLIP", "big_vision")
    quick = backbone.layout == "Hugging Face CLIP" or config.get("quick_gelu")
    activation = "quick_gelu" if of_clip and quick else "gelu_tanh" if known else "gelu"
    if "hidden_act" in config:
        if config["hidden_act"] not in _ACTIVATIONS:
            raise ValueError(f"a ViT with the activation {config['hidden_act']!r} is unknown")
        activation = _ACTIVATIONS[config["hidden_act"]]
    v3_width, v3_heads = _MOCO_V3_SMALL
    is_v3 = "base_encoder" in backbone.prefix and width == v3_width
    heads = backbone.heads or config.get("num_attention_heads")
    return {
        "width": width,
        "depth": _count(arrays, r"blocks\.(\d+)\."),
        "heads": heads or (v3_heads if is_v3 else max(width // 64, 1)),
        "patch": patch,
        "image_size": side * patch,
        "in_channels": channels,
        "pool": "class" if has_class else "attention" if has_query else "mean",
        "registers": arrays["reg_token"].shape[-2] if "reg_token" in arrays else 0,
        "norm_before": of_clip,
        "layer_scale": 1e-5 if "blocks.0.ls1.gamma" in arrays else None,
        "activation": activation,
        "epsilon": config.get("layer_norm_eps", 1e-5 if of_clip else 1e-6),
    }


def _convnext(backbone: Backbone, config: Any) -> dict[str, Any]:
    arrays = backbone.arrays
    kernel = arrays["stem.0.weight"]
    stages = _count(arrays, r"stages\.(\d+)\.")
    return {
        "width": kernel.shape[0],
        "in_channels": kernel.shape[1],
        "patch": kernel.shape[2],
        "depths": tuple(
            _count(arrays, rf"stages\.{stage}\.blocks\.(\d+)\.") for stage in range(stages)
        ),
    }


def _efficientnet(backbone: Backbone, config: Any) -> dict[str, Any]:
    arrays = backbone.arrays
    counts = tuple(
        _count(arrays, rf"blocks\.{stage}\.(\d+)\.")
        for stage in range(_count(arrays, r"blocks\.(\d+)\."))
    )
    channels = arrays["blocks.1.0.conv_pwl.weight"].shape[0]
    known = {
        (tuple(map(len, net.blocks)), net.blocks[1][0][-1]): size
        for size in (0, 1, 2, 3, 4)
        for net in [EfficientNetLite(size)]
    }
    if (counts, channels) not in known:
        raise ValueError(
            f"an EfficientNet of {', '.join(map(str, counts))} blocks, {channels} channels in the "
            "second stage, is no EfficientNet-Lite"
        )
    # Weights do not tell it: timm's own were learned in PyTorch, others ported from TensorFlow.
    ported = backbone.layout != "timm" or str(config.get("architecture", "tf_")).startswith("tf_")
    return {
        "size": known[counts, channels],
        "width": arrays["conv_head.weight"].shape[0],
        "in_channels": arrays["conv_stem.weight"].shape[1],
        "padding": "same" if ported else "symmetric",
        "epsilon": 1e-3 if ported else 1e-5,
    }


_MAKE: dict[str, tuple[Callable[[Backbone, Any], dict[str, Any]], Any]] = {
    "resnet": (_resnet, ResNet),
    "vit": (_vit, ViT),
    "convnext": (_convnext, ConvNeXt),
    "efficientnet": (_efficientnet, EfficientNetLite),
}
"""What finds the fields of an encoder, and its class, by family."""


def _count(arrays: Arrays, pattern: str) -> int:
    """How many numbers, from 0 on, names of a pattern have."""
    found = {int(match[1]) for name in arrays if (match := re.match(pattern, name))}
    return max(found, default=-1) + 1


def _side(encoder: ImageEncoder) -> int:
    """Pixels of an image that it surely takes."""
    return encoder.image_size if isinstance(encoder, ViT) else 64


def _variables(backbone: Backbone, shapes: Any, what: str) -> Any:
    """The arrays as an encoder's variables."""
    arrays = dict(backbone.arrays)
    for name in ("cls_token", "pos_embed", "reg_token", "attn_pool.latent"):
        if name in arrays:  # [1, ..., D] there
            kept = 2 if name in ("pos_embed", "reg_token") else 1
            arrays[name] = arrays[name].reshape(arrays[name].shape[-kept:])
    return from_torch(
        arrays, shapes, timm_name, ignored=backbone.is_surplus, what=f"the weights in {what}"
    )


def _read_config(path: Path) -> dict[str, Any]:
    """What a config.json beside the weights says of the image encoder."""
    folder = path if path.is_dir() else path.parent
    if (folder / "open_clip_config.json").is_file():
        model = read_json(folder / "open_clip_config.json").get("model_cfg", {})
        return {"quick_gelu": model.get("quick_gelu", False)}
    if not path.is_dir() or not (folder / "config.json").is_file():
        return {}
    config = read_json(folder / "config.json")
    vision: dict[str, Any] = config.get("vision_config", config)
    defaults = {"clip": ("quick_gelu", 1e-5), "siglip": ("gelu_pytorch_tanh", 1e-6)}
    kind = str(config.get("model_type", "")).split("_")[0]
    if kind in defaults:  # which transformers leaves out of a config where nothing else is meant
        activation, epsilon = defaults[kind]
        vision = {"hidden_act": activation, "layer_norm_eps": epsilon, **vision}
        vision.setdefault("num_attention_heads", 12)
    return vision


def _check_alike(ours: ImageEncoder, theirs: ImageEncoder, path: str) -> None:
    """Raises where the weights would fit, or not, and mean something else."""
    if type(ours) is not type(theirs):
        raise ValueError(
            f"{path} holds a {type(theirs).__name__}, and the network is a {type(ours).__name__}"
        )
    same = {
        ResNet: ("depth", "stem", "width", "bottleneck_factor"),
        ViT: (
            "dimensions",
            "registers",
            "norm_before",
            "activation",
            "epsilon",
            "pool",
            "image_size",
        ),
        ConvNeXt: ("dimensions", "patch"),
        EfficientNetLite: ("size", "width", "padding", "epsilon"),
    }
    for name in same[type(ours)]:
        wanted, given = getattr(theirs, name), getattr(ours, name)
        if wanted != given:
            raise ValueError(
                f"the {type(ours).__name__} in {path} has {name} {wanted!r}, and the network "
                f"{given!r}"
            )
