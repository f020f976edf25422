"""Makes transformers.npz: what torchvision's ViT and ConvNeXt compute at formula_weights.py's.

    pip install torch==2.14.1 torchvision==0.29.1 numpy
    python tests/reference/make_transformers.py

Both are far smaller than any in use. Torch is needed here only; the tests read the golden file.
"""

from pathlib import Path

import numpy as np
import torch
from formula_weights import formula_images, formula_weights
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.vision_transformer import VisionTransformer

GOLDEN = Path(__file__).with_name("transformers.npz")


def main() -> None:
    vit = VisionTransformer(
        image_size=64, patch_size=16, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=128
    )
    vit.heads = torch.nn.Identity()
    stages = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, 32, 2), CNBlockConfig(32, None, 1)]
    convnext = ConvNeXt(stages)
    convnext.classifier[2] = torch.nn.Identity()
    images = torch.from_numpy(formula_images().transpose(0, 3, 1, 2).copy())
    golden = {
        "vit": features(vit, images[:, :, :64]),
        "convnext": features(convnext, images),
    }
    np.savez_compressed(GOLDEN, **golden)


def features(model: torch.nn.Module, images: torch.Tensor) -> np.ndarray:
    weights = {
        name: torch.from_numpy(formula_weights(name, tuple(value.shape)))
        for name, value in model.state_dict().items()
    }
    model.load_state_dict(weights)
    with torch.no_grad():
        return model.eval()(images).numpy()


if __name__ == "__main__":
    main()
