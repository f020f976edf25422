"""What a run is worth when it goes on with labels: all of them, a tenth, a hundredth."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from jaxcl.data import Source
from jaxcl.data.parts import Subset
from jaxcl.evaluation.embedding import Embedding, embed_source, evaluation_view
from jaxcl.evaluation.fine_tuning import (
    FineTuning,
    Networks,
    Weights,
    class_logits,
    fine_tune,
    light_view,
    view_shape,
    with_head,
)
from jaxcl.evaluation.linear import L2_GRID, linear_probe
from jaxcl.evaluation.report import markdown_table
from jaxcl.evaluation.runs import open_parts
from jaxcl.methods import EncoderMethod, Method
from jaxcl.training import (
    Experiment,
    RestoredRun,
    TrainState,
    UserError,
    restore_run,
    start_state,
    to_data,
)
from jaxcl.training.durable_files import check_writable, write_durably

SHARES = (0.01, 0.1, 1.0)
_ONE_LABEL_L2 = 0.1  # of a linear probe where no class has two labels to choose it by


@dataclasses.dataclass(frozen=True)
class LabelShare:
    """Accuracies on the test part with a share of the labels, one a draw of them."""

    share: float
    labels: int
    """How many, in all."""
    linear: tuple[float, ...]
    """Of a linear probe of the run's frozen features."""
    fine_tuned: tuple[float, ...]
    """Of the run's encoder, fine-tuned."""
    from_scratch: tuple[float, ...]
    """Of the untrained encoder, trained in the same way."""


def labels_per_class(labels: np.ndarray, share: float) -> int:
    """How many labels each class gives for a share of all; a class with fewer gives all it has.

    The number whose total is nearest to the share, of two the larger: a class-balanced subset, as
    those of SimCLR (Chen et al., 2020, section 6), and at 1 everything.

    Args:
      labels: [N] integers.
      share: > 0, at most 1.

    Raises:
      ValueError: for another share, or one so small that the number is 0.

    Example:
      >>> labels_per_class(np.repeat([0, 1], 50), 0.1)
      5
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share of the labels is {share}, expected more than 0, at most 1")
    sizes = np.unique(labels, return_counts=True)[1]
    totals = np.array([np.minimum(sizes, count).sum() for count in range(sizes.max() + 1)])
    distances = np.abs(totals - share * len(labels))
    count = int(np.flatnonzero(distances == distances.min())[-1])
    if count == 0:
        raise ValueError(
            f"{share:g} of {len(labels)} labels gives none for each of {len(sizes)} classes: use "
            f"at least {len(sizes) / len(labels):.2g}"
        )
    return count


def balanced_subset(labels: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Records of `count` examples of each class, drawn without replacement; all of a smaller class.

    Args:
      labels: [N] integers.
      count: a class, >= 1.
      seed: of the draw.

    Returns:
      [M] int64 record numbers, rising.
    """
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.sort(np.concatenate([generator.permutation(rows)[:count] for rows in members]))


def finetune_run(
    directory: Path,
    experiment: Experiment | None = None,
    *,
    shares: Sequence[float] = SHARES,
    draws: int = 3,
    settings: FineTuning | None = None,
    seed: int = 0,
) -> str:
    """Fine-tunes a run's encoder on shares of the labels, beside a linear probe and from scratch.

    Writes `finetuning.json`. Examples are those of the run's evaluation; views are its first one's
    crops, turns and flips.

    Args:
      directory: a run directory with at least one checkpoint.
      experiment: as in `restore_run`; its `evaluate` names the examples.
      shares: of the training labels, each > 0, at most 1.
      draws: subsets of each share; of all labels there is but one.
      settings: how long and how fast; None: the defaults.
      seed: of the subsets, the order and the views.

    Returns:
      A table as text.

    Raises:
      UserError: if the run has no checkpoint, names no examples, these lack labels, a share gives a
        class no example, or training diverges.
      OSError: if the directory cannot be written.
    """
    run = restore_run(directory, experiment)
    check_writable(directory)
    settings = FineTuning() if settings is None else settings
    _, train_source, test_source = open_parts(run, directory)
    for part, source in {"train": train_source, "test": test_source}.items():
        if source.labels is None:
            raise UserError(
                f"fine-tuning needs labels, and evaluate.{part} has none: name them (as in "
                "label='label', or labels='subfolders')"
            )
    try:
        if draws < 1:
            raise ValueError(f"draws is {draws}, expected at least 1")
        if seed < 0:
            raise ValueError(f"seed is {seed}, expected at least 0")
        labels = np.asarray(train_source.labels)
        if len(np.unique(labels)) < 2:
            raise ValueError("the training examples are all of one class, expected two or more")
        subsets = {
            share: _subsets(labels, labels_per_class(labels, share), draws, seed)
            for share in shares
        }
        results = _Comparison(run, train_source, test_source, settings, seed).of(subsets)
    except ValueError as error:
        raise UserError(f"cannot fine-tune {directory}: {error}") from error
    document = {
        "step": run.step,
        "settings": to_data(settings),
        "seed": seed,
        "shares": [dataclasses.asdict(result) for result in results],
    }
    path = directory / "finetuning.json"
    write_durably(path, json.dumps(document, indent=2) + "\n")
    return _describe(results, run, len(test_source), path)


