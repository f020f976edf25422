"""Loads written encoders by torchvision, timm or transformers, and compares their features.

    pip install torch==2.14.1 torchvision==0.29.1 timm==1.0.31 transformers==5.24.0 safetensors
    python tests/reference/check_saved.py FOLDER ...

A folder is as `jaxcl.pretrained.save_images` or `jaxcl export` writes it, and has beside it
`check.npz`: `images` [N, H, W, C], normalized, and the `features` [N, D] that jaxcl computes.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file


def features_of(folder: Path, images: torch.Tensor) -> torch.Tensor:
    config = json.loads((folder / "config.json").read_text())
    if config.get("library") == "torchvision":
        import torchvision

        model = getattr(torchvision.models, config["architecture"])()
        model.fc = torch.nn.Identity()
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model.eval()(images)
    if "architecture" in config:
        import timm

        return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(images)
    import transformers

    kind = config["model_type"]
    if kind == "clip_vision_model":
        model = transformers.CLIPVisionModel.from_pretrained(folder)
    else:
        model = transformers.AutoModel.from_pretrained(folder)
    found = model.eval()(images)
    if kind in ("vit", "dinov2", "dinov2_with_registers"):
        return found.last_hidden_state[:, 0]
    return found.pooler_output.flatten(1)


def main() -> None:
    worst = 0.0
    for name in sys.argv[1:]:
        folder = Path(name)
        check = np.load(folder / "check.npz")
        images = torch.from_numpy(check["images"].transpose(0, 3, 1, 2).copy())
        with torch.no_grad():
            found = features_of(folder, images).numpy()
        deviation = np.abs(found - check["features"]).max() / np.abs(check["features"]).max()
        print(f"{folder.name}: {found.shape}, relative deviation {deviation:.1e}")
        worst = max(worst, deviation)
    sys.exit(worst > 1e-4)


if __name__ == "__main__":
    main()
