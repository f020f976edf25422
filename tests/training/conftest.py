"""What every test of training needs: an experiment, and a console."""

import pytest
from rich.console import Console
from small_runs import make_experiment, make_plain_experiment


@pytest.fixture
def quiet():
    """A console that keeps what is said."""
    return Console(record=True, width=200, file=open("/dev/null", "w"))


@pytest.fixture
def experiment():
    return make_experiment()


@pytest.fixture
def plain():
    return make_plain_experiment()
