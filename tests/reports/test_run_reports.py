"""Reports: every part is there, whatever a run is like, and nothing in it is taken for HTML."""

import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser

import jax
import numpy as np
import pytest
from short_runs import CONFIG, QUICK, quickstart

from jaxcl import augment, data, encoders, methods, training
from jaxcl.cli import main
from jaxcl.reports import html, report, write_report
from jaxcl.reports.curves import charts, thinned
from jaxcl.reports.examples import Examples
from jaxcl.reports.maps import feature_map, project
from jaxcl.reports.mistakes import confusion, neighbours, not_found
from jaxcl.reports.settings import flat, settings
from jaxcl.training import UserError, restore_run

EVIL = "<script>alert('a')</script>&\"</td>"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return quickstart(tmp_path_factory)


def titles(content):
    return re.findall(r"<h2[^>]*>([^<]*)</h2>", content)


class Checker(HTMLParser):
    """Elements that are closed as they were opened, and what scripts and images there are."""

    VOID = frozenset({"meta", "link", "img", "br", "circle", "path", "use", "rect", "input"})

    def __init__(self):
        super().__init__()
        self.open, self.images, self.scripts, self.ids = [], [], 0, []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if "id" in given and not self.open.count("svg"):
            self.ids.append(given["id"])
        if tag == "img":
            self.images.append(given)
        if tag == "script":
            self.scripts += 1
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        if tag == "img":
            self.images.append(dict(attributes))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def checked(content):
    """Parses a page: well-formed, whole in itself, every picture described."""
    checker = Checker()
    checker.feed(content)
    assert checker.open == []
    assert all(image["src"].startswith("data:") and image["alt"] for image in checker.images)
    assert len(checker.ids) == len(set(checker.ids))
    addresses = re.findall(r'(?:src|href)="([^"]*)"', content)
    assert all(address.startswith(("data:", "#")) for address in addresses)
    return checker


class Pictures:
    """A source of one-coloured pictures."""

    def __init__(self, count, labels=None, names=None):
        self.count, self.labels = count, labels
        self.label_names = names
        self.names = [f"{number} {EVIL}" for number in range(count)]

    def __len__(self):
        return self.count

    def __getitem__(self, record):
        found = {"image": np.full((4, 4, 1), record % 256, np.uint8), "replaced": False}
        return found if self.labels is None else found | {"label": self.labels[record]}


def examples(count, classes=None, *, seed=0, noise=0.1, names=None):
    random = np.random.default_rng(seed)
    labels = None if classes is None else np.arange(count, dtype=np.int32) % classes
    features = random.normal(size=(count, 8)).astype(np.float32)
    if labels is not None:
        features = np.eye(8, dtype=np.float32)[labels % 8] + noise * features
    return Examples(Pictures(count, labels, names), "image", features, str)


def test_a_thinned_curve_keeps_its_course():
    steps = np.arange(100_000.0)
    values = np.sin(steps / 20_000)
    values[::1000] = np.nan
    thin_steps, thin = thinned(steps, values)
    assert len(thin) == 400
    np.testing.assert_allclose(thin, np.sin(thin_steps / 20_000), atol=1e-4)
    few = thinned(steps[:5], np.array([1, np.inf, 2, np.nan, 3]))
    np.testing.assert_array_equal(few, [[0, 2, 4], [1, 2, 3]])


def test_curves_of_nothing_of_one_step_and_of_what_is_no_number():
    row = {"step": 1, "loss": 3.0, "chance_loss": 4.0, "gradient_norm": 0.0}
    bad = [row, {**row, "step": 2, "loss": float("nan")}, {**row, "step": 3, "loss": float("inf")}]
    shown, odd = charts({"one": [row], "none": [], "bad": bad})
    assert odd == ["bad: the loss is not a number in 2 rows, first at step 2"]
    assert "one ends at 3; bad ends at 3" in shown
    assert charts({"none": []})[1] == []


def test_settings_say_what_differs():
    first = {"method": {"class": "A", "temperature": 0.1}, "views": [{"size": 8}], "empty": {}}
    second = {"method": {"class": "A", "temperature": 0.2}, "views": [{"size": 8}], "more": [1, 2]}
    assert flat(second)["views.0.size"] == "8"
    content = settings({"one": first, "two": second})
    differing = content[: content.index("<details>")]
    for path in ("method.temperature", "more", "empty"):
        assert path in differing
    assert "views.0.size" not in differing
    assert "do not differ" in settings({"one": first, "two": first})


