"""wav2vec 2.0 and HuBERT as transformers saves them; GE2E's speaker encoder as Resemblyzer does."""

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcl.encoders import FrameTransformer, LSTMSpeaker, SampleConvolutions
from jaxcl.pretrained.files import read_json, read_weights
from jaxcl.pretrained.hub import local_path
from jaxcl.pretrained.names import Names, from_torch
from jaxcl.pretrained.own import Pretrained
from jaxcl.training.experiment import Start

_CONTEXT = Names(
    {
        "input_norm": "feature_projection.layer_norm",
        "project": "feature_projection.projection",
        "places": "encoder.pos_conv_embed.conv",
        "norm": "encoder.layer_norm",
    },
    "encoder.layers.{}",
    {
        "query": "attention.q_proj",
        "key": "attention.k_proj",
        "value": "attention.v_proj",
        "out": "attention.out_proj",
        "attention_norm": "layer_norm",
        "up": "feed_forward.intermediate_dense",
        "down": "feed_forward.output_dense",
        "mlp_norm": "final_layer_norm",
    },
)
_OTHERS = re.compile(r"(quantizer|project_hid|project_q|lm_head|projector|classifier)\.")
"""What pretraining and fine-tuning add."""
_FRONT = "feature_extractor."
_CONFIG = {
    "conv_dim": [512] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "conv_bias": False,
    "feat_extract_norm": "group",
    "feat_extract_activation": "gelu",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "do_stable_layer_norm": False,
    "layer_norm_eps": 1e-5,
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
}
"""What transformers takes where a config says nothing."""


def load_speech(
    folder: str | os.PathLike[str], *, revision: str | None = None, **fields: Any
) -> Pretrained:
    """Reads wav2vec 2.0 or HuBERT: base or large, what was pretrained or fine-tuned.

    Called with sound [N, T], floats of mean 0 and deviation 1 at 16 kHz, the model gives frames
    [N, F, D], one every 20 ms.

    Args:
      folder: with config.json of model_type wav2vec2 or hubert, and weights; or a repository of the
        hub, as `local_path` takes it.
      revision: of the repository.
      **fields: of `FrameTransformer`, such as pool, dtype or dropout, which is 0 unless given.

    Returns:
      Two networks, `encoder` and `context`, as `methods.Wav2Vec2` has them.

    Raises:
      FileNotFoundError: if config.json or the weights are missing, or the repository is.
      ConnectionError: if the hub cannot be reached.
      ValueError: for another model, damaged files, or weights that do not fit, all named.
      ImportError: where safetensors or torch is not installed.
    """
    folder = local_path(folder, revision)
    encoder, context, arrays = _read(folder, **fields)
    sound = jax.ShapeDtypeStruct((1, 2 * encoder.field), jnp.float32)
    frames, front = jax.eval_shape(encoder.init_with_output, jax.random.key(0), sound)
    behind = jax.eval_shape(context.init, jax.random.key(0), frames)
    params = {
        "encoder": _front(arrays, front["params"], folder),
        "context": _context(arrays, behind["params"], folder),
    }
    about = {"inputs": {"shape": [encoder.field], "dtype": "float32"}}
    return Pretrained(
        {"encoder": encoder, "context": context}, params, {"encoder": {}, "context": {}}, about
    )


