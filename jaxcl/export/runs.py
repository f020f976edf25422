"""The encoder of a run, written for others."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxcl
from jaxcl.augment import Normalize
from jaxcl.data.tokenizer import Tokenizer
from jaxcl.encoders.text import TextTransformer
from jaxcl.evaluation.embedding import evaluation_view, flatten
from jaxcl.export.cards import model_card
from jaxcl.export.onnx import onnx_model
from jaxcl.export.programs import stablehlo
from jaxcl.extras import MissingExtra
from jaxcl.methods import MultiModal
from jaxcl.methods.method import EncoderMethod
from jaxcl.methods.towers import named_tower
from jaxcl.pretrained import Pretrained, push_to_hub, save_images, save_pretrained, save_text
from jaxcl.pretrained.saving import LIBRARIES
from jaxcl.training import Experiment, RestoredRun, RunDirectory, UserError, restore_run
from jaxcl.training.durable_files import write_durably

PROGRAMS = {"stablehlo": "model.stablehlo", "onnx": "model.onnx"}
"""Formats that hold what is computed, and their files."""
FORMATS = ("safetensors", *LIBRARIES, *PROGRAMS)
"""Of `export_run`."""


@dataclasses.dataclass(frozen=True)
class Part:
    """What is written of a run: an encoder, or one of several towers."""

    field: str
    """Of the examples that it takes."""
    inputs: jax.ShapeDtypeStruct
    """One such example, prepared."""
    model: Pretrained
    embed: Callable[[jax.Array], jax.Array]
    """Features of a batch of examples as the data have them."""


def export_run(
    directory: Path,
    out: Path,
    *,
    to: str,
    tower: str | None = None,
    heads: bool = False,
    push: str | None = None,
    private: bool = False,
    experiment: Experiment | None = None,
) -> str:
    """Writes the encoder of a run, with a model card.

    Args:
      directory: the run.
      out: the folder that is made.
      to: "safetensors", for `jaxcl.pretrained.from_pretrained`; "torchvision", "timm" or
        "huggingface", for those; "stablehlo" or "onnx", a program.
      tower: name of a tower, where the run has several; None: the first.
      heads: with the projector, for safetensors and programs.
      push: a repository of the hub, "owner/name", to which it goes as `push_to_hub` has it.
      private: whether a repository that is made for it is.
      experiment: as `restore_run` has it.

    Returns:
      What was written, in words.

    Raises:
      UserError: for a run that is damaged or has no checkpoint, or what cannot be written so.
      FileNotFoundError: if the directory holds no run.
      OSError: if it cannot be written or pushed.
    """
    if to not in FORMATS:
        raise UserError(f"--to {to!r}: expected one of {', '.join(FORMATS)}")
    if heads and to in LIBRARIES:
        raise UserError(f"{to} has no place for a projector: leave --heads out")
    if push is not None and to in PROGRAMS:
        raise UserError("nothing but safetensors is pushed: leave --push out, or take another --to")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file, and a folder is written")
    run = restore_run(directory, experiment)
    try:
        part = part_of(run, tower, heads=heads)
        _write(run, part, out, to)
    except (ValueError, MissingExtra) as error:
        raise UserError(f"cannot export {directory} to {to}: {error}") from error
    main = out / PROGRAMS.get(to, "model.safetensors")
    content = main.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    card = model_card(
        run,
        to=to,
        networks=tuple(part.model.networks),
        file=main,
        digest=digest,
        repository=push,
    )
    write_durably(out / "README.md", card)
    names = " and ".join(part.model.networks)
    said = f"wrote {names} of step {run.step} for {to}: {main}, {len(content) / 1e6:.1f} MB"
    if push is not None:
        try:
            said += f"\npushed to {push_to_hub(out, push, private=private)}"
        except (ValueError, MissingExtra) as error:
            raise UserError(str(error)) from error
    return said


def part_of(run: RestoredRun, tower: str | None, *, heads: bool) -> Part:
    """An encoder of a run, with the projector where `heads`.

    Raises:
      ValueError: for a tower that is not there, or a method without networks.
    """
    method, views = run.experiment.method, run.experiment.views
    fields = views.of_each
    if isinstance(method, MultiModal):
        chosen = method.towers[0] if tower is None else named_tower(method.towers, tower)
        field = fields[method.towers.index(chosen)]
        networks = method.of_tower(chosen)
        if not heads:
            networks = dict(list(networks.items())[:1])
        params = run.state.params | run.state.method.frozen

        def embed(rows: jax.Array) -> jax.Array:
            return method.embed(
                run.state.params, run.state.method, rows, tower=chosen.name, project=heads
            )

    elif isinstance(method, EncoderMethod):
        if tower is not None:
            raise ValueError(f"{type(method).__name__} has one encoder, no tower {tower!r}")
        field, params = fields[0], run.state.params
        networks = dict(method.feature_networks)
        if heads:
            if method.projector is None:
                raise ValueError(f"{type(method).__name__} has no projector")
            networks["projector"] = method.projector

        def embed(rows: jax.Array) -> jax.Array:
            features = method.embed(run.state.params, run.state.method, rows)
            if not heads:
                return features
            return _project(method.projector, run, features)

    else:
        raise ValueError(f"{type(method).__name__} has no networks that are known")
    stats = getattr(run.state.method, "batch_stats", {})
    prepare, inputs, about = _preparation(run, field)
    model = Pretrained(
        networks,
        {name: params[name] for name in networks},
        {name: stats.get(name, {}) for name in networks},
        {"jaxcl": jaxcl.__version__, "method": type(method).__name__, "field": field, **about},
    )
    return Part(field, inputs, model, lambda rows: embed(prepare(rows)))


def _project(projector: nn.Module | None, run: RestoredRun, features: jax.Array) -> jax.Array:
    assert projector is not None
    stats = run.state.method.batch_stats.get("projector", {})
    variables = {"params": run.state.params["projector"], "batch_stats": stats}
    return jnp.asarray(projector.apply(variables, features))


def _preparation(
    run: RestoredRun, field: str
) -> tuple[Callable[[jax.Array], jax.Array], jax.ShapeDtypeStruct, dict[str, Any]]:
    """What examples pass before the encoder; one as a program takes it; and both in words."""
    given = run.inputs[field]
    if len(given.shape) != 3 or given.dtype == np.int32:
        raw = {"inputs": {"shape": list(given.shape), "dtype": np.dtype(given.dtype).name}}
        return lambda rows: rows, given, raw
    prepare = evaluation_view(run.experiment.views, given, field)
    shape = jax.eval_shape(prepare, given).shape
    steps = flatten(run.experiment.views.of_field(field).views[0])
    scale = [step for step in steps if isinstance(step, Normalize)]
    about: dict[str, Any] = {
        "inputs": {"shape": list(shape), "dtype": "float32"},
        "mean": list(scale[0].mean) if scale else [0.0],
        "std": list(scale[0].std) if scale else [1.0],
    }
    return jax.vmap(prepare), jax.ShapeDtypeStruct(shape, given.dtype), about


def _write(run: RestoredRun, part: Part, out: Path, to: str) -> None:
    (name, encoder), *others = part.model.networks.items()
    if to == "safetensors":
        save_pretrained(out, part.model)
    elif to in PROGRAMS:
        make = stablehlo if to == "stablehlo" else onnx_model
        content = make(part.embed, part.inputs)
        out.mkdir(parents=True, exist_ok=True)
        write_durably(out / PROGRAMS[to], lambda file: file.write(content))
        shape, dtype = ["n", *part.inputs.shape], np.dtype(part.inputs.dtype).name
        about = dict(part.model.about) | {"inputs": {"shape": shape, "dtype": dtype}}
        write_durably(
            out / "config.json", json.dumps({"library": "jaxcl", **about}, indent=2) + "\n"
        )
    elif others:
        raise ValueError(f"{to} takes one network, and {type(run.experiment.method).__name__} has "
                         f"{', '.join(part.model.networks)}")  # fmt: skip
    elif isinstance(encoder, TextTransformer):
        if to != "huggingface":
            raise ValueError(f"{to} is for images, and {name} is of texts: take huggingface")
        tokenizer = RunDirectory(run.directory).tokenizer(0)
        known = Tokenizer.load(tokenizer) if tokenizer.is_file() else None
        save_text(out, encoder, part.model.params[name], known)
    else:
        variables = {"params": part.model.params[name]}
        if part.model.batch_stats[name]:
            variables["batch_stats"] = part.model.batch_stats[name]
        side = part.model.about["inputs"]["shape"][0]
        save_images(out, encoder, variables, to=to, image_size=side)  # type: ignore[arg-type]
