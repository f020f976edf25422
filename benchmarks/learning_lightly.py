"""lightly's side of learning.py: its losses, heads and examples, on jaxcl's batches and views.

Runs in the environment that learning.py makes. Batches and views are the very ones that jaxcl's run
of the same seed has, and so is what encoder, heads, prototypes and memory start as. What differs is
each library's habit: lightly encodes view by view, where jaxcl's SimCLR, DCL, SwAV and DINO have
batch statistics of both; its SwAV has biases of prototypes; its NNCLR keeps the second view; its
MoCo has one group of batch statistics; its Barlow Twins weighs correlations by 0.005, not 0.0051.
With `alike` it has jaxcl's habits, but for the last two.
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

    projector: nn.Module
    alike = False
    """Whether it has jaxcl's habits instead of lightly's."""

    def __init__(self, encoder: SmallCNN):
        super().__init__()
        self.encoder = encoder

    def loss(self, views: Views) -> torch.Tensor:
        raise NotImplementedError

    def embed(self, views: Views, *, jointly: bool = False) -> Views:
        """The views' embeddings, with batch statistics of each view or, jointly, of all."""
        if jointly:
            return list(self.projector(self.encoder(torch.cat(views))).chunk(len(views)))
        return [self.projector(self.encoder(view)) for view in views]

    def before_step(self, progress: float) -> None:
        """What moves before the forward pass, as in lightly's examples."""


class OfViews(Method):
    """SimCLR, DCL, Barlow Twins, VICReg: a loss of both views' embeddings."""

    def __init__(self, encoder: SmallCNN, projector: nn.Module, criterion: nn.Module):
        super().__init__(encoder)
        self.projector, self.criterion = projector, criterion

    def loss(self, views: Views) -> torch.Tensor:
        contrast = isinstance(self.criterion, losses.NTXentLoss | losses.DCLLoss)
        return self.criterion(*self.embed(views, jointly=self.alike and contrast))


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

    def embed_slowly(self, views: Views, *, jointly: bool = False) -> Views:
        encoder, projector = self.target
        with torch.no_grad():
            if jointly:
                return list(projector(encoder(torch.cat(views))).chunk(len(views)))
            return [projector(encoder(view)) for view in views]


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
        (query,), (key,) = self.embed(views[:1]), self.embed_slowly(views[1:])
        return self.criterion(query, key)


class BYOL(WithTarget):
    def __init__(self, encoder: SmallCNN):
        width = encoder.width
        super().__init__(encoder, lambda: heads.BYOLProjectionHead(width, HIDDEN, DIM), rising)
        self.predictor = heads.BYOLPredictionHead(DIM, HIDDEN, DIM)
        self.criterion = losses.NegativeCosineSimilarity()

    def loss(self, views: Views) -> torch.Tensor:
        predicted = [self.predictor(each) for each in self.embed(views)]
        wanted = self.embed_slowly(views)
        there, back = zip(predicted, reversed(wanted), strict=True)
        # The paper's scale, by which SGD's steps go; lightly's example halves the sum instead.
        return 4 + 2 * (self.criterion(*there) + self.criterion(*back))


