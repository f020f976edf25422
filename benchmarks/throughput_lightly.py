"""lightly's side of throughput.py: MoCo v2 of its modules, in its environment.

Reads a line of JSON that says what to train; after it, for each line "PART STEPS", takes so many
steps and prints the seconds. Parts: "step without views", on views that are ready, and
"everything": reading, augmenting (torchvision's transforms, in worker processes), and the step.
Layout "channels_last" is jaxcl's; "contiguous_format" is what lightly's examples have.
"""

import copy
import json
import sys
import time

import numpy as np
import torch
from lightly.loss import NTXentLoss
from lightly.models import ResNetGenerator
from lightly.models.modules.heads import MoCoProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms import SimCLRTransform
from PIL import Image
from torch import nn


class Images(torch.utils.data.Dataset):
    """Views of the images of an .npy file."""

    def __init__(self, path: str, views: SimCLRTransform):
        self.images, self.views = np.load(path, mmap_mode="r"), views

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        return self.views(Image.fromarray(np.asarray(self.images[index])))


class Training:
    """Networks, loss and optimizer as in lightly's MoCo example."""

    def __init__(self, task: dict):
        torch.manual_seed(0)
        self.layout = getattr(torch, task["layout"])
        resnet = ResNetGenerator(f"resnet-{task['depth']}", width=task["width"] / 64)
        backbone = nn.Sequential(
            *list(resnet.children())[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        features = resnet.linear.in_features
        head = MoCoProjectionHead(features, features, task["dim"])
        self.online = nn.Sequential(backbone, head).to(memory_format=self.layout)
        self.target = copy.deepcopy(self.online)
        deactivate_requires_grad(self.target)
        self.loss = NTXentLoss(
            temperature=task["temperature"], memory_bank_size=(task["queue_size"], task["dim"])
        )
        self.optimizer = torch.optim.SGD(
            self.online.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4
        )
        self.momentum = task["momentum"]
        blur = 0.5 if task["blur"] else 0.0
        views = SimCLRTransform(
            input_size=task["size"],
            cj_strength=task["strength"],
            gaussian_blur=blur,
            normalize=None,
        )
        self.batch_size, side = task["batch_size"], task["size"]
        self.ready = torch.rand(2, self.batch_size, 3, side, side)
        loader = torch.utils.data.DataLoader(
            Images(task["images"], views),
            batch_size=self.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=task["workers"],
            persistent_workers=True,
        )
        self.batches = self.endless(loader)

    @staticmethod
    def endless(loader):
        while True:
            yield from loader

    def step(self, query_view: torch.Tensor, key_view: torch.Tensor) -> None:
        query_view = query_view.contiguous(memory_format=self.layout)
        key_view = key_view.contiguous(memory_format=self.layout)
        update_momentum(self.online, self.target, self.momentum)
        with torch.no_grad():
            keys = self.target(key_view)
        loss = self.loss(self.online(query_view), keys)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def run(self, part: str, steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            views = self.ready if part == "step without views" else next(self.batches)
            self.step(views[0], views[1])
        return time.perf_counter() - start


def main() -> None:
    training = Training(json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        part, steps = line.rsplit(maxsplit=1)
        print(training.run(part, int(steps)), flush=True)


if __name__ == "__main__":
    main()
