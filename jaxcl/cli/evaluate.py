"""`jaxcl evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxcl.cli.configs import OTHER_PARTS, experiment_of

if TYPE_CHECKING:
    from jaxcl.training import Experiment


def add(verbs: Any) -> None:
    """Adds the verb to those of the program."""
    parser = verbs.add_parser("evaluate", help="measure what a run has learned")
    parser.add_argument("run_dir", metavar="RUN_DIR")
    parser.add_argument("--config", metavar="CONFIG", help=OTHER_PARTS)
    parser.add_argument(
        "--corruptions",
        nargs="*",
        type=int,
        metavar="SEVERITY",
        help="corrupt the test images too, at severities 1 to 5 (default: all)",
    )
    parser.set_defaults(
        run=lambda known: evaluate(Path(known.run_dir), known.config, known.corruptions)
    )


def evaluate(
    directory: Path, config: "str | Experiment | None", corruptions: list[int] | None = None
) -> int:
    """Measures what a run has learned, and prints it."""
    from jaxcl.evaluation.corruptions import SEVERITIES
    from jaxcl.evaluation.runs import evaluate_run

    if config is None or isinstance(config, str):
        config = experiment_of(directory, config)
    severities = () if corruptions is None else corruptions or SEVERITIES
    print(evaluate_run(directory, config, severities=severities))
    return 0
