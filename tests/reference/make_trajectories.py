"""Makes method_trajectories.npz: thirty steps of methods by lightly's losses, in float64.

    pip install torch==2.14.1 lightly==1.6.0 numpy jax
    python tests/reference/make_trajectories.py

Two-layer perceptrons without BatchNorm, given views, SGD with momentum. Of each case the file has
the parameters, the start, the views, every step's loss and the end. Torch is needed here only; jax
draws LeJEPA's directions, nothing else. Hard negatives, which lightly has not, are by the paper's
equations.
"""

from pathlib import Path

import jax
import numpy as np
import torch
from lightly import loss as losses
from lightly.loss.hypersphere_loss import HypersphereLoss
from lightly.loss.lejepa_loss import LeJEPALoss
from lightly.models.modules import SwaVPrototypes
from lightly.models.modules.nn_memory_bank import NNMemoryBankModule
from torch.nn import functional

GOLDEN = Path(__file__).with_name("method_trajectories.npz")
STEPS, ROWS, INPUT, HIDDEN, WIDTH = 30, 16, 24, 32, 12
TEMPERATURE, TARGET_MOMENTUM, QUEUE, PROTOTYPES = 0.2, 0.99, 48, 10
LEARNING_RATES = {
    "simsiam": 0.1,
    "barlow_twins": 0.01,
    "vicreg": 0.002,
    "swav": 0.5,
    "dino": 0.1,
    "mmcr": 0.02,
}
SGD_MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4
TAU_PLUS, BETA = 0.1, 1.0  # of hard negatives
WARM_UP = 20  # steps in which DINO's teacher gets warmer
DIRECTIONS = 24  # of LeJEPA

torch.set_default_dtype(torch.float64)


def perceptron(random, inputs):
    layers = [torch.nn.Linear(inputs, HIDDEN), torch.nn.Linear(HIDDEN, WIDTH)]
    for layer in layers:
        bound = layer.in_features**-0.5
        for weight in layer.parameters():
            weight.data = torch.from_numpy(random.uniform(-bound, bound, tuple(weight.shape)))
    return torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1])


def layers_of(network, names):
    first, _, second = network
    arrays = (first.weight.T, first.bias, second.weight.T, second.bias)
    return {name: array.detach().numpy().copy() for name, array in zip(names, arrays, strict=True)}


class Case:
    """Encoder, predictor, a target and what a step's loss is of them and the views."""

    views, rows = 2, ROWS

    def __init__(self, random):
        self.encoder = perceptron(random, INPUT)
        self.predictor = perceptron(random, WIDTH)
        self.target = perceptron(random, INPUT)
        self.target.load_state_dict(self.encoder.state_dict())
        self.further = {}

    def arrays(self):
        return {
            **layers_of(self.encoder, ("w0", "b0", "w1", "b1")),
            **layers_of(self.predictor, ("p0", "c0", "p1", "c1")),
            **{name: value.detach().numpy().T.copy() for name, value in self.further.items()},
        }

    def parameters(self):
        networks = (*self.encoder.parameters(), *self.predictor.parameters())
        return [*networks, *(x for x in self.further.values() if x.requires_grad)]

    def after_step(self):
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.encoder.parameters(), strict=True):
                slow.mul_(TARGET_MOMENTUM).add_(fast, alpha=1 - TARGET_MOMENTUM)


class SimSiam(Case):
    def loss(self, views):
        one, other = map(self.encoder, views)
        criterion = losses.NegativeCosineSimilarity()
        there = criterion(self.predictor(one), other.detach())
        return (there + criterion(self.predictor(other), one.detach())) / 2


class NNCLR(Case):
    """The paper's loss of lightly's neighbours: lightly's own contrasts both views as anchors."""

    def __init__(self, random):
        super().__init__(random)
        self.memory = NNMemoryBankModule(size=(QUEUE, WIDTH))
        start = torch.from_numpy(random.normal(size=(QUEUE, WIDTH)))
        self.memory.bank = functional.normalize(start, dim=1)
        self.memory.bank_ptr = torch.zeros(1, dtype=torch.long)

    def arrays(self):
        return super().arrays() | {"queue": self.memory.bank.numpy().copy()}

    def loss(self, views):
        one, other = map(self.encoder, views)
        near_other = self.memory(other.detach(), update=False)
        near_one = self.memory(functional.normalize(one.detach(), dim=1), update=True)
        one_way = self.contrast(near_one, self.predictor(other))
        return (one_way + self.contrast(near_other, self.predictor(one))) / 2

    def contrast(self, near, predicted):
        logits = functional.normalize(near, dim=1) @ functional.normalize(predicted, dim=1).T
        return functional.cross_entropy(logits / TEMPERATURE, torch.arange(ROWS))


