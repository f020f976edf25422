"""What was measured of a run, for those who track it."""

import json
from pathlib import Path

from jaxcl.training import RestoredRun, RunDirectory
from jaxcl.training.trackers import trackers

_TRAINED = "trained encoder"


def track_evaluation(run: RestoredRun, directory: Path) -> None:
    """Gives trackers what evaluation.json and tasks.json say of the trained encoder."""
    if run.experiment.run.trackers:
        with trackers(run.experiment, directory, from_step=None) as found:
            for one in found:
                one.log(run.step, evaluated(RunDirectory(directory)))


def evaluated(files: RunDirectory) -> dict[str, float]:
    """Figures of the trained encoder, such as `eval/knn_top1` and `eval/TASK/FIGURE`."""
    figures: dict[str, float] = {}
    if files.evaluation.is_file():
        scores = json.loads(files.evaluation.read_text())["scores"].get(_TRAINED, {})
        if "knn" in scores:
            figures["eval/knn_top1"] = scores["knn"]
        if "linear" in scores:
            figures["eval/linear_top1"] = scores["linear"]["accuracy"]
    if files.tasks.is_file():
        for task, by_features in json.loads(files.tasks.read_text())["tasks"].items():
            for figure, value in by_features.get(_TRAINED, {}).items():
                figures[f"eval/{task}/{figure}"] = value
    return figures
