"""Image encoders from others' checkpoints: each name in its place, features as PyTorch's."""

import numpy as np
import pytest
from weights import CASES, GOLDEN, IMAGES, LARGE, arrays_of, write

from jaxcl.pretrained import load_images

OPTIONS = {"open_clip quick": {"activation": "quick_gelu"}}
LAYOUTS = [pytest.param(case, marks=[pytest.mark.slow] if case in LARGE else []) for case in CASES]


def deviation(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("case", LAYOUTS)
def test_features_are_those_of_pytorch(tmp_path, case):
    model = load_images(write(tmp_path / "m", case), **OPTIONS.get(case, {}))
    found = model(IMAGES, batch_size=4)
    assert deviation(found, GOLDEN[f"{case}/features"]) < 1e-4
