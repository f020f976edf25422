"""Makes weights.npz: what image encoders of others compute at formula_weights.py's.

    pip install torch==2.14.1 torchvision==0.29.1 timm==1.0.31 transformers==5.24.0 \
        open_clip_torch lightly==1.6.0 safetensors
    python tests/reference/make_weights.py

For each case the names and shapes of a checkpoint as it lies in a file, from which a test makes the
same one, and the features of `formula_images`. Encoders are far smaller than any in use. The
methods' own repositories cannot be installed: their names are written out here, from their code.
"""

import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import lightly.models.modules as lightly_modules
import numpy as np
import open_clip
import timm
import torch
import torchvision
import transformers
from formula_weights import formula_images, formula_weights
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

GOLDEN = Path(__file__).with_name("weights.npz")
IMAGES = torch.from_numpy(formula_images()[:, :64].transpose(0, 3, 1, 2).copy())
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
golden: dict[str, np.ndarray] = {}


def fill(names: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: torch.from_numpy(np.asarray(formula_weights(name, tuple(value.shape))))
        if value.is_floating_point()
        else value
        for name, value in names.items()
    }


def keep(case: str, names: dict[str, torch.Tensor], features: torch.Tensor) -> None:
    shapes = {name: list(value.shape) for name, value in names.items() if value.is_floating_point()}
    golden[f"{case}/names"] = np.array(json.dumps(shapes))
    golden[f"{case}/features"] = features.detach().numpy()
    print(case, tuple(features.shape), len(shapes))


def checkpoint(case: str, whole: nn.Module, run: Callable[[], torch.Tensor], before: str) -> None:
    """Of a module whose names in the file have something before them."""
    named = fill({before + name: value for name, value in whole.state_dict().items()})
    whole.load_state_dict({name.removeprefix(before): value for name, value in named.items()})
    with torch.no_grad():
        whole.eval()
        keep(case, named, run())


def resnet(head: nn.Module | None = None, block: type = BasicBlock) -> torchvision.models.ResNet:
    """torchvision's, narrow."""
    layers = (2, 2, 2, 2) if block is BasicBlock else (3, 4, 6, 3)
    model = torchvision.models.ResNet(block, layers, num_classes=3)
    model.conv1, model.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
    model.inplanes = 8
    for stage, blocks in enumerate(layers):
        layer = model._make_layer(block, 8 * 2**stage, blocks, stride=2 if stage else 1)
        setattr(model, f"layer{stage + 1}", layer)
    if head is not None:
        model.fc = head
    return model


def pooled(model: torchvision.models.ResNet) -> torch.Tensor:
    x = model.maxpool(model.relu(model.bn1(model.conv1(IMAGES))))
    return model.layer4(model.layer3(model.layer2(model.layer1(x)))).mean((2, 3))


def of_resnets() -> None:
    checkpoint("torchvision", whole := resnet(), lambda: pooled(whole), "")
    deep = resnet(block=Bottleneck)
    checkpoint("torchvision with bottlenecks", deep, lambda: pooled(deep), "")
    for name in ("resnet18", "resnet50"):
        model = timm.create_model(name, num_classes=3)
        checkpoint(
            f"timm {name}", model, lambda m=model: m.forward_features(IMAGES).mean((2, 3)), ""
        )


def two_layers(width: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out))


