"""Golden values: inputs, mean loss and gradients of public PyTorch code, computed in float64."""

import pathlib
from typing import NamedTuple

import numpy as np
import pytest

_FILE = pathlib.Path(__file__).parents[1] / "reference" / "losses.npz"


class Golden(NamedTuple):
    inputs: dict
    parameters: dict
    loss: float
    gradients: dict


@pytest.fixture(scope="session")
def golden():
    """Reads a case of the reference file by name."""
    with np.load(_FILE) as file:
        arrays = dict(file)

    def read(case):
        def section(name):
            prefix = f"{case}/{name}/"
            return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

        parameters = {name: value.item() for name, value in section("param").items()}
        return Golden(section("in"), parameters, arrays[f"{case}/loss"].item(), section("grad"))

    read.cases = {name.split("/")[0] for name in arrays}
    return read