def load_speaker(path: str | os.PathLike[str], *, revision: str | None = None) -> Pretrained:
    """Reads a GE2E speaker encoder: stacked LSTMs and a projection, by Resemblyzer's names.

    Called with mel spectra [N, F, 40], power and not its logarithm, a frame every 10 ms, the model
    gives features [N, 256], of which those of one speaker have the higher cosines. Published
    weights saw 160 frames at a time:
    `augment.power_spectrogram(samples, size=400, window=400, hop=160, ends="zeros")` of sound at
    16 kHz, times `augment.mel_filters(16000, 400, 40, 0, 8000, scale="slaney", equal_area=True)`.

    Args:
      path: a file, as `read_weights` takes it, or a repository of the hub.
      revision: of the repository.

    Returns:
      One network, `encoder`; `about` has the loss's scale and bias where they are there.

    Raises:
      FileNotFoundError: if there is no such file or repository.
      ConnectionError: if the hub cannot be reached.
      ValueError: for damaged files, or weights that do not fit, all named.
      ImportError: where safetensors or torch is not installed.
    """
    path = local_path(path, revision)
    arrays = {
        name.removeprefix("model_state."): array for name, array in read_weights(path).items()
    }
    layers = [name for name in arrays if re.fullmatch(r"lstm\.weight_hh_l\d+", name)]
    if not layers or "lstm.weight_ih_l0" not in arrays:
        raise ValueError(
            f"{path} holds no speaker encoder: expected lstm.weight_ih_l0 and so on, got "
            f"{', '.join(sorted(arrays)[:4])}"
        )
    encoder = LSTMSpeaker(arrays["lstm.weight_hh_l0"].shape[1], len(layers))
    inputs = arrays["lstm.weight_ih_l0"].shape[1]
    frames = jax.ShapeDtypeStruct((1, 160, inputs), jnp.float32)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), frames)["params"]
    scales = {name: arrays.pop(name, None) for name in ("similarity_weight", "similarity_bias")}
    params = from_torch(_gates(arrays), shapes, _gate_name, what=f"the weights in {path}")
    about: dict[str, Any] = {"inputs": {"shape": [160, inputs], "dtype": "float32"}}
    about |= {name: float(one[0]) for name, one in scales.items() if one is not None}
    return Pretrained({"encoder": encoder}, {"encoder": params}, {"encoder": {}}, about)


