"""Importing a part of jaxcl pays for that part alone: seen by the modules it leaves loaded."""

import subprocess
import sys

import pytest

HEAVY = {"flax", "optax", "orbax", "tensorflow_datasets", "matplotlib", "sklearn", "grain", "PIL"}


@pytest.mark.parametrize(
    "statement", ["import jaxcl", "from jaxcl import losses, memory, similarity, testing"]
)
def test_no_heavy_module_is_loaded(statement):
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "jaxcl" in loaded
    assert not HEAVY & loaded


def test_import_jaxcl_loads_no_submodule():
    code = "import sys, jaxcl; print(*(name for name in sys.modules if name.startswith('jaxcl.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.split()
