"""Image encoders written so that torchvision, timm and transformers load them."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxcl.encoders import ConvNeXt, EfficientNetLite, ResNet, ViT
from jaxcl.encoders.resnet import RESNET_BLOCKS
from jaxcl.pretrained.files import write_weights
from jaxcl.pretrained.images import ImageEncoder, timm_name
from jaxcl.pretrained.names import to_torch

Library = Literal["torchvision", "timm", "huggingface"]
LIBRARIES: tuple[Library, ...] = ("torchvision", "timm", "huggingface")

Arrays = dict[str, np.ndarray]


def save_images(
    folder: str | os.PathLike[str],
    encoder: ImageEncoder,
    variables: Mapping[str, Any],
    *,
    to: Library,
    image_size: int = 224,
) -> None:
    """Writes model.safetensors, and the config.json that the library reads.

    Args:
      folder: made if need be; these files in it are replaced.
      encoder: of a build that the library has.
      variables: its parameters and batch statistics.
      to: "torchvision" for `model.load_state_dict(load_file(...))` of a ResNet without its `fc`;
        "timm" for `timm.create_model("local-dir:FOLDER", pretrained=True)`; "huggingface" for
        `transformers.AutoModel.from_pretrained(FOLDER)`, or `CLIPVisionModel` of a ViT that has a
        norm before its blocks.
      image_size: side in pixels that the config names, where the encoder takes any.

    Raises:
      ValueError: for an encoder that the library has no build for.
      ImportError: where safetensors is not installed.
    """
    if to not in LIBRARIES:
        raise ValueError(f"to is {to!r}, expected one of {', '.join(LIBRARIES)}")
    kind = next((one for _, one in _MAKE if isinstance(encoder, one)), None)
    if kind is None:
        raise ValueError(
            f"{to} has no build for {type(encoder).__name__}: ResNet, ViT, ConvNeXt are written "
            "for other libraries; to='safetensors' takes any"
        )
    made = _MAKE[to, kind](encoder, image_size) if (to, kind) in _MAKE else None
    if made is None:
        raise ValueError(f"{to} is written for ResNets only: take timm or huggingface for a ViT")
    config, rename = made
    arrays = rename(to_torch(variables, timm_name))
    write_weights(Path(folder).expanduser(), arrays, config)


def _same(arrays: Arrays) -> Arrays:
    return arrays


Made = tuple[dict[str, Any], Callable[[Arrays], Arrays]]
"""The config.json, and what puts timm's names into the library's."""


def _needs(encoder: ImageEncoder, library: str, **fields: Any) -> None:
    for name, wanted in fields.items():
        given = getattr(encoder, name)
        if given != wanted:
            raise ValueError(
                f"{library} has no {type(encoder).__name__} with {name} {given!r}, only with "
                f"{wanted!r}"
            )


def _torchvision_resnet(encoder: ResNet, image_size: int) -> Made:
    name = _resnet_name(encoder, "torchvision")
    return {"architecture": name, "library": "torchvision", "image_size": image_size}, _same


def _resnet_name(encoder: ResNet, library: str) -> str:
    _needs(encoder, library, stem="imagenet", width=64)
    if encoder.bottleneck_factor == 1:
        return f"resnet{encoder.depth}"
    if encoder.bottleneck_factor == 2 and encoder.depth in (50, 101):
        return f"wide_resnet{encoder.depth}_2"
    raise ValueError(
        f"{library} has no ResNet-{encoder.depth} with bottlenecks {encoder.bottleneck_factor} "
        "times as wide"
    )


def _timm_resnet(encoder: ResNet, image_size: int) -> Made:
    options = {} if encoder.in_channels == 3 else {"in_chans": encoder.in_channels}
    return _of_timm(_resnet_name(encoder, "timm"), options, image_size), _same


def _timm_vit(encoder: ViT, image_size: int) -> Made:
    if encoder.positions != "learned":
        raise ValueError("timm's ViT has learned positions, and this one sines and cosines")
    width, depth, heads = encoder.dimensions
    pools = {"class": "token", "mean": "avg", "attention": "map"}
    options = {
        "img_size": encoder.image_size,
        "patch_size": encoder.patch,
        "in_chans": encoder.in_channels,
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "init_values": encoder.layer_scale,
        "pre_norm": encoder.norm_before,
        "global_pool": pools[encoder.pool],
        "class_token": encoder.pool == "class",
        "fc_norm": False,
        "act_layer": encoder.activation,
        **({"reg_tokens": encoder.registers, "no_embed_class": True} if encoder.registers else {}),
    }
    if encoder.epsilon != 1e-6:
        raise ValueError(
            f"timm's ViT has epsilon 1e-06 unless built by hand, and this one {encoder.epsilon:g}"
        )

    def rename(arrays: Arrays) -> Arrays:
        found = dict(arrays)
        if encoder.registers and encoder.pool == "class":  # whose position is part of it there
            found["cls_token"] = found["cls_token"] + found["pos_embed"][0]
            found["pos_embed"] = found["pos_embed"][1:]
        axes = {"cls_token": 2, "attn_pool.latent": 2, "pos_embed": 1, "reg_token": 1}
        return {
            name: array.reshape((1,) * axes.get(name, 0) + array.shape)
            for name, array in found.items()
        }

    return _of_timm("vit_base_patch16_224", options, encoder.image_size), rename


def _timm_convnext(encoder: ConvNeXt, image_size: int) -> Made:
    width, depths = encoder.dimensions
    options = {
        "in_chans": encoder.in_channels,
        "patch_size": encoder.patch,
        "depths": list(depths),
        "dims": [width * 2**stage for stage in range(len(depths))],
    }
    return _of_timm("convnext_tiny", options, image_size), _same


def _timm_efficientnet(encoder: EfficientNetLite, image_size: int) -> Made:
    ported = encoder.padding == "same"
    _needs(encoder, "timm", width=1280, epsilon=1e-3 if ported else 1e-5)
    name = f"{'tf_' if ported else ''}efficientnet_lite{encoder.size}"
    options = {} if encoder.in_channels == 3 else {"in_chans": encoder.in_channels}
    return _of_timm(name, options, image_size), _same


def _of_timm(architecture: str, options: dict[str, Any], image_size: int) -> dict[str, Any]:
    channels = options.get("in_chans", 3)
    return {
        "architecture": architecture,
        "num_classes": 0,
        "model_args": {name: value for name, value in options.items() if value is not None},
        "pretrained_cfg": {"input_size": [channels, image_size, image_size], "num_classes": 0},
    }


def _hf_resnet(encoder: ResNet, image_size: int) -> Made:
    _needs(encoder, "transformers", stem="imagenet", bottleneck_factor=1)
    bottleneck = encoder.depth >= 50
    expansion = 4 if bottleneck else 1
    config = {
        "model_type": "resnet",
        "architectures": ["ResNetModel"],
        "num_channels": encoder.in_channels,
        "embedding_size": encoder.width,
        "hidden_sizes": [encoder.width * 2**stage * expansion for stage in range(4)],
        "depths": list(RESNET_BLOCKS[encoder.depth]),
        "layer_type": "bottleneck" if bottleneck else "basic",
        "hidden_act": "relu",
    }

    def name_of(name: str) -> str:
        module, leaf = name.rsplit(".", 1)
        if module in ("conv1", "bn1"):
            kind = "convolution" if module == "conv1" else "normalization"
            return f"embedder.embedder.{kind}.{leaf}"
        stage, layer, *inner = module.removeprefix("layer").split(".")
        place = f"encoder.stages.{int(stage) - 1}.layers.{layer}"
        if inner[0] == "downsample":
            return f"{place}.shortcut.{('convolution', 'normalization')[int(inner[1])]}.{leaf}"
        kind = "convolution" if inner[0].startswith("conv") else "normalization"
        return f"{place}.layer.{int(inner[0][-1]) - 1}.{kind}.{leaf}"

    return config, lambda arrays: {name_of(name): array for name, array in arrays.items()}


_VIT_PARTS = {
    "vit": {
        "layer": "encoder.layer",
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "norm": "layernorm",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.qkv": ("attention.attention.query", "attention.attention.key",
                     "attention.attention.value"),
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    },
    "clip": {
        "layer": "vision_model.encoder.layers",
        "cls_token": "vision_model.embeddings.class_embedding",
        "pos_embed": "vision_model.embeddings.position_embedding.weight",
        "patch_embed.proj": "vision_model.embeddings.patch_embedding",
        "norm_pre": "vision_model.pre_layrnorm",
        "norm": "vision_model.post_layernorm",
        "norm1": "layer_norm1",
        "norm2": "layer_norm2",
        "attn.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "attn.proj": "self_attn.out_proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    },
}  # fmt: skip
_VIT_PARTS["dinov2"] = _VIT_PARTS["vit"] | {
    "reg_token": "embeddings.register_tokens",
    "norm1": "norm1",
    "norm2": "norm2",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
"""Their names by timm's, of each kind of model."""
_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu"}


