"""What the documentation shows, runs, and what it names, is there."""

import ast
import re
from pathlib import Path

import chex
import pytest

from jaxcl import augment, data, encoders, training

ROOT = Path(__file__).parents[1]
README_BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(README_BLOCKS)))
def test_readme_python_runs(number):
    names = {}
    exec(compile(README_BLOCKS[number], "README.md", "exec"), names)
    assert float(names["loss"]) > 0


TIME_BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "time.md").read_text(), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "printed"),
    [(0, r"accuracy (0\.[1-9]|1\.)"), (1, r"\(1, 48, 8\) True")],
    ids=["a loop of reinforcement learning", "live sound"],
)
def test_the_examples_of_time_run(number, printed, capsys):
    exec(compile(TIME_BLOCKS[number], "time.md", "exec"), {"__name__": "__main__"})
    assert re.search(printed, capsys.readouterr().out)


@pytest.mark.slow
def test_the_example_of_weights_runs(capsys):
    text = (ROOT / "docs" / "weights.md").read_text()
    block = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[-1]
    exec(compile(block, "weights.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == "['config.json', 'model.safetensors'] timm\nTrue\n"


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