class Holder(nn.Module):
    """Modules by name."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)


def of_methods() -> None:
    """Names from each method's own code."""
    moco = Holder(encoder_q=resnet(head=nn.Linear(64, 8)), encoder_k=resnet(head=nn.Linear(64, 8)))
    moco.register_buffer("queue", torch.zeros(8, 16))
    v2 = Holder(encoder_q=resnet(head=two_layers(64, 8)), encoder_k=resnet(head=two_layers(64, 8)))
    v3 = Holder(
        base_encoder=resnet(head=two_layers(64, 8)),
        momentum_encoder=resnet(head=two_layers(64, 8)),
        predictor=two_layers(8, 8),
    )
    simsiam = Holder(encoder=resnet(head=two_layers(64, 8)), predictor=two_layers(8, 8))
    byol = Holder(
        online_network=Holder(encoder=resnet(), projection=two_layers(64, 8)),
        target_network=Holder(encoder=resnet(), projection=two_layers(64, 8)),
        predictor=two_layers(8, 8),
    )
    barlow = Holder(
        backbone=resnet(head=nn.Identity()),
        projector=two_layers(64, 8),
        bn=nn.BatchNorm1d(8, affine=False),
    )
    swav = resnet(head=nn.Identity())
    swav.projection_head, swav.prototypes = two_layers(64, 8), nn.Linear(8, 5, bias=False)
    dino = Holder(
        student=Holder(module=Holder(backbone=resnet(head=nn.Identity()), head=two_layers(64, 8))),
        teacher=Holder(backbone=resnet(head=nn.Identity()), head=two_layers(64, 8)),
    )
    for case, whole, encoder, before in (
        ("MoCo v1", moco, moco.encoder_q, "state_dict.module."),
        ("MoCo v2", v2, v2.encoder_q, "state_dict.module."),
        ("MoCo v3", v3, v3.base_encoder, "state_dict.module."),
        ("SimSiam", simsiam, simsiam.encoder, "state_dict.module."),
        ("BYOL", byol, byol.online_network.encoder, ""),
        ("Barlow Twins", barlow, barlow.backbone, "model.module."),
        ("VICReg", barlow, barlow.backbone, "model.module."),
        ("SwAV", swav, swav, "module."),
        ("DINO", dino, dino.teacher.backbone, ""),
        ("solo-learn", barlow, barlow.backbone, "state_dict."),
    ):
        checkpoint(case, whole, lambda m=encoder: pooled(m), before)
    net = resnet()
    body = nn.Sequential(*list(net.children())[:-1])
    whole = Holder(
        backbone=body,
        projection_head=lightly_modules.BYOLProjectionHead(64, 16, 8),
        backbone_momentum=copy.deepcopy(body),
    )
    checkpoint("lightly", whole, lambda: whole.backbone(IMAGES).flatten(1), "state_dict.")


def of_timm() -> None:
    vits = {
        "timm ViT": {},
        "timm ViT of layer scales": {"init_values": 0.1, "depth": 3},
        "timm ViT of mean": {"class_token": False, "global_pool": "avg", "fc_norm": False},
        "timm ViT of attention": {"class_token": False, "global_pool": "map"},
        "timm ViT of registers": {"reg_tokens": 3, "no_embed_class": True, "init_values": 0.1},
        "timm ViT of placed registers": {"reg_tokens": 2},
        "timm ViT of registers and mean": {
            "reg_tokens": 4,
            "class_token": False,
            "global_pool": "avg",
            "fc_norm": False,
        },
    }
    for case, options in vits.items():
        model = timm.models.VisionTransformer(
            **{"img_size": 64, "patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 1,
               "num_classes": 5, **options}
        )  # fmt: skip
        checkpoint(
            case, model, lambda m=model: m.forward_head(m.forward_features(IMAGES), True), ""
        )
    v3 = Holder(
        base_encoder=timm.models.VisionTransformer(
            img_size=64, embed_dim=384, depth=1, num_heads=12, num_classes=5
        ),
        predictor=two_layers(8, 8),
    )
    checkpoint(
        "MoCo v3 ViT", v3, lambda: v3.base_encoder.forward_features(IMAGES)[:, 0],
        "state_dict.module.",
    )  # fmt: skip
    for case, name in (
        ("timm EfficientNet-Lite", "tf_efficientnet_lite0"),
        ("timm EfficientNet-Lite 2", "tf_efficientnet_lite2"),
    ):
        model = timm.create_model(name, num_classes=3)
        checkpoint(case, model, lambda m=model: m.forward_features(IMAGES).mean((2, 3)), "")
    model = timm.models.ConvNeXt(depths=(1, 1, 2, 1), dims=(8, 16, 32, 64), num_classes=5)
    checkpoint("timm ConvNeXt", model, lambda: model.head.norm(
        model.forward_features(IMAGES).mean((2, 3), keepdim=True)).flatten(1), "")  # fmt: skip


