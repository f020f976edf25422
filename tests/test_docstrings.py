"""The examples in docstrings run."""

import doctest
import importlib
import pkgutil

import pytest

import jaxcl

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
        "encoders.efficientnet",
        "encoders.series",
        "encoders.sound",
        "encoders.speech",
        "losses.clusters",
        "losses.covariance",
        "losses.gaussianity",
        "losses.hard_negatives",
        "losses.labelled_pairs",
        "losses.miners",
        "losses.speakers",
        "losses.supervised",
        "losses.times",
        "memory.bank",
        "memory.choosing",
        "methods.gradient_cache",
        "methods.micro_batches",
        "sklearn",
        "testing",
    )
}


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
