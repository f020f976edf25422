"""Files of weights, read without running anything that is in them."""

import json
import os
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxcl.extras import import_extra
from jaxcl.training.durable_files import write_durably

SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".bin", ".ckpt", ".tar")
"""Of files that hold weights."""
IN_FOLDER = (
    "model.safetensors.index.json",
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
)
"""Of a folder, the first of these that it has."""
_NO_WEIGHTS = ("optimizer", "scheduler", "lr_sched", "amp", "scaler", "rng", "callbacks", "loops")
"""Beginnings of what else checkpoints hold."""


def read_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All arrays of a file, or of a folder as transformers saves it.

    Dictionaries within one another are one, names joined by dots; what belongs to an optimizer is
    left out.

    Args:
      path: .safetensors or .npz; .pth, .pt, .bin, .ckpt or .tar as torch saves them, read by its
        `weights_only` (`pip install "jaxcl[torch]"`); or a folder with model.safetensors, its
        index, or pytorch_model.bin.

    Returns:
      Arrays by name.

    Raises:
      FileNotFoundError: if there is no such file, or none in the folder.
      ValueError: for a damaged file, one that holds code or Python objects, or no arrays.
      ImportError: where safetensors or torch is not installed.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        found = next((path / name for name in IN_FOLDER if (path / name).is_file()), None)
        if found is None:
            raise FileNotFoundError(
                f"{path} holds no weights: expected one of {', '.join(IN_FOLDER)}"
            )
        path = found
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: give a file of weights, or a folder with one")
    if path.name.endswith(".index.json"):
        arrays: dict[str, np.ndarray] = {}
        for name in sorted(set(read_json(path).get("weight_map", {}).values())):
            if Path(name).name != name:
                raise ValueError(f"{path} names {name!r}, which is not beside it")
            arrays |= read_weights(path.parent / name)
    elif path.suffix == ".safetensors":
        arrays = _read_safetensors(path)
    elif path.suffix == ".npz":
        arrays = _read_npz(path)
    elif path.suffix in SUFFIXES:
        arrays = _read_torch(path)
    else:
        raise ValueError(f"{path}: weights are read from {', '.join(SUFFIXES)}")
    if not arrays:
        raise ValueError(f"{path} holds no arrays")
    return arrays


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a model's folder, an object.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: give a folder as transformers saves a model")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: expected an object, got {type(found).__name__}")
    return found


def write_weights(folder: Path, arrays: Mapping[str, np.ndarray], config: Any) -> None:
    """Writes model.safetensors and, last, config.json: without it the folder is no model.

    Raises:
      ImportError: where safetensors is not installed.
      OSError: if they cannot be written.
    """
    library = import_extra("safetensors.numpy", "hub")
    folder.mkdir(parents=True, exist_ok=True)
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    content = library.save(whole, metadata={"format": "pt"})
    write_durably(folder / "model.safetensors", lambda file: file.write(content))
    # An index of an earlier model here would be read first.
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    write_durably(folder / "config.json", json.dumps(config, indent=2) + "\n")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    library = import_extra("safetensors", "hub")
    try:
        with library.safe_open(path, "flax") as file:  # flax: numpy has no bfloat16
            return {key: np.asarray(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
    except library.SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name.replace("/", "."): file[name] for name in file.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    except (ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} holds what is no array, or is damaged: {error}") from error


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    """What torch saved, by an unpickler that makes tensors and plain containers only."""
    import argparse

    torch = import_extra("torch", "torch")
    try:
        # Checkpoints of DINO and MoCo v3 hold their options so; it only keeps what it is given.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        said = str(error)
        if "Unsupported" in said or "global" in said.lower():
            reason = next((line for line in said.splitlines() if "GLOBAL" in line), "").strip()
            raise ValueError(
                f"{path} holds more than weights, and loading it could run code"
                f"{': ' + reason[:160] if reason else ''}. Have who made it save a state_dict, or "
                "safetensors"
            ) from error
        raise ValueError(f"{path} is damaged, or no file of torch: {said[:160]}") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is damaged, or no file of torch: {said[:160]}") from error
    arrays: dict[str, np.ndarray] = {}
    _flatten(content, "", arrays, torch)
    return arrays


def _flatten(content: Any, prefix: str, arrays: dict[str, np.ndarray], torch: Any) -> None:
    if isinstance(content, torch.Tensor):
        if content.is_floating_point():
            content = content.float()
        arrays[prefix.removesuffix(".")] = content.detach().numpy()
    elif isinstance(content, Mapping):
        for name, part in content.items():
            if not str(name).startswith(_NO_WEIGHTS):
                _flatten(part, f"{prefix}{name}.", arrays, torch)