def _gates(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The four gates of torch's LSTMs apart, and both of its biases as one."""
    found = dict(arrays)
    for name in arrays:
        match = re.fullmatch(r"lstm\.(weight_ih|weight_hh|bias_ih)_l(\d+)", name)
        if match is None:
            continue
        whole, kind, layer = found.pop(name), match[1], match[2]
        if kind == "bias_ih":
            whole = whole + found.pop(f"lstm.bias_hh_l{layer}", np.zeros_like(whole))
        for gate, part in zip("ifgo", np.split(whole, 4), strict=True):
            found[f"lstm.{kind}_{gate}_l{layer}"] = part
    return found


def _gate_name(path: str) -> str:
    """From `lstm_0/hf/kernel` to the name that `_gates` gives."""
    module, *inner, leaf = path.split("/")
    if module == "project":
        return f"linear.{'weight' if leaf == 'kernel' else leaf}"
    (cell,) = inner  # h or i, then the gate
    kind = "bias_ih" if leaf == "bias" else f"weight_{cell[0]}h"
    return f"lstm.{kind}_{cell[1]}_l{module.removeprefix('lstm_')}"


@dataclasses.dataclass(frozen=True)
class SpeechWeights(Start):
    """Starts `SampleConvolutions` or a `FrameTransformer` from what `load_speech` takes.

    A `FrameTransformer` may have another dropout, pool or type than there, not another size. Name
    both networks of `methods.Wav2Vec2`: one start for `encoder`, one for `context`.
    """

    folder: str
    """The folder, or a repository of the hub."""
    revision: str | None = None
    """As `load_speech` has it."""

    def load(self, network: nn.Module, shapes: Any) -> Any:
        folder = local_path(self.folder, self.revision)
        encoder, context, arrays = _read(folder)
        if isinstance(network, SampleConvolutions):
            if network != encoder:
                raise ValueError(f"the network is {network}, and {folder} holds {encoder}")
            return {"params": _front(arrays, shapes["params"], folder)}
        if not isinstance(network, FrameTransformer):
            raise ValueError(
                f"expected SampleConvolutions or a FrameTransformer, got {type(network).__name__}"
            )
        build = ("width", "depth", "heads", "place_kernel", "place_groups", "norm_place")
        for name in build:
            ours, theirs = getattr(network, name), getattr(context, name)
            if ours != theirs:
                raise ValueError(
                    f"the network's {name} is {ours!r} and that of {folder} {theirs!r}"
                )
        return {"params": _context(arrays, shapes["params"], folder)}


def _read(
    folder: Path, **fields: Any
) -> tuple[SampleConvolutions, FrameTransformer, dict[str, np.ndarray]]:
    """The two modules, and their arrays by names without what stands before them all."""
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind not in ("wav2vec2", "hubert"):
        raise ValueError(f"{folder} holds a model of type {kind!r}, expected wav2vec2 or hubert")
    config = {**_CONFIG, **{name: config[name] for name in _CONFIG if name in config}}
    widths, width = set(config["conv_dim"]), config["hidden_size"]
    wanted = {
        "feat_extract_activation": "gelu",
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "intermediate_size": 4 * width,
        "feat_proj_layer_norm": True,
        "conv_pos_batch_norm": False,
    }
    for name, value in wanted.items():
        if config[name] != value:
            raise ValueError(f"{folder} has {name} {config[name]!r}, only {value!r} is known")
    if len(widths) != 1:
        raise ValueError(f"{folder} has convolutions of several widths, {config['conv_dim']}")
    encoder = SampleConvolutions(
        widths.pop(),
        tuple(config["conv_kernel"]),
        tuple(config["conv_stride"]),
        activation="gelu",
        norm="first" if config["feat_extract_norm"] == "group" else "each",
        bias=config["conv_bias"],
    )
    build = {
        "width": width,
        "depth": config["num_hidden_layers"],
        "heads": config["num_attention_heads"],
        "place_kernel": config["num_conv_pos_embeddings"],
        "place_groups": config["num_conv_pos_embedding_groups"],
        "norm_place": "pre" if config["do_stable_layer_norm"] else "post",
        "dropout": 0.0,
        "attention_dropout": 0.0,
    }
    arrays = {name.removeprefix(f"{kind}."): array for name, array in read_weights(folder).items()}
    own = {name: array for name, array in arrays.items() if not _OTHERS.match(name)}
    return encoder, FrameTransformer(**{**build, **fields}), _without_weight_norm(own)


def _without_weight_norm(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The kernel of places as such: length times direction, of each place (Salimans & Kingma,
    2016), as torch names them before version 2 and since."""
    conv = "encoder.pos_conv_embed.conv."
    found = dict(arrays)
    for length, direction in (
        ("weight_g", "weight_v"),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ):
        if f"{conv}{length}" in found and f"{conv}{direction}" in found:
            g, v = found.pop(f"{conv}{length}"), found.pop(f"{conv}{direction}")
            norm = np.sqrt((v.astype(np.float64) ** 2).sum((0, 1), keepdims=True))
            found[f"{conv}weight"] = (g * v / norm).astype(np.float32)
    return found


def _front(arrays: dict[str, np.ndarray], shapes: Any, folder: Path) -> Any:
    def rename(path: str) -> str:
        module, leaf = path.split("/")
        number = re.sub(r"\D", "", module) or "0"
        kind = "conv" if module.startswith("conv") else "layer_norm"
        leaf = "bias" if leaf == "bias" else "weight"
        return f"{_FRONT}conv_layers.{number}.{kind}.{leaf}"

    own = {name: array for name, array in arrays.items() if name.startswith(_FRONT)}
    return from_torch(own, shapes, rename, what=f"the convolutions in {folder}")


def _context(arrays: dict[str, np.ndarray], shapes: Any, folder: Path) -> Any:
    own = {name: array for name, array in arrays.items() if not name.startswith(_FRONT)}
    own.setdefault("masked_spec_embed", np.zeros(shapes["mask"].shape, np.float32))  # of training

    def rename(path: str) -> str:
        return "masked_spec_embed" if path == "mask" else _CONTEXT(path)

    return from_torch(own, shapes, rename, what=f"the transformer in {folder}")
