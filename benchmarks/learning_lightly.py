"""lightly's side of learning.py: its losses, heads and examples, on jaxcl's batches and views.

Runs in the environment that learning.py makes. Batches and views are the very ones that jaxcl's run
of the same seed has, and so are the encoder's first parameters; heads start as lightly starts them.
"""

import copy
from collections.abc import Callable

import jax
import numpy as np
import torch
from learning_setup import (
    DIM,
    HIDDEN,
    MOMENTUM,
    PROTOTYPES,
    QUEUE,
    TEMPERATURE,
    WIDE,
    Task,
    make_experiment,
)
from lightly import loss as losses
from lightly.models.modules import NNMemoryBankModule, SwaVPrototypes, heads
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.utils.scheduler import cosine_schedule
from torch import nn
from torch.nn.functional import normalize

from jaxcl import augment, training
from jaxcl.data.batches import batch_at, steps_per_epoch

Views = list[torch.Tensor]


class SmallCNN(nn.Sequential):
    """jaxcl's encoder of the same name, starting at given parameters."""

    def __init__(self, params: dict, channels: int):
        layers: list[nn.Module] = []
        count = sum(name.startswith("conv") for name in params)
        for layer in range(count):
            kernel = np.asarray(params[f"conv{layer}"]["kernel"])
            width = kernel.shape[-1]
            conv = nn.Conv2d(channels, width, 3, 1 + (layer > 0), padding=1, bias=False)
            conv.weight.data = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.width = channels


class Method(nn.Module):
    """An encoder, a projector and what a step's loss is."""

    def __init__(self, encoder: SmallCNN):
        super().__init__()
        self.encoder = encoder

    def loss(self, views: Views) -> torch.Tensor:
        raise NotImplementedError

    def before_step(self, progress: float) -> None:
        """What moves before the forward pass, as in lightly's examples."""


class OfViews(Method):
    """SimCLR, DCL, Barlow Twins, VICReg: a loss of both views' embeddings."""

    def __init__(self, encoder: SmallCNN, projector: nn.Module, criterion: nn.Module):
        super().__init__(encoder)
        self.projector, self.criterion = projector, criterion

    def loss(self, views: Views) -> torch.Tensor:
        return self.criterion(*(self.projector(self.encoder(view)) for view in views))


class WithTarget(Method):
    """What has a slow copy of encoder and projector."""

    def __init__(
        self,
        encoder: SmallCNN,
        make_projector: Callable[[], nn.Module],
        momentum: Callable[[float], float],
    ):
        super().__init__(encoder)
        self.projector, self.momentum = make_projector(), momentum
        target = make_projector()  # weight norm, of DINO's, cannot be copied
        target.load_state_dict(self.projector.state_dict())
        self.target = nn.ModuleList([copy.deepcopy(encoder), target])
        deactivate_requires_grad(self.target)

    def before_step(self, progress: float) -> None:
        rate = self.momentum(progress)
        for fast, slow in zip((self.encoder, self.projector), self.target, strict=True):
            update_momentum(fast, slow, m=rate)

    def project(self, view: torch.Tensor) -> torch.Tensor:
        return self.projector(self.encoder(view))

    def project_slowly(self, view: torch.Tensor) -> torch.Tensor:
        encoder, projector = self.target
        with torch.no_grad():
            return projector(encoder(view))


def rising(progress: float) -> float:
    return cosine_schedule(round(1e6 * progress), 1_000_001, MOMENTUM, 1.0)


class MoCo(WithTarget):
    def __init__(self, encoder: SmallCNN):
        width = encoder.width
        super().__init__(
            encoder,
            lambda: heads.MoCoProjectionHead(width, width, DIM),
            lambda progress: MOMENTUM,
        )
        self.criterion = losses.NTXentLoss(TEMPERATURE, memory_bank_size=(QUEUE, DIM))

    def loss(self, views: Views) -> torch.Tensor:
        return self.criterion(self.project(views[0]), self.project_slowly(views[1]))


class BYOL(WithTarget):
    def __init__(self, encoder: SmallCNN):
        width = encoder.width
        super().__init__(encoder, lambda: heads.BYOLProjectionHead(width, HIDDEN, DIM), rising)
        self.predictor = heads.BYOLPredictionHead(DIM, HIDDEN, DIM)
        self.criterion = losses.NegativeCosineSimilarity()

    def loss(self, views: Views) -> torch.Tensor:
        predicted = [self.predictor(self.project(view)) for view in views]
        wanted = [self.project_slowly(view) for view in views]
        there, back = zip(predicted, reversed(wanted), strict=True)
        return (self.criterion(*there) + self.criterion(*back)) / 2