class NNCLRBothWays(NNCLR):
    """lightly's own loss."""

    def contrast(self, near, predicted):
        return losses.NTXentLoss(TEMPERATURE)(near, predicted)


class OfViews(Case):
    """A loss of lightly's of both views' embeddings; subclasses make it."""

    def __init__(self, random):
        super().__init__(random)
        self.criterion = self.make()

    def loss(self, views):
        return self.criterion(*map(self.encoder, views))


class BarlowTwins(OfViews):
    def make(self):
        return losses.BarlowTwinsLoss(lambda_param=0.02)


class VICReg(OfViews):
    def make(self):
        return losses.VICRegLoss()


class DCL(OfViews):
    def make(self):
        return losses.DCLLoss(temperature=TEMPERATURE)


class DCLW(OfViews):
    def make(self):
        return losses.DCLWLoss(temperature=TEMPERATURE)


class TiCo(OfViews):
    """Against a slow network, as in the paper."""

    def make(self):
        return losses.TiCoLoss()

    def loss(self, views):
        first, second = views
        return self.criterion(self.encoder(first), self.target(second).detach())


class MMCR(OfViews):
    """Of unit embeddings, as in the paper; lightly leaves that to the network."""

    def make(self):
        return losses.MMCRLoss(lmda=0.005)

    def loss(self, views):
        one, other = (functional.normalize(self.encoder(view), dim=1) for view in views)
        return self.criterion(one[:, None], other[:, None])


class WMSE(OfViews):
    rows = 40  # whitening wants twice as many as dimensions, and float32 wants more

    def make(self):
        return losses.WMSELoss(embedding_dim=WIDTH, w_size=self.rows)

    def loss(self, views):
        return self.criterion(torch.cat([self.encoder(view) for view in views]))


class AlignUniform(OfViews):
    def make(self):
        return HypersphereLoss(t=2.0)


class HardSimCLR(OfViews):
    """Robinson et al. (2021), equation 4: negatives weighed by exp(beta * similarity / t), debiased
    by the share tau_plus of positives among them, and bounded from below by exp(-1 / t)."""

    def make(self):
        return None

    def loss(self, views):
        rows = functional.normalize(torch.cat([self.encoder(view) for view in views]), dim=1)
        similarities = torch.exp(rows @ rows.T / TEMPERATURE)
        count = 2 * ROWS - 2
        own = torch.arange(2 * ROWS) % ROWS
        negative = similarities * (own[:, None] != own)
        positive = torch.exp((rows * rows.roll(ROWS, 0)).sum(1) / TEMPERATURE)
        weights = negative**BETA
        reweighed = (weights * negative).sum(1) / (weights.sum(1) / count)
        debiased = (reweighed - TAU_PLUS * count * positive) / (1 - TAU_PLUS)
        bounded = debiased.clamp(min=count * np.exp(-1 / TEMPERATURE))
        return -torch.log(positive / (positive + bounded)).mean()


class LeJEPA(OfViews):
    """Two global and two local views; each step's directions are those that jaxcl draws."""

    views, key = 4, 7

    def make(self):
        loss = LeJEPALoss(sigreg_num_vectors=DIRECTIONS)
        loss.sigreg._generate_unit_vectors = lambda *_: self.draw()
        self.state = jax.random.key(self.key)
        return loss

    def draw(self):
        key, self.state = jax.random.split(self.state)
        drawn = np.asarray(jax.random.normal(key, (DIRECTIONS, WIDTH)), np.float64)
        return functional.normalize(torch.from_numpy(drawn), dim=1).T

    def loss(self, views):
        rows = torch.stack([self.encoder(view) for view in views])
        return self.criterion(global_proj=rows[:2], local_proj=rows[2:])