def test_nothing_is_taken_for_html():
    names = tuple(f"{EVIL}{number}" for number in range(3))
    some = examples(30, 3, names=names, noise=2.0)
    parts = [
        feature_map(some, "pca"),
        confusion(some, some, same=True),
        neighbours(some, some, same=True),
        not_found(some, examples(30, 3, seed=1), what=EVIL),
        settings({EVIL: {"a": EVIL}}),
        html.table([EVIL], [[EVIL, EVIL]], caption=EVIL),
    ]
    content = html.page(EVIL, EVIL, [html.Section(EVIL, "".join(parts))])
    assert "<script>alert" not in content
    assert checked(content).scripts == 2  # the map's data and the page's own
    held = re.search(r'<script type="application/json">(.*?)</script>', content)[1]
    assert json.loads(held)["words"][0] == f"0 {EVIL} ({EVIL}0)"[:200]


@pytest.mark.parametrize("kind", ["pca", "tsne"])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 40])
def test_maps_of_few_and_many(kind, count):
    places, name = project(examples(count).features, kind)
    assert places.shape == (count, 2)
    assert np.isfinite(places).all()
    assert name == ("PCA" if kind == "pca" or count < 6 else "t-SNE")
    np.testing.assert_array_equal(places, project(examples(count).features, kind)[0])


def test_a_map_shows_what_is_alike_together():
    some = examples(60, 3)
    places, _ = project(some.features, "tsne")
    labels = some.source.labels
    far = np.linalg.norm(places[:, None] - places, axis=-1)
    np.fill_diagonal(far, np.inf)
    assert (labels[far.argmin(1)] == labels).mean() > 0.9


def test_of_many_classes_the_most_frequent_are_coloured():
    labels = np.concatenate([np.zeros(50, np.int32), np.arange(10_000, dtype=np.int32)[:500]])
    features = np.random.default_rng(0).normal(size=(550, 8)).astype(np.float32)
    names = tuple(f"class {number}" for number in range(10_000))
    some = Examples(Pictures(550, labels, names), "image", features, str)
    content = feature_map(some, "pca")
    assert "491 other classes" in content
    assert "class 0</li>" in content
    pairs = confusion(some, some, same=True)
    assert pairs.count("<tr>") <= 26
    assert "the most confused" in pairs


def test_confusion_counts():
    gallery, queries = examples(40, 4), examples(20, 4, seed=1)
    queries.features[0] = gallery.features[1]  # of class 0, looks like class 1
    content = confusion(gallery, queries, same=False)
    assert "95.0 % of 20 queries right" in content
    first = re.search(r'<tr><th scope="row">0</th>(.*?)</tr>', content)[1]
    assert re.findall(r"<td[^>]*>(\d*)</td>", first) == ["4", "1", "", ""]
    assert "Surest mistakes" in content


def test_partners_that_are_not_found_come_farthest_first():
    first = Examples(Pictures(6), "image", np.eye(6, dtype=np.float32), str)
    moved = np.eye(6, dtype=np.float32)
    moved[2] = -np.eye(6)[2] - 0.1 * np.eye(6)[3]  # its partner comes last
    content = not_found(first, dataclasses.replace(first, features=moved), what="a to b")
    assert "first for 83.3 % of 6 records" in content
    assert "partner, place 6" in content
    assert content.count('class="strip"') == 1


def test_a_collapsed_encoder_finds_nothing():
    same = Examples(Pictures(20), "image", np.ones((20, 4), np.float32), str)
    content = not_found(same, same, what="a to b")
    assert "first for 5.0 % of 20 records" in content


@pytest.mark.slow
def test_a_run_is_shown(run, capsys):
    assert main(["report", str(run)]) == 0
    assert "report.html" in capsys.readouterr().out
    content = (run / "report.html").read_text()
    checked(content)
    assert titles(content) == [
        *("Curves", "Figures", "Views", "Nearest neighbours", "Map", "Confusion"),
        *("Settings", "Environment"),
    ]
    assert "Cannot be shown" not in content
    assert "20 nearest of 1,500 examples" in content
    assert "method.encoder.widths" in content
    assert jax.__version__ in content