class SimSiam(Method):
    def __init__(self, encoder: SmallCNN):
        super().__init__(encoder)
        self.projector = heads.SimSiamProjectionHead(encoder.width, HIDDEN, HIDDEN)
        self.predictor = heads.SimSiamPredictionHead(HIDDEN, HIDDEN // 4, HIDDEN)
        self.criterion = losses.NegativeCosineSimilarity()

    def loss(self, views: Views) -> torch.Tensor:
        one, other = (self.projector(self.encoder(view)) for view in views)
        there = self.criterion(other.detach(), self.predictor(one))
        return (there + self.criterion(one.detach(), self.predictor(other))) / 2


class NNCLR(Method):
    def __init__(self, encoder: SmallCNN):
        super().__init__(encoder)
        self.projector = heads.NNCLRProjectionHead(encoder.width, HIDDEN, DIM)
        self.predictor = heads.NNCLRPredictionHead(DIM, HIDDEN, DIM)
        self.memory = NNMemoryBankModule(size=(QUEUE, DIM))
        self.criterion = losses.NTXentLoss(TEMPERATURE)

    def loss(self, views: Views) -> torch.Tensor:
        one, other = (self.projector(self.encoder(view)) for view in views)
        near_one = self.memory(one.detach(), update=False)
        near_other = self.memory(other.detach(), update=True)
        there = self.criterion(near_one, self.predictor(other))
        return (there + self.criterion(near_other, self.predictor(one))) / 2


class SwAV(Method):
    def __init__(self, encoder: SmallCNN):
        super().__init__(encoder)
        self.projector = heads.SwaVProjectionHead(encoder.width, HIDDEN, DIM)
        self.prototypes = SwaVPrototypes(DIM, PROTOTYPES)
        self.criterion = losses.SwaVLoss()

    def before_step(self, progress: float) -> None:
        self.prototypes.normalize()

    def loss(self, views: Views) -> torch.Tensor:
        rows = [normalize(self.projector(self.encoder(view)), dim=1) for view in views]
        return self.criterion([self.prototypes(each) for each in rows], [])


class DINO(WithTarget):
    def __init__(self, encoder: SmallCNN):
        width = encoder.width
        super().__init__(
            encoder, lambda: heads.DINOProjectionHead(width, HIDDEN, DIM, PROTOTYPES), rising
        )
        self.criterion = losses.DINOLoss(PROTOTYPES)

    def loss(self, views: Views) -> torch.Tensor:
        wanted = [self.project_slowly(view) for view in views]
        return self.criterion(wanted, [self.project(view) for view in views])


def make_method(name: str, encoder: SmallCNN) -> Method:
    """lightly's side of a method."""
    width = encoder.width
    if name in ("simclr", "dcl"):
        criterion = losses.NTXentLoss if name == "simclr" else losses.DCLLoss
        projector = heads.SimCLRProjectionHead(width, width, DIM)
        return OfViews(encoder, projector, criterion(temperature=TEMPERATURE))
    if name == "barlow_twins":
        projector = heads.BarlowTwinsProjectionHead(width, WIDE, WIDE)
        return OfViews(encoder, projector, losses.BarlowTwinsLoss())
    if name == "vicreg":
        projector = heads.VICRegProjectionHead(width, WIDE, WIDE)
        return OfViews(encoder, projector, losses.VICRegLoss())
    classes = {
        "moco_v2": MoCo,
        "byol": BYOL,
        "simsiam": SimSiam,
        "nnclr": NNCLR,
        "swav": SwAV,
        "dino": DINO,
    }
    return classes[name](encoder)


def train(name: str, task: Task, seed: int) -> tuple[Callable[[np.ndarray], np.ndarray], list]:
    """Trains one run.

    Returns:
      What maps pictures [N, H, W, C] to features, and the loss of each step.
    """
    torch.manual_seed(seed)
    experiment = make_experiment(name, task, seed=seed)
    source = experiment.data.open()
    images = jax.ShapeDtypeStruct(source.images.shape[1:], source.images.dtype)
    start = training.start_state(experiment, images)
    encoder = SmallCNN(start.params["encoder"], source.image_shape[-1])
    method = make_method(name, encoder)
    optimizer = make_optimizer(experiment.optimizer, method, task.batch_size)
    total = round(task.epochs * steps_per_epoch(len(source), task.batch_size))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    key = jax.random.wrap_key_data(start.key)

    @jax.jit
    def draw(step, images, index):
        view_key, _ = jax.random.split(jax.random.fold_in(key, step))
        return augment.batch_views(experiment.views, view_key, images, index)

    history = []
    for step in range(total):
        batch = batch_at(source, step, batch_size=task.batch_size, seed=seed)
        views = draw(step, batch["image"], batch["index"])
        method.before_step(step / total)
        loss = method.loss([to_torch(view) for view in views])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        history.append(loss.item())
    encoder.eval()

    def embed(pictures: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return encoder(to_torch(pictures)).numpy()

    return embed, history


def make_optimizer(
    settings: training.Optimizer, method: Method, batch_size: int
) -> torch.optim.Optimizer:
    """jaxcl's optimizer in torch."""
    learned = [x for x in method.parameters() if x.requires_grad]
    rate = settings.peak(batch_size)
    if isinstance(settings, training.SGD):
        return torch.optim.SGD(
            learned, lr=rate, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
    matrices = [x for x in learned if x.ndim > 1]
    vectors = [x for x in learned if x.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(settings.b1, settings.b2), eps=settings.eps)


def to_torch(images: object) -> torch.Tensor:
    return torch.from_numpy(np.asarray(images).transpose(0, 3, 1, 2).copy())