class SimSiam(Method):
    def __init__(self, encoder: SmallCNN):
        super().__init__(encoder)
        self.projector = heads.SimSiamProjectionHead(encoder.width, HIDDEN, HIDDEN)
        self.predictor = heads.SimSiamPredictionHead(HIDDEN, HIDDEN // 4, HIDDEN)
        self.criterion = losses.NegativeCosineSimilarity()

    def loss(self, views: Views) -> torch.Tensor:
        one, other = self.embed(views)
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
        one, other = self.embed(views)
        near = {}
        kept, first = (one, other) if self.alike else (other, one)  # the kept view comes last
        for each, keep in ((first, False), (kept, True)):
            near[each] = self.memory(each.detach(), update=keep)
        near_one, near_other = near[one], near[other]
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
        rows = [normalize(each, dim=1) for each in self.embed(views, jointly=self.alike)]
        return self.criterion([self.prototypes(each) for each in rows], [])


class DINO(WithTarget):
    def __init__(self, encoder: SmallCNN):
        width = encoder.width
        super().__init__(
            encoder, lambda: heads.DINOProjectionHead(width, HIDDEN, DIM, PROTOTYPES), rising
        )
        self.criterion = losses.DINOLoss(PROTOTYPES)

    def loss(self, views: Views) -> torch.Tensor:
        wanted = self.embed_slowly(views, jointly=self.alike)
        return self.criterion(wanted, self.embed(views, jointly=self.alike))


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


def train(
    name: str, task: Task, seed: int, *, alike: bool = False
) -> tuple[Callable[[np.ndarray], np.ndarray], list]:
    """Trains one run, `alike` with jaxcl's habits.

    Returns:
      What maps pictures [N, H, W, C] to features, and the loss of each step.
    """
    torch.manual_seed(seed)
    experiment = make_experiment(name, task, seed=seed)
    source = experiment.data.open()
    images = jax.ShapeDtypeStruct(source.images.shape[1:], source.images.dtype)
    start = training.start_state(experiment, {"image": images})
    encoder = SmallCNN(start.params["encoder"], images.shape[-1])
    method = make_method(name, encoder)
    method.alike = alike
    start_alike(method, start)
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
        loss = method.loss([images_to_torch(view) for view in views])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        history.append(loss.item())
    encoder.eval()

    def embed(pictures: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return encoder(images_to_torch(pictures)).numpy()

    return embed, history


def start_alike(method: Method, start: training.TrainState) -> None:
    """Copies jaxcl's first heads, prototypes and memory into a method."""
    params = start.params
    load_head(method.projector, params["projector"])
    if "predictor" in params:
        load_head(method.predictor, params["predictor"])
    with torch.no_grad():
        if isinstance(method, SwAV):
            (layer,) = method.prototypes.heads
            layer.weight.copy_(to_torch(params["prototypes"]["kernel"].T))
            layer.bias.zero_()  # the paper's prototypes have none
            layer.bias.requires_grad_(not method.alike)
        if isinstance(method, DINO):
            layer = method.projector.last_layer
            layer.weight_v.copy_(to_torch(params["prototypes"]["kernel"].T))
    if isinstance(method, MoCo | NNCLR):
        memory = method.criterion.memory_bank if isinstance(method, MoCo) else method.memory
        memory.bank = to_torch(start.method.queue.embeddings)
        memory.bank_ptr.zero_()
    if isinstance(method, WithTarget):
        encoder, projector = method.target
        encoder.load_state_dict(method.encoder.state_dict())
        projector.load_state_dict(method.projector.state_dict())


def load_head(head: nn.Module, params: dict) -> None:
    """Copies an MLP's parameters into lightly's head of the same layers."""
    norms = {name for name in params if name.startswith("norm")}
    position = -1
    with torch.no_grad():
        for layer in head.layers:
            if isinstance(layer, nn.Linear):
                position += 1
                here = params[f"dense{position}"]
                layer.weight.copy_(to_torch(here["kernel"].T))
                if "bias" in here:
                    layer.bias.copy_(to_torch(here["bias"]))
                elif layer.bias is not None:  # of Barlow Twins and VICReg, which do not feel it
                    layer.bias.zero_()
            elif isinstance(layer, nn.BatchNorm1d) and layer.affine:
                norms.remove(f"norm{position}")
    if norms or position + 1 != sum(name.startswith("dense") for name in params):
        raise ValueError(f"heads differ: {sorted(params)} here, {head} there")


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


def to_torch(array: jax.Array) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def images_to_torch(images: jax.Array | np.ndarray) -> torch.Tensor:
    """[N, H, W, C] to [N, C, H, W]."""
    return torch.from_numpy(np.asarray(images).transpose(0, 3, 1, 2).copy())
