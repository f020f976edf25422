"""The checkpoints of tests/reference/weights.npz, made again from their names and shapes."""

import json
import sys
from pathlib import Path

import numpy as np
import safetensors.numpy

REFERENCE = Path(__file__).parents[1] / "reference"
sys.path.insert(0, str(REFERENCE))
from formula_weights import formula_images, formula_weights  # noqa: E402

GOLDEN = np.load(REFERENCE / "weights.npz")
SPEECH = ("wav2vec 2.0", "wav2vec 2.0 large", "HuBERT")
CASES = [name.removesuffix("/names") for name in GOLDEN.files if name.endswith("/names")]
CASES = [case for case in CASES if case not in SPEECH]
IMAGES = formula_images()[:, :64]
SOUND = formula_weights("sound", (2, 4000))


def arrays_of(case):
    """By the names of the checkpoint."""
    shapes = json.loads(str(GOLDEN[f"{case}/names"]))
    return {name: np.asarray(formula_weights(name, tuple(shape))) for name, shape in shapes.items()}


def write(folder, case, change=lambda arrays: None):
    """A file, or a folder where there is a config, that holds a case's arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = arrays_of(case)
    change(arrays)
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")
    if f"{case}/config" not in GOLDEN:
        return folder / "model.safetensors"
    (folder / "config.json").write_text(str(GOLDEN[f"{case}/config"]))
    return folder