class SwAV(Case):
    """Two views that are assigned, two more that predict, and a queue of past embeddings."""

    views = 4

    def __init__(self, random):
        super().__init__(random)
        self.prototypes = SwaVPrototypes(WIDTH, PROTOTYPES)
        layer = self.prototypes.heads[0]
        layer.bias = None
        layer.weight.data = torch.from_numpy(random.normal(size=(PROTOTYPES, WIDTH)))
        self.prototypes.normalize()
        self.further = {"prototypes": layer.weight}
        starts = random.normal(size=(2, QUEUE, WIDTH))
        self.queues = list(functional.normalize(torch.from_numpy(starts), dim=2))
        self.criterion = losses.SwaVLoss(sinkhorn_epsilon=0.05, temperature=TEMPERATURE)

    def arrays(self):
        self.prototypes.normalize()
        return super().arrays() | {"queues": torch.stack(self.queues).numpy().copy()}

    def loss(self, views):
        self.prototypes.normalize()
        rows = [functional.normalize(self.encoder(view), dim=1) for view in views]
        scores = [self.prototypes(each) for each in rows]
        with torch.no_grad():
            past = [self.prototypes(queue) for queue in self.queues]
        loss = self.criterion(scores[:2], scores[2:], past).sum()
        self.queues = [
            torch.cat([queue[ROWS:], new.detach()])
            for queue, new in zip(self.queues, rows[:2], strict=True)
        ]
        return loss


class DINO(Case):
    views = 4

    def __init__(self, random):
        super().__init__(random)
        kernel = torch.from_numpy(random.normal(size=(PROTOTYPES, WIDTH)))
        self.further = {"prototypes": kernel.requires_grad_()}
        self.slow_kernel = kernel.detach().clone()
        self.criterion = losses.DINOLoss(
            PROTOTYPES,
            warmup_teacher_temp=0.04,
            teacher_temp=0.07,
            warmup_teacher_temp_epochs=WARM_UP,
            student_temp=TEMPERATURE,
        )
        self.step = 0

    def arrays(self):
        return super().arrays() | {"center": self.criterion.center.numpy().reshape(-1).copy()}

    def logits(self, network, kernel, view):
        rows = functional.normalize(network(view), dim=1)
        return rows @ functional.normalize(kernel, dim=1).T

    def loss(self, views):
        student = [self.logits(self.encoder, self.further["prototypes"], view) for view in views]
        with torch.no_grad():
            teacher = [self.logits(self.target, self.slow_kernel, view) for view in views[:2]]
        return self.criterion(teacher, student, epoch=self.step)

    def after_step(self):
        super().after_step()
        self.step += 1
        fast = self.further["prototypes"].detach()
        self.slow_kernel.mul_(TARGET_MOMENTUM).add_(fast, alpha=1 - TARGET_MOMENTUM)


CASES = {
    "simsiam": SimSiam,
    "nnclr": NNCLR,
    "barlow_twins": BarlowTwins,
    "vicreg": VICReg,
    "dcl": DCL,
    "dclw": DCLW,
    "tico": TiCo,
    "swav": SwAV,
    "dino": DINO,
    "nnclr_nt_xent": NNCLRBothWays,
    "mmcr": MMCR,
    "w_mse": WMSE,
    "align_uniform": AlignUniform,
    "hard_simclr": HardSimCLR,
    "lejepa": LeJEPA,
}


def main() -> None:
    golden = {}
    for number, (name, make) in enumerate(CASES.items()):
        random = np.random.default_rng(number)
        case = make(random)
        base = random.normal(size=(STEPS, case.rows, INPUT))
        views = [base + 0.5 * random.normal(size=base.shape) for _ in range(case.views)]
        views = [view.astype(np.float32) for view in views]
        rate = LEARNING_RATES.get(name, 0.05)
        optimizer = torch.optim.SGD(
            case.parameters(), lr=rate, momentum=SGD_MOMENTUM, weight_decay=WEIGHT_DECAY
        )
        start, steps = case.arrays(), []
        for step in range(STEPS):
            loss = case.loss([torch.from_numpy(view[step].astype(np.float64)) for view in views])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            case.after_step()
            steps.append(loss.item())
        golden |= {f"{name}/start/{key}": value for key, value in start.items()}
        golden |= {f"{name}/end/{key}": value for key, value in case.arrays().items()}
        golden |= {f"{name}/view{view}": array for view, array in enumerate(views)}
        golden |= {
            f"{name}/loss": np.array(steps),
            f"{name}/param/learning_rate": np.array(rate),
            f"{name}/param/sgd_momentum": np.array(SGD_MOMENTUM),
            f"{name}/param/weight_decay": np.array(WEIGHT_DECAY),
            f"{name}/param/temperature": np.array(TEMPERATURE),
            f"{name}/param/momentum": np.array(TARGET_MOMENTUM),
        }
        print(f"{name}: loss {steps[0]:.4f} to {steps[-1]:.4f}")
    np.savez_compressed(GOLDEN, **golden)


if __name__ == "__main__":
    main()