def _hf_vit(encoder: ViT, image_size: int) -> Made:
    _needs(encoder, "transformers", pool="class", positions="learned")
    width, depth, heads = encoder.dimensions
    kind = "clip" if encoder.norm_before else "vit" if encoder.layer_scale is None else "dinov2"
    if kind == "clip":
        _needs(encoder, "transformers", layer_scale=None)
    if kind != "dinov2":
        _needs(encoder, "transformers", registers=0)
    of_kind = {"vit": ("vit", "ViTModel"), "dinov2": ("dinov2", "Dinov2Model")}
    model_type, architecture = of_kind.get(kind, ("clip_vision_model", "CLIPVisionModel"))
    if encoder.registers:
        model_type, architecture = "dinov2_with_registers", "Dinov2WithRegistersModel"
    config = {
        "model_type": model_type,
        "architectures": [architecture],
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "mlp_ratio": 4,
        "image_size": encoder.image_size,
        "patch_size": encoder.patch,
        "num_channels": encoder.in_channels,
        "hidden_act": _ACTIVATIONS[encoder.activation],
        "layer_norm_eps": encoder.epsilon,
        "qkv_bias": True,
        **({"num_register_tokens": encoder.registers} if encoder.registers else {}),
    }
    parts = _VIT_PARTS[kind]

    def rename(arrays: Arrays) -> Arrays:
        found: Arrays = {}
        for name, array in arrays.items():
            match = re.match(r"blocks\.(\d+)\.(.*)", name)
            inner = name if match is None else match[2]
            place = "" if match is None else f"{parts['layer']}.{match[1]}."
            module, _, leaf = inner.rpartition(".")
            if inner in parts:  # a table or a scale
                found[f"{place}{parts[inner]}"] = _lead(inner, array, kind)
            elif isinstance(parts[module], tuple):
                for part, one in zip(parts[module], np.split(array, 3), strict=True):
                    found[f"{place}{part}.{leaf}"] = one
            else:
                found[f"{place}{parts[module]}.{leaf}"] = array
        if kind == "dinov2":  # of masked training alone
            found["embeddings.mask_token"] = np.zeros((1, width), np.float32)
        return found

    return config, rename


