"""`jaxcl finetune`."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from jaxcl.cli.configs import OTHER_PARTS, experiment_of
from jaxcl.cli.exits import of_the_users


def add(verbs: Any) -> None:
    """Adds the verb to those of the program."""
    parser = verbs.add_parser("finetune", help="train a run's encoder on shares of the labels")
    parser.add_argument("run_dir", metavar="RUN_DIR")
    parser.add_argument("--config", metavar="CONFIG", help=OTHER_PARTS)
    parser.add_argument(
        "--labels",
        nargs="+",
        type=float,
        metavar="SHARE",
        help="shares of the labels (default: 0.01 0.1 1)",
    )
    parser.add_argument("--draws", type=int, default=3, help="subsets of a share (default: 3)")
    parser.add_argument("--epochs", type=float, help="passes over the labels (default: 30)")
    parser.add_argument("--batch-size", type=int, help="examples a step (default: 128)")
    parser.add_argument("--learning-rate", type=float, help="AdamW's, at its peak (default: 0.002)")
    parser.add_argument("--weight-decay", type=float, help="AdamW's (default: 0.05)")
    parser.add_argument(
        "--layer-decay", type=float, help="learning rate of a layer to the next (default: 0.75)"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides the draws (default: 0)")
    parser.set_defaults(run=finetune)


def finetune(known: argparse.Namespace) -> int:
    """Trains a run's encoder on shares of the labels, and prints how well."""
    from jaxcl.evaluation.fine_tuning import FineTuning
    from jaxcl.evaluation.semi_supervised import SHARES, finetune_run

    def given(*names: str) -> dict[str, Any]:
        return {name: getattr(known, name) for name in names if getattr(known, name) is not None}

    with of_the_users():
        defaults = FineTuning()
        optimizer = dataclasses.replace(
            defaults.optimizer, **given("learning_rate", "weight_decay")
        )
        settings = dataclasses.replace(
            defaults, optimizer=optimizer, **given("epochs", "batch_size", "layer_decay")
        )
    print(
        finetune_run(
            Path(known.run_dir),
            experiment_of(Path(known.run_dir), known.config),
            shares=known.labels or SHARES,
            draws=known.draws,
            settings=settings,
            seed=known.seed,
        )
    )
    return 0
