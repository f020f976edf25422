"""Names that others give the parts of image encoders, put into timm's, which are ours.

A checkpoint holds an encoder somewhere, beside heads, momentum copies and queues. `find_backbone`
finds it; each layout here is a function from its names to timm's.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

Family = Literal["resnet", "vit", "convnext", "efficientnet"]
Arrays = Mapping[str, np.ndarray]

_HEADS = {
    "resnet": r"(fc|head|classifier|projector|projection_head|predictor|prototypes)\.",
    "vit": r"(head|head_dist|classifier|pooler)\.",
    "convnext": r"head\.(fc|pre_logits)\.",
    "efficientnet": r"classifier\.",
}
"""What may stand beside a backbone that makes no features."""
_COPIES = re.compile(r"momentum|target|encoder_k|moving|(^|[._])ema([._]|$)")
"""Networks that follow another, by what their names hold."""


@dataclasses.dataclass(frozen=True)
class Backbone:
    """An image encoder found in a checkpoint, by timm's names."""

    family: Family
    arrays: dict[str, np.ndarray]
    layout: str
    """Whose names it had."""
    prefix: str
    """What stood before them all."""
    heads: int | None = None
    """Of attention, where the weights' shapes tell."""

    def is_surplus(self, name: str) -> bool:
        """Whether a name is of what makes no features."""
        counter = name.endswith(("num_batches_tracked", "relative_position_index"))
        return counter or re.match(_HEADS[self.family], name) is not None