@pytest.mark.slow
def test_two_runs_are_compared(run, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    config = json.loads((other / "config.json").read_text())
    config["method"]["temperature"] = 0.7
    (other / "config.json").write_text(json.dumps(config))
    out = str(tmp_path / "both.html")
    assert main(["report", str(run), str(other), "--out", out, "--map", "pca"]) == 0
    content = (tmp_path / "both.html").read_text()
    checked(content)
    differing = content[content.index("What differs") :]
    assert "method.temperature" in differing[: differing.index("<details>")]
    assert "<h3>other</h3>" in content
    assert main(["report", str(run), str(run), "--out", out]) == 2
    assert "is given twice" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_without_a_checkpoint_shows_its_curves(run, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(run, bare, ignore=shutil.ignore_patterns("checkpoints", "*.json*"))
    for name in ("config.json", "facts.json", "metrics.jsonl"):
        shutil.copy(run / name, bare)
    write_report([bare], tmp_path / "r.html")
    content = (tmp_path / "r.html").read_text()
    checked(content)
    assert "no checkpoint" in content
    assert content.count("Cannot be shown") >= 3
    (bare / "metrics.jsonl").unlink()
    write_report([bare], tmp_path / "r.html")
    assert "bare: no step was logged." in (tmp_path / "r.html").read_text()


@pytest.mark.slow
def test_a_hundred_thousand_steps(run, tmp_path):
    long = tmp_path / "long"
    shutil.copytree(run, long)
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    rows = (json.dumps({**row, "step": step, "loss": 1 / step}) for step in range(1, 100_001))
    (long / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    write_report([run], tmp_path / "short.html", kind="pca")
    write_report([long], tmp_path / "long.html", kind="pca")
    sizes = [(tmp_path / f"{name}.html").stat().st_size for name in ("short", "long")]
    assert sizes[1] < 2 * sizes[0]


@pytest.mark.slow
def test_features_that_are_no_numbers(run, tmp_path, monkeypatch):
    def broken(*arguments):
        found = restore_run(*arguments)
        params = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), found.state.params)
        return dataclasses.replace(found, state=dataclasses.replace(found.state, params=params))

    monkeypatch.setattr(report, "restore_run", broken)
    write_report([run], tmp_path / "r.html")
    content = (tmp_path / "r.html").read_text()
    assert content.count("are not all numbers: training diverged") == 3
    assert titles(content)[-2:] == ["Settings", "Environment"]


@pytest.mark.slow
def test_texts_of_classes_in_a_run_are_escaped(tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    labels = np.array([f"{EVIL} {number % 3}" for number in range(40)])
    np.savez(tmp_path / "d.npz", image=images, label=labels)
    source = data.Arrays(str(tmp_path / "d.npz"), label="label")
    experiment = training.Experiment(
        data=source,
        views=augment.crops(8),
        method=methods.SimCLR(encoders.SmallCNN((4,)), encoders.simclr_v1_projector(4)),
        train=training.Train(batch_size=20, epochs=0.5),
        run=training.Run(devices=1),
    )
    training.train(experiment, tmp_path / "run")
    write_report([tmp_path / "run"], tmp_path / "r.html")
    content = (tmp_path / "r.html").read_text()
    checked(content)
    assert "<script>alert" not in content
    assert "Cannot be shown" not in content
    assert "SimCLR, step 1" in content


@pytest.mark.slow
def test_it_is_kept_fresh_while_a_run_trains(tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", CONFIG, "--out", str(run), *QUICK, "--report-every", "2"]) == 0
    assert "report of run" in capsys.readouterr().err
    checked((run / "report.html").read_text())


def test_what_cannot_be_is_said(tmp_path, capsys):
    with pytest.raises(UserError, match=r"ends in \.html"):
        write_report([tmp_path], tmp_path / "r.pdf")
    with pytest.raises(UserError, match="expected one of pca, tsne, umap"):
        write_report([tmp_path], tmp_path / "r.html", kind="mds")
    with pytest.raises(UserError, match="1 to 10 runs, got 11"):
        write_report([tmp_path] * 11, tmp_path / "r.html")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"a":')
    assert main(["report", str(tmp_path / "run")]) == 2
    assert "config.json is damaged" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()
    capsys.readouterr()
    assert main(["report", str(tmp_path)]) == 2
    assert "is not a run directory" in capsys.readouterr().err
    assert main(["train", "c.py", "--report-every", "0"]) == 2
    assert "--report-every is 0" in capsys.readouterr().err
