"""Networks of ours in a folder: safetensors, and a config.json that says what they are."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxcl.methods.networks import forward
from jaxcl.pretrained.files import read_json, read_weights, write_weights
from jaxcl.pretrained.hub import local_path
from jaxcl.training.config_json import from_data, to_data
from jaxcl.training.state import name_leaves

_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Networks in a row, and what they have learned."""

    networks: Mapping[str, nn.Module]
    """By name, in order: an encoder, and a projector where it was kept."""
    params: Mapping[str, Any]
    """Parameters, by network."""
    batch_stats: Mapping[str, Any]
    """Batch statistics, by network."""
    about: Mapping[str, Any]
    """What else the folder says: `inputs`, shape and type of an example; `method`; `jaxcl`, the
    version that wrote it."""

    def __call__(self, inputs: Any) -> jax.Array:
        """What the last network makes of inputs [N, ...], prepared as `about` says."""
        return _apply(_Row(tuple(self.networks.items())), self.params, self.batch_stats, inputs)


@dataclasses.dataclass(frozen=True)
class _Row:
    """Networks as a static argument of a program."""

    networks: tuple[tuple[str, nn.Module], ...]


@functools.partial(jax.jit, static_argnums=0)
def _apply(row: _Row, params: Any, batch_stats: Any, inputs: jax.Array) -> jax.Array:
    return forward(dict(row.networks), params, batch_stats, inputs)[0]


def save_pretrained(folder: str | os.PathLike[str], model: Pretrained) -> None:
    """Writes networks of jaxcl's own.

    Args:
      folder: made if need be; model.safetensors and config.json in it are replaced.
      model: the networks, of jaxcl's classes.

    Raises:
      ValueError: for a network of another's class, which the folder could not name.
      ImportError: where safetensors is not installed.
      OSError: if it cannot be written.
    """
    for name, network in model.networks.items():
        if type(network).__module__.split(".")[0] != "jaxcl":
            raise ValueError(
                f"{name} is a {type(network).__qualname__} of your own, which another machine does "
                "not have: save its arrays by safetensors, or take to='stablehlo'"
            )
    networks = {name: to_data(network) for name, network in model.networks.items()}
    config = {"library": "jaxcl", "format": _FORMAT, "networks": networks, **model.about}
    arrays = name_leaves({"params": model.params, "batch_stats": model.batch_stats})
    numpy = {name: np.asarray(array) for name, array in arrays.items()}
    write_weights(Path(folder).expanduser(), numpy, config)


def from_pretrained(folder: str | os.PathLike[str], *, revision: str | None = None) -> Pretrained:
    """Reads what `save_pretrained`, or `jaxcl export --to safetensors`, wrote.

    Args:
      folder: the folder, or a repository of the hub, "owner/name", as `local_path` takes them.
      revision: of the repository.

    Raises:
      FileNotFoundError: if config.json or the weights are missing, or the repository is.
      ConnectionError: if the hub cannot be reached.
      ValueError: for a folder of another library or a later format, damaged files, or arrays that
        are missing, left over or misshapen, all named.
      ImportError: where safetensors or, for the hub, huggingface_hub is not installed.
    """
    folder = local_path(folder, revision)
    config = read_json(folder / "config.json")
    if config.get("library") != "jaxcl":
        raise ValueError(
            f"{folder} was not written by jaxcl: load_images, load_text and load_clip read models "
            "of others"
        )
    if config.get("format") != _FORMAT:
        raise ValueError(
            f"{folder} has format {config.get('format')!r}, and this version of jaxcl reads "
            f"{_FORMAT}: it was written by another version, {config.get('jaxcl')}"
        )
    try:
        networks = {name: from_data(data) for name, data in config["networks"].items()}
        shape, dtype = config["inputs"]["shape"], np.dtype(config["inputs"]["dtype"])
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / 'config.json'} is damaged: {error}") from error
    for name, network in networks.items():
        if not isinstance(network, nn.Module):
            raise ValueError(f"{folder / 'config.json'}: {name} is no network")
    arrays = read_weights(folder)
    inputs = jax.ShapeDtypeStruct((1, *shape), dtype)
    wanted: dict[str, dict[str, Any]] = {"params": {}, "batch_stats": {}}
    for name, network in networks.items():
        outputs, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), inputs)
        inputs = outputs
        for collection in wanted:
            wanted[collection][name] = variables.get(collection, {})
    _check_arrays(arrays, name_leaves(wanted), folder)
    found = jax.tree_util.tree_map_with_path(
        lambda path, _: arrays[jax.tree_util.keystr(path, simple=True, separator="/")], wanted
    )
    known = ("library", "format", "networks")
    about = {name: value for name, value in config.items() if name not in known}
    return Pretrained(networks, found["params"], found["batch_stats"], about)


def _check_arrays(
    arrays: Mapping[str, np.ndarray], wanted: Mapping[str, Any], folder: Path
) -> None:
    problems = [f"missing: {name}" for name in wanted if name not in arrays]
    problems += [f"left over: {name}" for name in arrays if name not in wanted]
    problems += [
        f"misshapen: {name} is {list(arrays[name].shape)}, expected {list(leaf.shape)}"
        for name, leaf in wanted.items()
        if name in arrays and arrays[name].shape != leaf.shape
    ]
    if problems:
        raise ValueError(
            f"the weights in {folder} do not fit its config.json:\n  " + "\n  ".join(problems)
        )