@dataclasses.dataclass(frozen=True)
class _Layout:
    name: str
    family: Family
    mark: str
    """A name that tells it."""
    translate: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def find_backbone(arrays: Arrays, part: str | None = None) -> Backbone:
    """The image encoder in a checkpoint.

    Args:
      arrays: by the checkpoint's names.
      part: what stands before the encoder's names, or a part of it, where there are several;
        None: the teacher of DINO, else the one that is no copy of another.

    Raises:
      ValueError: if there is none that is known, or more than one.
    """
    found = [
        (layout, name.removesuffix(layout.mark))
        for layout in _LAYOUTS
        for name in arrays
        if name == layout.mark or name.endswith(f".{layout.mark}")
    ]
    if not found:
        known = ", ".join(dict.fromkeys(layout.name for layout in _LAYOUTS))
        some = ", ".join(sorted(arrays)[:4])
        raise ValueError(f"no image encoder is among {some}, ...: known are those of {known}")
    prefixes = _choose([prefix for _, prefix in found], part)
    layout, prefix = next(pair for pair in found if pair[1] == prefixes)
    own = {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
    heads = None
    for block in ("encoderblock_0", "encoderblock"):  # [D, H, D/H], stacked or not
        query = own.get(f"Transformer.{block}.MultiHeadDotProductAttention_0.query.kernel")
        heads = heads if query is None else query.shape[-2]
    return Backbone(layout.family, layout.translate(own), layout.name, prefix, heads)


def _choose(prefixes: Sequence[str], part: str | None) -> str:
    """The one prefix that is meant."""
    left = sorted(set(prefixes))
    if part is not None:
        left = [prefix for prefix in left if part in prefix]
        if not left:
            raise ValueError(
                f"no image encoder stands below {part!r}: there are "
                f"{', '.join(repr(prefix) for prefix in sorted(set(prefixes)))}"
            )
    for kept in (
        lambda prefix: not _COPIES.search(prefix),
        lambda prefix: "teacher" in prefix,
    ):
        left = [prefix for prefix in left if kept(prefix)] or left
    if len(left) > 1:
        raise ValueError(
            f"there are {len(left)} image encoders, {', '.join(repr(one) for one in left)}: name "
            "one by part"
        )
    return left[0]


def _same(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return arrays


def _numbered(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of a ResNet's parts put in a sequence, as lightly's users do."""
    parts = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
    found = {}
    for name, array in arrays.items():
        first, _, rest = name.partition(".")
        found[f"{parts.get(first, first)}.{rest}"] = array
    return found


def _rename(rules: Sequence[tuple[str, str]]) -> Callable[[str], str]:
    compiled = [(re.compile(f"^{pattern}"), new) for pattern, new in rules]

    def rename(name: str) -> str:
        for pattern, new in compiled:
            if pattern.match(name):
                return pattern.sub(new, name)
        return name

    return rename


def _joined(
    arrays: dict[str, np.ndarray], pattern: str, new: str, parts: Sequence[str]
) -> dict[str, np.ndarray]:
    """Arrays that are apart there and stacked here: {part} stands for each, # for a block."""
    escaped = re.escape(pattern.replace("{part}", parts[0])).replace(r"\#", r"(?P<block>\d+)")
    first = re.compile(rf"^{escaped}\.(?P<leaf>weight|bias)$")
    found = dict(arrays)
    for name in arrays:
        match = first.match(name)
        if match is None:
            continue
        block, leaf = match.groupdict().get("block", ""), match["leaf"]
        here, there = pattern.replace("#", block), new.replace("#", block)
        names = [f"{here.replace('{part}', part)}.{leaf}" for part in parts]
        if all(one in found for one in names):
            found[f"{there}.{leaf}"] = np.concatenate([found.pop(one) for one in names])
    return found


def _timm_vit(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Positions may be of patches alone, of the class token too, or of registers as well."""
    found = dict(arrays)
    registers, tokens = found.get("reg_token"), "cls_token" in found
    if "pos_embed" not in found:
        return found
    positions = found["pos_embed"]
    count = positions.shape[-2]
    if tokens and math.isqrt(count) ** 2 == count:
        zeros = np.zeros_like(positions[..., :1, :])
        found["pos_embed"] = np.concatenate([zeros, positions], axis=-2)
    elif registers is not None and math.isqrt(count) ** 2 != count - tokens:
        before = tokens + registers.shape[-2]
        found["reg_token"] = registers + positions[..., int(tokens) : before, :]
        kept = [positions[..., : int(tokens), :], positions[..., before:, :]]
        found["pos_embed"] = np.concatenate(kept, axis=-2)
    return found


_HF_VIT = _rename(
    [
        (r"embeddings\.cls_token$", "cls_token"),
        (r"embeddings\.register_tokens$", "reg_token"),
        (r"embeddings\.position_embeddings$", "pos_embed"),
        (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"layers\.(\d+)\.attention\.(output\.dense|o_proj)\.", r"blocks.\1.attn.proj."),
        (r"layers\.(\d+)\.(layernorm_before|norm1)\.", r"blocks.\1.norm1."),
        (r"layers\.(\d+)\.(layernorm_after|norm2)\.", r"blocks.\1.norm2."),
        (r"layers\.(\d+)\.(intermediate\.dense|mlp\.fc1)\.", r"blocks.\1.mlp.fc1."),
        (r"layers\.(\d+)\.(output\.dense|mlp\.fc2)\.", r"blocks.\1.mlp.fc2."),
        (r"layers\.(\d+)\.layer_scale(\d)\.lambda1$", r"blocks.\1.ls\2.gamma"),
        (r"layernorm\.", "norm."),
    ]
)


def _hugging_face_vit(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of the files on the hub, and as transformers calls its modules since version 5."""
    arrays.pop("embeddings.mask_token", None)  # of masked training alone
    arrays = {re.sub(r"^encoder\.layer\.", "layers.", name): one for name, one in arrays.items()}
    for query, key, value in (
        ("attention.query", "attention.key", "attention.value"),
        ("q_proj", "k_proj", "v_proj"),
    ):
        pattern = "layers.#.attention.{part}"
        arrays = _joined(arrays, pattern, "blocks.#.attn.qkv", (query, key, value))
    return {_HF_VIT(name): array for name, array in arrays.items()}


_HF_CLIP = _rename(
    [
        (r"embeddings\.class_embedding$", "cls_token"),
        (r"embeddings\.position_embedding\.weight$", "pos_embed"),
        (r"embeddings\.patch_embedding\.", "patch_embed.proj."),
        (r"pre_layrnorm\.", "norm_pre."),
        (r"post_layernorm\.", "norm."),
        (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"blocks.\1.attn.proj."),
        (r"encoder\.layers\.(\d+)\.layer_norm1\.", r"blocks.\1.norm1."),
        (r"encoder\.layers\.(\d+)\.layer_norm2\.", r"blocks.\1.norm2."),
        (r"encoder\.layers\.(\d+)\.", r"blocks.\1."),
        (r"head\.probe$", "attn_pool.latent"),
        (r"head\.attention\.out_proj\.", "attn_pool.proj."),
        (r"head\.layernorm\.", "attn_pool.norm."),
        (r"head\.mlp\.", "attn_pool.mlp."),
    ]
)


def _hugging_face_clip(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    arrays.pop("embeddings.position_ids", None)
    arrays = _joined(
        arrays,
        "encoder.layers.#.self_attn.{part}",
        "blocks.#.attn.qkv",
        ("q_proj", "k_proj", "v_proj"),
    )
    for leaf in ("weight", "bias"):
        both = arrays.pop(f"head.attention.in_proj_{leaf}", None)
        if both is not None:
            width = len(both) // 3
            arrays[f"attn_pool.q.{leaf}"] = both[:width]
            arrays[f"attn_pool.kv.{leaf}"] = both[width:]
    return {_HF_CLIP(name): array for name, array in arrays.items()}


def _efficientnet_pytorch(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of Melas-Kyriazi's code: blocks are counted through, norms are named by their place in it."""
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    outer["_fc"] = "classifier"
    expanded = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    stages: list[tuple[int, int]] = []
    out = -1
    number = 0
    while (kernel := arrays.get(f"_blocks.{number}._project_conv.weight")) is not None:
        # A stage begins where channels change, for none ends with those that it began with.
        stages.append((stages[-1][0], stages[-1][1] + 1) if len(kernel) == out
                      else (stages[-1][0] + 1 if stages else 0, 0))  # fmt: skip
        out, number = len(kernel), number + 1
    found = {}
    for name, array in arrays.items():
        module, _, leaf = name.rpartition(".")
        match = re.fullmatch(r"_blocks\.(\d+)\.(_\w+)", module)
        if match is None:
            found[f"{outer.get(module, 'classifier' if module == '_fc' else module)}.{leaf}"] = (
                array
            )
            continue
        block = int(match[1])
        names = expanded if f"_blocks.{block}._expand_conv.weight" in arrays else plain
        stage, index = stages[block]
        found[f"blocks.{stage}.{index}.{names.get(match[2], match[2])}.{leaf}"] = array
    return found


_OPEN_CLIP = _rename(
    [
        (r"class_embedding$", "cls_token"),
        (r"positional_embedding$", "pos_embed"),
        (r"conv1\.", "patch_embed.proj."),
        (r"ln_pre\.", "norm_pre."),
        (r"ln_post\.", "norm."),
        (r"transformer\.resblocks\.(\d+)\.attn\.in_proj_", r"blocks.\1.attn.qkv."),
        (r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.", r"blocks.\1.attn.proj."),
        (r"transformer\.resblocks\.(\d+)\.ln_1\.", r"blocks.\1.norm1."),
        (r"transformer\.resblocks\.(\d+)\.ln_2\.", r"blocks.\1.norm2."),
        (r"transformer\.resblocks\.(\d+)\.ls_(\d)\.gamma$", r"blocks.\1.ls\2.gamma"),
        (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"blocks.\1.mlp.fc1."),
        (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"blocks.\1.mlp.fc2."),
    ]
)


def _open_clip(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {_OPEN_CLIP(name): array for name, array in arrays.items() if name != "proj"}


_BIG_VISION = _rename(
    [
        (r"cls$", "cls_token"),
        (r"pos_embedding$", "pos_embed"),
        (r"embedding\.", "patch_embed.proj."),
        (r"Transformer\.encoder_norm\.", "norm."),
        (
            r"Transformer\.encoderblock_(\d+)\.MultiHeadDotProductAttention_0\.out\.",
            r"blocks.\1.attn.proj.",
        ),
        (r"Transformer\.encoderblock_(\d+)\.LayerNorm_0\.", r"blocks.\1.norm1."),
        (r"Transformer\.encoderblock_(\d+)\.LayerNorm_1\.", r"blocks.\1.norm2."),
        (r"Transformer\.encoderblock_(\d+)\.MlpBlock_0\.Dense_0\.", r"blocks.\1.mlp.fc1."),
        (r"Transformer\.encoderblock_(\d+)\.MlpBlock_0\.Dense_1\.", r"blocks.\1.mlp.fc2."),
        (r"MAPHead_0\.probe$", "attn_pool.latent"),
        (r"MAPHead_0\.MultiHeadDotProductAttention_0\.query\.", "attn_pool.q."),
        (r"MAPHead_0\.MultiHeadDotProductAttention_0\.out\.", "attn_pool.proj."),
        (r"MAPHead_0\.LayerNorm_0\.", "attn_pool.norm."),
        (r"MAPHead_0\.MlpBlock_0\.Dense_0\.", "attn_pool.mlp.fc1."),
        (r"MAPHead_0\.MlpBlock_0\.Dense_1\.", "attn_pool.mlp.fc2."),
    ]
)


def _big_vision(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Flax's names and layouts, attention by heads, of layers apart or stacked."""
    torch: dict[str, np.ndarray] = {}
    for name, array in _unstacked(arrays).items():
        *module, leaf = name.split(".")
        if module and module[-1] in ("query", "key", "value"):  # [D, H, D/H] or [H, D/H]
            array = array.reshape(len(array), -1).T if leaf == "kernel" else array.reshape(-1)
        elif module and module[-1] == "out" and leaf == "kernel":  # [H, D/H, D]
            array = array.reshape(-1, array.shape[-1]).T
        elif leaf == "kernel":
            array = array.transpose(array.ndim - 1, array.ndim - 2, *range(array.ndim - 2))
        leaf = {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)
        torch[".".join([*module, leaf])] = array
    torch = _joined(
        torch,
        "Transformer.encoderblock_#.MultiHeadDotProductAttention_0.{part}",
        "blocks.#.attn.qkv",
        ("query", "key", "value"),
    )
    torch = _joined(
        torch,
        "MAPHead_0.MultiHeadDotProductAttention_0.{part}",
        "attn_pool.kv",
        ("key", "value"),
    )
    if "cls" in torch:  # put before the patches once these have their positions
        places = torch["pos_embedding"]
        torch["pos_embedding"] = np.concatenate([np.zeros_like(places[:, :1]), places], axis=1)
    return {_BIG_VISION(name): array for name, array in torch.items()}


def _unstacked(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Layers apart, of a checkpoint that a scan over layers made."""
    stacked = "Transformer.encoderblock."
    found = {}
    for name, array in arrays.items():
        if not name.startswith(stacked):
            found[name] = array
            continue
        for number, one in enumerate(array):
            found[f"Transformer.encoderblock_{number}.{name.removeprefix(stacked)}"] = one
    return found


_LAYOUTS = (
    _Layout("torchvision", "resnet", "layer1.0.conv1.weight", _same),
    _Layout("lightly", "resnet", "4.0.conv1.weight", _numbered),
    _Layout("timm", "vit", "blocks.0.norm1.weight", _timm_vit),
    _Layout("timm", "convnext", "stages.0.blocks.0.conv_dw.weight", _same),
    _Layout("timm", "efficientnet", "blocks.0.0.conv_dw.weight", _same),
    _Layout("efficientnet_pytorch", "efficientnet", "_blocks.0._depthwise_conv.weight",
            _efficientnet_pytorch),
    _Layout("Hugging Face ViT", "vit", "embeddings.patch_embeddings.projection.weight",
            _hugging_face_vit),
    _Layout("Hugging Face CLIP", "vit", "embeddings.patch_embedding.weight",
            _hugging_face_clip),
    _Layout("open_clip", "vit", "ln_pre.weight", _open_clip),
    _Layout("big_vision", "vit", "Transformer.encoder_norm.scale", _big_vision),
)  # fmt: skip
