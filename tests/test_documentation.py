"""What the documentation shows, runs: docstring examples and the README's Python."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import jaxcl

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    module.name for module in pkgutil.walk_packages(jaxcl.__path__, "jaxcl.") if not module.ispkg
)
# Examples run operation by operation; those of these modules compile many.
SLOW = {
    f"jaxcl.{name}"
    for name in (
        "augment.auto_augment",
        "augment.blur",
        "augment.color",
        "augment.geometry",
        "augment.transforms",
        "encoders.cnn",
        "encoders.norm",
        "losses.clusters",
        "losses.covariance",
        "losses.hard_negatives",
        "losses.labelled_pairs",
        "losses.miners",
        "memory.bank",
        "memory.choosing",
        "methods.gradient_cache",
        "methods.micro_batches",
        "testing",
    )
}
README_BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_slow_modules_exist():
    assert set(MODULES) >= SLOW


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in MODULES],
)
def test_docstring_examples(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


@pytest.mark.parametrize("number", range(len(README_BLOCKS)))
def test_readme_python_runs(number):
    names = {}
    exec(compile(README_BLOCKS[number], "README.md", "exec"), names)
    assert float(names["loss"]) > 0


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
