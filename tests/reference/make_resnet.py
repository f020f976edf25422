"""Makes resnet.npz: torchvision's ResNets at weights that a formula gives, and what they compute.

    pip install torch==2.14.1 torchvision==0.29.1 numpy && python tests/reference/make_resnet.py

Torch is needed here only; the tests read the golden file.
"""

from pathlib import Path

import numpy as np
import torch
import torchvision
from formula_weights import formula_images, formula_weights

GOLDEN = Path(__file__).with_name("resnet.npz")


def main() -> None:
    golden = {}
    for depth in (18, 50):
        model = getattr(torchvision.models, f"resnet{depth}")()
        model.fc = torch.nn.Identity()
        weights = {
            name: torch.from_numpy(formula_weights(name, tuple(value.shape)))
            for name, value in model.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        model.load_state_dict(weights, strict=False)
        images = torch.from_numpy(formula_images().transpose(0, 3, 1, 2).copy())
        with torch.no_grad():
            golden[f"resnet{depth}/eval"] = model.eval()(images).numpy()
            golden[f"resnet{depth}/train"] = model.train()(images).numpy()
        golden[f"resnet{depth}/running_mean"] = model.bn1.running_mean.numpy()
        golden[f"resnet{depth}/running_var"] = model.bn1.running_var.numpy()
    np.savez_compressed(GOLDEN, **golden)


if __name__ == "__main__":
    main()
