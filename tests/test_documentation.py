"""What the documentation shows, runs, and what it names, is there."""

import ast
import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path

import chex
import pytest

from jaxcl import augment, data, encoders, training
from jaxcl.cli import load_config
from jaxcl.cli.program import make_parser

ROOT = Path(__file__).parents[1]
README_BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(number, marks=[pytest.mark.slow] if "sklearn" in block else [])
        for number, block in enumerate(README_BLOCKS)
    ],
)
def test_readme_python_runs(number):
    names = {}
    exec(compile(README_BLOCKS[number], "README.md", "exec"), names)
    assert float(names["loss"]) > 0


PAGES = sorted((ROOT / "docs").glob("*.md"))
CODE = re.compile(r"<!-- setup\n(.*?)-->|```python\n(.*?)```", re.DOTALL)
WITH_CODE = [page for page in PAGES if "```python" in page.read_text()]
PRINTED = {
    "data": [r"24 \('cat', 'dog'\) \(16, 16, 3\)", r"80 int32"],
    "index": [r"0\.9"],
    "loops": ["linen 0.[89]", "nnx 0.[6-9]", "equinox 0.[6-9]", "haiku 0.[6-9]"],
    "time": [r"accuracy (0\.[1-9]|1\.)", r"\(1, 48, 8\) True"],
    "tutorial": [r"untrained: [89]\d", r"all of the batch: 9[5-9]", r"MoCo: 9[5-9]"],
    "weights": [r"\['config.json', 'model.safetensors'\] timm\nTrue"],
}
"""What pages print, in order."""


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.stem)
def test_every_block_of_a_page_runs(page, tmp_path, monkeypatch, capsys, hub):
    """In order, with one another's names, after what stands in comments that begin with setup."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    names = {"__name__": "__main__"}
    for setup, shown in CODE.findall(page.read_text()):
        exec(compile(setup or shown, page.name, "exec"), names)
    printed = capsys.readouterr().out
    expected = PRINTED.get(page.stem, [])
    assert re.search(".*".join(expected), printed, re.DOTALL), printed


def commands():
    """What pages and the README type, by page; lines that go on are one."""
    for page in [ROOT / "README.md", *PAGES]:
        text = re.sub(r" *\\\n +", " ", page.read_text())
        for line in re.findall(r"^    +(?:[A-Z_]+=\S+ )?(jaxcl .*)$", text, re.MULTILINE):
            yield pytest.param(line.split("  #")[0].strip(), id=f"{page.stem}: {line[:60]}")


@pytest.mark.parametrize("line", list(commands()))
def test_every_command_is_one(line, capsys):
    """Verbs and options are there, configs too, and their options are the experiment's."""
    arguments = [word for word in shlex.split(line) if not word.startswith("[")][1:]
    known, options = make_parser().parse_known_args(arguments)
    assert bool(options) <= known.dotted_options
    target = getattr(known, "target", None) or getattr(known, "config", None)
    if target is None or not target.startswith("configs/") or "*" in target or "NAME" in target:
        return
    assert (ROOT / target).is_file()
    taken = {part for part in options if part.startswith("--") and part != "--help"}
    experiment = load_config(ROOT / target)
    paths = {path.replace("_", "-") for path in dotted(experiment)}
    assert {name.removeprefix("--").replace("_", "-") for name in taken} <= paths


def dotted(part, path=""):
    """The paths of an experiment's values."""
    for field in dataclasses.fields(part):
        value, name = getattr(part, field.name), f"{path}{field.name}"
        yield name
        if dataclasses.is_dataclass(value):
            yield from dotted(value, f"{name}.")


@pytest.mark.slow
def test_the_site_is_built(tmp_path):
    """Strictly: every link and every name of the API is there."""
    pytest.importorskip("mkdocs")
    made = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    api = (tmp_path / "api" / "losses.html").read_text()
    assert "Example" in api
    assert "info_nce" in api


def test_every_loss_has_its_place_in_the_table():
    from jaxcl import losses

    document = (ROOT / "docs" / "losses.md").read_text()
    named = set(re.findall(r"`(?:encoders\.)?(\w+)`", document))
    types = {"ScaleAndBias", "PairMasks", "MinedTriplets"}
    assert set(losses.__all__) - types - named == set()
    tables = [line.split("|")[1] for line in document.splitlines() if line.startswith("| `")]
    assert {name for cell in tables for name in re.findall(r"`(\w+)`", cell)} <= {*losses.__all__}


def test_readme_has_its_two_commands():
    commands = re.findall(r"^ +(pip install -e .*&&.*)$", (ROOT / "README.md").read_text(), re.M)
    assert commands == [
        "pip install -e . && jaxcl train configs/quickstart.py",
        'pip install -e ".[test]" && pytest',
    ]


@pytest.mark.slow
def test_the_method_of_ones_own_is_the_same_on_devices():
    """That of docs/methods.md: by the trainer's step, on one device and on two."""
    text = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "methods.md").read_text(), re.DOTALL)
    names = {"__name__": "own"}
    exec(compile(text[0], "methods.md", "exec"), names)
    method = names["Centred"](encoders.SmallCNN((4,)), encoders.MLP((8,)))
    found = []
    for devices in (1, 2):
        setup = training.set_up(
            training.Experiment(
                data=data.Digits(),
                views=augment.Views((augment.RandomHorizontalFlip(),) * 2),
                method=method,
                train=training.Train(batch_size=32),
                run=training.Run(devices=devices),
            )
        )
        state = setup.start()
        for step in range(3):
            batch = data.batch_at(setup.source, step, batch_size=32, seed=0)
            batch.pop("replaced")
            state, metrics = setup.step(state, setup.devices.split(batch))
        found.append(({"loss": metrics["loss"]}, setup.fetch(state)))
    chex.assert_trees_all_close(*found, rtol=1e-5, atol=1e-6)
    assert float(metrics["mean_norm"]) > 0


ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
NAMED = re.findall(r"`([a-z_/]+\.py)`: ((?:`[A-Za-z_.]+`(?:, )?)+)", ARCHITECTURE)


def definitions(path):
    """Functions and classes of a file, and methods and attributes as Class.name."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        for inner in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(inner, ast.FunctionDef):
                found.add(f"{node.name}.{inner.name}")
    return found


@pytest.mark.parametrize(("file", "names"), NAMED, ids=lambda value: value[:40])
def test_what_the_architecture_page_names_is_there(file, names):
    assert set(re.findall(r"[A-Za-z_.]+", names)) <= definitions(ROOT / "jaxcl" / file)


def test_the_architecture_page_names_files_and_functions():
    assert len(NAMED) > 30