def of_transformers() -> None:
    vision = {**SMALL, "intermediate_size": 128, "image_size": 64, "patch_size": 16}
    text = {**SMALL, "intermediate_size": 128, "vocab_size": 60, "max_position_embeddings": 16}
    ends = {"bos_token_id": 58, "eos_token_id": 59, "pad_token_id": 0}
    vit = transformers.ViTModel(transformers.ViTConfig(**vision))
    dino = transformers.Dinov2Model(
        transformers.Dinov2Config(**SMALL, image_size=64, patch_size=16, layerscale_value=0.5)
    )
    registered = transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(
            **SMALL, image_size=64, patch_size=16, layerscale_value=0.5, num_register_tokens=3
        )
    )
    clip = transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config={**text, **ends}, vision_config=vision, projection_dim=24
        )
    )
    siglip = transformers.SiglipModel(
        transformers.SiglipConfig(text_config=text, vision_config=vision)
    )
    padded = torch.tensor([[4, 5, 6, *[1] * 13], [7, *[1] * 15]])
    tokens = torch.tensor([[58, 4, 5, 6, 59, 0, 0], [58, 7, 59, 0, 0, 0, 0]])
    for case, model, run in (
        ("Hugging Face ViT", vit, lambda m: m(IMAGES).last_hidden_state[:, 0]),
        ("DINOv2", dino, lambda m: m(IMAGES).last_hidden_state[:, 0]),
        ("DINOv2 with registers", registered, lambda m: m(IMAGES).last_hidden_state[:, 0]),
        ("CLIP", clip, lambda m: m.vision_model(IMAGES).pooler_output),
        ("SigLIP", siglip, lambda m: m.vision_model(IMAGES).pooler_output),
    ):
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            file = Path(folder) / "model.safetensors"
            named = fill(load_file(file))
            save_file(named, file, metadata={"format": "pt"})
            same = type(model).from_pretrained(folder).eval()
            golden[f"{case}/config"] = np.array((Path(folder) / "config.json").read_text())
        with torch.no_grad():
            keep(case, named, run(same))
            if case == "CLIP":
                both = same(input_ids=tokens, pixel_values=IMAGES, attention_mask=tokens > 0)
                golden["CLIP/tokens"] = tokens.numpy()
                golden["CLIP/images"] = both.image_embeds.numpy()
                golden["CLIP/texts"] = both.text_embeds.numpy()
                golden["CLIP/scale"] = same.logit_scale.exp().numpy()
            if case == "SigLIP":
                both = same(input_ids=padded, pixel_values=IMAGES)
                golden["SigLIP/tokens"] = padded.numpy()
                golden["SigLIP/images"] = both.image_embeds.numpy()
                golden["SigLIP/texts"] = both.text_embeds.numpy()
                golden["SigLIP/logits"] = both.logits_per_image.numpy()


def of_speech() -> None:
    """Both builds of wav2vec 2.0: norms behind the layers, and before them."""
    sound = torch.from_numpy(formula_weights("sound", (2, 4000)))
    base = {
        **SMALL, "intermediate_size": 128, "conv_dim": (16,) * 7, "vocab_size": 12,
        "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
    }  # fmt: skip
    large = {**base, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
    quantizer = {
        "num_codevectors_per_group": 5, "codevector_dim": 8, "proj_codevector_dim": 8,
        "num_codevector_groups": 2,
    }  # fmt: skip
    for case, model, inner in (
        ("wav2vec 2.0", transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**base)), None),
        (
            "wav2vec 2.0 large",
            transformers.Wav2Vec2ForPreTraining(transformers.Wav2Vec2Config(**large, **quantizer)),
            "wav2vec2",
        ),
        ("HuBERT", transformers.HubertModel(transformers.HubertConfig(**base)), None),
    ):
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            file = Path(folder) / "model.safetensors"
            named = fill(load_file(file))
            save_file(named, file, metadata={"format": "pt"})
            same = type(model).from_pretrained(folder).eval()
            golden[f"{case}/config"] = np.array((Path(folder) / "config.json").read_text())
        with torch.no_grad():
            whole = same if inner is None else getattr(same, inner)
            keep(case, named, whole(sound).last_hidden_state)


def of_open_clip() -> None:
    for quick in (False, True):
        model = open_clip.model.CLIP(
            24,
            {"image_size": 64, "layers": 2, "width": 64, "head_width": 64, "patch_size": 16},
            {"context_length": 16, "vocab_size": 60, "width": 32, "heads": 4, "layers": 2},
            quick_gelu=quick,
        )
        visual = model.visual

        def run(visual: nn.Module = visual) -> torch.Tensor:
            visual.proj = None
            return visual(IMAGES)

        checkpoint(f"open_clip{' quick' if quick else ''}", model, run, "")


def main() -> None:
    torch.manual_seed(0)
    of_resnets()
    of_methods()
    of_timm()
    of_transformers()
    of_open_clip()
    of_speech()
    np.savez_compressed(GOLDEN, **golden)


if __name__ == "__main__":
    main()