def _lead(name: str, array: np.ndarray, kind: str) -> np.ndarray:
    """With the axes of size 1 that such a table has there."""
    if kind == "clip" or name.startswith("ls"):
        return array
    return array[None, None] if name == "cls_token" else array[None]


def _hf_convnext(encoder: ConvNeXt, image_size: int) -> Made:
    width, depths = encoder.dimensions
    config = {
        "model_type": "convnext",
        "architectures": ["ConvNextModel"],
        "num_channels": encoder.in_channels,
        "patch_size": encoder.patch,
        "num_stages": len(depths),
        "hidden_sizes": [width * 2**stage for stage in range(len(depths))],
        "depths": list(depths),
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "image_size": image_size,
    }
    rules = (
        (r"stem\.0\.", "embeddings.patch_embeddings."),
        (r"stem\.1\.", "embeddings.layernorm."),
        (r"stages\.(\d+)\.downsample\.(\d)\.", r"encoder.stages.\1.downsampling_layer.\2."),
        (r"stages\.(\d+)\.blocks\.(\d+)\.conv_dw\.", r"encoder.stages.\1.layers.\2.dwconv."),
        (r"stages\.(\d+)\.blocks\.(\d+)\.norm\.", r"encoder.stages.\1.layers.\2.layernorm."),
        (r"stages\.(\d+)\.blocks\.(\d+)\.mlp\.fc(\d)\.", r"encoder.stages.\1.layers.\2.pwconv\3."),
        (
            r"stages\.(\d+)\.blocks\.(\d+)\.gamma",
            r"encoder.stages.\1.layers.\2.layer_scale_parameter",
        ),
        (r"head\.norm\.", "layernorm."),
    )

    def name_of(name: str) -> str:
        for pattern, new in rules:
            if re.match(pattern, name):
                return re.sub(pattern, new, name)
        raise KeyError(name)

    return config, lambda arrays: {name_of(name): array for name, array in arrays.items()}


_MAKE: dict[tuple[str, type], Callable[[Any, int], Made]] = {
    ("torchvision", ResNet): _torchvision_resnet,
    ("timm", ResNet): _timm_resnet,
    ("timm", ViT): _timm_vit,
    ("timm", ConvNeXt): _timm_convnext,
    ("timm", EfficientNetLite): _timm_efficientnet,
    ("huggingface", ResNet): _hf_resnet,
    ("huggingface", ViT): _hf_vit,
    ("huggingface", ConvNeXt): _hf_convnext,
}
