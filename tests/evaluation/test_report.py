import dataclasses
import io
import json

import numpy as np
import pytest
from rich.console import Console
from sklearn.datasets import load_digits

from jaxcl.evaluation import (
    alignment,
    clustering,
    effective_rank,
    fit_whitening,
    knn_accuracy,
    label_efficiency,
    lidar,
    linear_probe,
    mean_average_precision_at_r,
    measure_representations,
    rankme,
    report_markdown,
    report_table,
    uniformity,
)

DIGITS = load_digits()
TRAIN, TEST = DIGITS.data[:300], DIGITS.data[300:400]
TRAIN_LABELS, TEST_LABELS = DIGITS.target[:300], DIGITS.target[300:400]
WEIGHTS = np.random.default_rng(0).standard_normal((64, 64))
RANDOM = np.maximum(TRAIN @ WEIGHTS, 0), np.maximum(TEST @ WEIGHTS, 0)


def measure(**options):
    return measure_representations(
        {"raw input": (TRAIN, TEST), "untrained encoder": RANDOM},
        TRAIN_LABELS,
        TEST_LABELS,
        views={"raw input": (TEST, TEST[:, ::-1], TEST**2)},
        k=5,
        draws=3,
        seed=4,
        **options,
    )


@pytest.fixture(scope="module")
def report():
    return measure()


@pytest.mark.slow
def test_every_score_is_that_of_its_function(report):
    raw, untrained = report.scores["raw input"], report.scores["untrained encoder"]
    parts = RANDOM[0], TRAIN_LABELS, RANDOM[1], TEST_LABELS
    assert untrained.knn == knn_accuracy(*parts, k=5)
    assert untrained.linear == linear_probe(*parts, seed=4)
    assert untrained.few_labels == label_efficiency(*parts, draws=3, seed=4)
    assert untrained.alignment is None
    assert raw.alignment == alignment(TEST, TEST[:, ::-1])
    assert raw.lidar == lidar(np.stack([TEST, TEST[:, ::-1], TEST**2], axis=1))
    assert untrained.lidar is None
    assert untrained.map_at_r == mean_average_precision_at_r(RANDOM[1], TEST_LABELS)
    clusters = clustering(RANDOM[1], TEST_LABELS, restarts=3, seed=4)
    assert (untrained.nmi, untrained.ari) == (clusters.nmi, clusters.ari)
    assert raw.uniformity == uniformity(TEST)
    assert raw.rankme == rankme(TEST)
    assert raw.effective_rank == effective_rank(TEST)
    assert (report.train_examples, report.test_examples, report.k) == (300, 100, 5)


@pytest.mark.slow
def test_neighbours_of_whitened_features_stand_beside_the_others(report):
    found = measure(whiten=20)
    whitening = fit_whitening(RANDOM[0], 20)
    whitened = knn_accuracy(
        whitening(RANDOM[0]), TRAIN_LABELS, whitening(RANDOM[1]), TEST_LABELS, k=5
    )
    assert found.scores["untrained encoder"].whitened_knn == whitened
    for name, score in report.scores.items():
        assert score.whitened_knn is None
        assert dataclasses.replace(found.scores[name], whitened_knn=None) == score
    assert "kNN whitened" in report_markdown(found)
    assert "kNN whitened" not in report_markdown(report)


def test_report_is_json(report):
    data = json.loads(json.dumps(report.as_dict()))
    assert data["scores"]["raw input"]["few_labels"][1]["labels_per_class"] == 5
    assert data["scores"]["raw input"]["linear"]["converged"] is True
    assert data["scores"]["untrained encoder"]["alignment"] is None


def test_markdown_holds_the_figures_in_aligned_columns(report):
    lines = report_markdown(report).splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == [
        *("representation", "kNN", "linear", "1 label", "5 labels", "10 labels")
    ]
    assert [cell.strip() for cell in lines[5].strip("|").split("|")] == [
        *("representation", "mAP@R", "NMI", "ARI", "alignment", "uniformity", "RankMe", "LiDAR")
    ]
    assert len({len(line) for line in lines[:4]}) == len({len(line) for line in lines[5:9]}) == 1
    raw = report.scores["raw input"]
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    few = raw.few_labels[1]
    assert cells[0] == "raw input"
    assert cells[1] == f"{100 * raw.knn:.1f}"
    assert cells[4] == f"{100 * few.mean:.1f}±{100 * few.std:.1f}"
    cells = [cell.strip() for cell in lines[7].strip("|").split("|")]
    assert cells[1] == f"{100 * raw.map_at_r:.1f}"
    assert cells[6] == f"{raw.rankme:.1f}/64"
    assert cells[7] == f"{raw.lidar:.1f}"
    assert "300 training and 100 test examples" in lines[-1]


def test_terminal_table_shows_every_figure_at_110_columns(report):
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(report_table(report))
    printed = console.export_text()
    lines = report_markdown(report).splitlines()
    for cell in (lines[3] + lines[8]).strip("|").split("|"):
        assert cell.strip() in printed
    assert "…" not in printed


def test_without_labels_there_is_geometry_only():
    report = measure_representations({"a": (TRAIN, TEST)})
    assert report.scores["a"].knn is None
    assert report.scores["a"].few_labels == ()
    assert report_markdown(report).splitlines()[0].split() == [
        *("|", "representation", "|", "uniformity", "|", "RankMe", "|")
    ]
    assert "no labels" in report_markdown(report)


def test_collapse_is_said():
    report = measure_representations({"a": (TRAIN, np.ones((100, 64))), "b": (TRAIN, TEST)})
    lines = report_markdown(report).splitlines()
    assert lines[2].startswith("| a (collapsed) ")
    assert lines[3].startswith("| b  ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_labels": None}, "test_labels is None: accuracies need labels of both parts"),
        ({"train_labels": None}, "train_labels is None"),
        ({"train_labels": np.zeros(300, int)}, "raw: train_labels hold class 0 alone"),
        ({"train_labels": TRAIN_LABELS[:5]}, r"train_labels has shape \(5,\), expected \(300,\)"),
        ({"representations": {}}, "representations is empty"),
        (
            {"representations": {"raw": (TRAIN, np.full((100, 64), np.nan))}},
            "raw: test features holds NaN or infinity in 100 of 100 rows",
        ),
        ({"views": {"rew": (TEST, TEST)}}, "views names .'rew'."),
        ({"k": 301}, "raw: k is 301, but there are only 300"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {
        "representations": {"raw": (TRAIN, TEST)},
        "train_labels": TRAIN_LABELS,
        "test_labels": TEST_LABELS,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        measure_representations(**arguments)


def test_representations_of_other_examples_are_refused():
    with pytest.raises(ValueError, match=r"a \(300, 100\), b \(9, 100\)"):
        measure_representations({"a": (TRAIN, TEST), "b": (TRAIN[:9], TEST)})