def _subsets(labels: np.ndarray, count: int, draws: int, seed: int) -> list[np.ndarray]:
    drawn = [balanced_subset(labels, count, seed=seed + draw) for draw in range(draws)]
    return drawn[:1] if len(drawn[0]) == len(labels) else drawn


class _Comparison:
    """One encoder, trained or not, in all its fine-tunings."""

    def __init__(
        self, run: RestoredRun, train: Source, test: Source, settings: FineTuning, seed: int
    ) -> None:
        self.train, self.test, self.settings, self.seed = train, test, settings, seed
        evaluate = run.experiment.evaluate
        self.batch_size = 256 if evaluate is None else evaluate.batch_size
        self.networks = networks_to_tune(run.experiment.method)
        self.view = light_view(run.experiment.views)
        self.starts = {
            "fine_tuned": self._start(run.state),
            "from_scratch": self._start(start_state(run.experiment, run.inputs)),
        }
        self.classifier = Embedding(
            evaluation_view(run.experiment.views, run.image, run.image_field),
            lambda weights, images: class_logits(self.networks, weights, images)[0],
        )
        frozen = {"": Embedding.of_encoder(run, run.state)}
        self.features = embed_source(frozen, train, self.batch_size)[""]
        self.test_features = embed_source(frozen, test, self.batch_size)[""]

    def _start(self, state: TrainState) -> Weights:
        classes = int(np.max(np.asarray(self.train.labels))) + 1
        shape = view_shape(self.view, self.train)
        stats = state.method.batch_stats
        return with_head(self.networks, state.params, stats, shape, classes=classes)

    def of(self, subsets: Mapping[float, Sequence[np.ndarray]]) -> list[LabelShare]:
        """Results by share, and on the way a line for each draw."""
        console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
        steps = sum(
            len(self.starts) * self.settings.steps(len(records))
            for drawn in subsets.values()
            for records in drawn
        )
        results, began = [], time.monotonic()
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("fine-tuning", total=steps)
            for share, drawn in subsets.items():
                found: dict[str, list[float]] = {name: [] for name in ("linear", *self.starts)}
                for draw, records in enumerate(drawn):
                    found["linear"].append(self._probe(records))
                    for name, start in self.starts.items():
                        weights = fine_tune(
                            self.networks,
                            start,
                            Subset(self.train, records),
                            self.view,
                            self.settings,
                            seed=self.seed + draw,
                            progress=lambda: bar.advance(task),
                        )
                        found[name].append(self._accuracy(weights))
                    done = bar.tasks[0].completed
                    left = (time.monotonic() - began) * (steps / done - 1) if done else 0.0
                    console.print(
                        f"{len(records)} labels, draw {draw + 1} of {len(drawn)}: "
                        f"{100 * found['fine_tuned'][-1]:.1f} %  {left:.0f} s left"
                    )
                accuracies = {name: tuple(values) for name, values in found.items()}
                results.append(LabelShare(share=share, labels=len(drawn[0]), **accuracies))
        return results

    def _probe(self, records: np.ndarray) -> float:
        labels = np.asarray(self.train.labels)[records]
        alone = np.unique(labels, return_counts=True)[1].max() == 1
        return linear_probe(
            self.features[records],
            labels,
            self.test_features,
            np.asarray(self.test.labels),
            l2=_ONE_LABEL_L2 if alone else L2_GRID,
            seed=self.seed,
        ).accuracy

    def _accuracy(self, weights: Weights) -> float:
        classifier = dataclasses.replace(self.classifier, arrays=weights)
        logits = embed_source({"": classifier}, self.test, self.batch_size)[""]
        return float(np.mean(logits.argmax(1) == np.asarray(self.test.labels)))


def networks_to_tune(method: Method) -> Networks:
    """What makes a method's features.

    Where batch statistics are of groups, they become those of the whole batch, which has no keys to
    hide from and may be of any size.

    Raises:
      ValueError: if the method's features are not those of an encoder.
    """
    if not isinstance(method, EncoderMethod):
        raise ValueError(
            f"{type(method).__name__} has no encoder to fine-tune: it is no methods.EncoderMethod"
        )
    return {
        name: module.clone(batch_norm_groups=None)
        if getattr(module, "batch_norm_groups", None) is not None
        else module
        for name, module in method.feature_networks.items()
    }


def _describe(results: Sequence[LabelShare], run: RestoredRun, tested: int, path: Path) -> str:
    def cell(accuracies: tuple[float, ...]) -> str:
        mean = f"{100 * np.mean(accuracies):.1f}"
        return mean + (f"±{100 * np.std(accuracies, ddof=1):.1f}" if len(accuracies) > 1 else "")

    rows = [
        [
            f"{100 * result.share:g} % ({result.labels:,})",
            cell(result.linear),
            cell(result.fine_tuned),
            cell(result.from_scratch),
        ]
        for result in results
    ]
    return "\n".join(
        [
            *(f"note: passed over a checkpoint: {reason}" for reason in run.passed_over),
            f"After step {run.step}, with a share of the labels, the same number of each class:",
            "",
            markdown_table(["labels", "linear probe", "fine-tuned", "from scratch"], rows),
            "",
            f"Accuracy in % on {tested:,} test examples (±: between draws of the labels).",
            f"Figures: {path}",
        ]
    )
