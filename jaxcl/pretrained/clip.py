"""CLIP and SigLIP as transformers saves them: both towers in one space, to use or to train on."""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcl.data.tokenizer import Tokenizer, pad_tokens
from jaxcl.encoders import MLP
from jaxcl.methods import Batch, MultiModal, Tower
from jaxcl.methods.multi_modal import MultiModalState
from jaxcl.methods.towers import Contrast
from jaxcl.pretrained.files import read_json, read_weights
from jaxcl.pretrained.hub import local_path
from jaxcl.pretrained.images import images_among
from jaxcl.pretrained.text import clip_text


@dataclasses.dataclass(frozen=True)
class PretrainedClip:
    """Two towers as a method, and what they have learned."""

    method: MultiModal
    """Its towers are `image` and `text`."""
    params: dict[str, Any]
    """Parameters of all its networks."""
    state: MultiModalState
    """The method's state, as `method.init` gives it."""
    tokenizer: Tokenizer | None
    """None where the folder has none."""
    padding: int | None = None
    """What fills texts up to the tower's length (SigLIP); None: nothing does."""

    def images(self, images: np.ndarray) -> jax.Array:
        """Unit embeddings [N, D] of images [N, H, W, 3], normalized as the model's are."""
        return _embed(self.method, self.params, self.state, jnp.asarray(images), tower="image")

    def texts(self, texts: Sequence[str] | np.ndarray) -> jax.Array:
        """Unit embeddings [N, D] of texts, or of tokens [N, T], below 0 where none stands.

        Raises:
          ValueError: for texts, where the folder has no tokenizer.
        """
        if not isinstance(texts, np.ndarray):
            if self.tokenizer is None:
                raise ValueError("there is no tokenizer.json beside the model: give tokens [N, T]")
            texts = pad_tokens(self.tokenizer(texts).texts)
        tokens = np.asarray(texts)
        if self.padding is not None:
            length = self.method.towers[1].encoder.max_length  # type: ignore[union-attr]
            rest = [(0, 0), (0, max(0, length - tokens.shape[1]))]
            tokens = np.pad(tokens, rest, constant_values=-1)
            tokens = np.where(tokens < 0, self.padding, tokens).astype(np.int32)
        return _embed(self.method, self.params, self.state, jnp.asarray(tokens), tower="text")


@functools.partial(jax.jit, static_argnums=0, static_argnames="tower")
def _embed(method: MultiModal, params: Any, state: Any, inputs: jax.Array, *, tower: str) -> Any:
    return method.embed(params, state, inputs, tower=tower, project=True)


def load_clip(folder: str | os.PathLike[str], *, revision: str | None = None) -> PretrainedClip:
    """Reads a CLIP or a SigLIP from a folder as transformers saves it.

    Args:
      folder: with config.json of model_type clip or siglip, weights, and tokenizer.json if texts
        are to be read; or a repository of the hub, as `local_path` takes it.
      revision: of the repository.

    Returns:
      Method, parameters, state and tokenizer; temperature, and SigLIP's bias, are the folder's.

    Raises:
      FileNotFoundError: if config.json or the weights are missing, or the repository is.
      ConnectionError: if the hub cannot be reached.
      ValueError: for another model, damaged files, or weights that do not fit, all named.
      ImportError: where safetensors, torch or tokenizers is not installed.
    """
    folder = local_path(folder, revision)
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind not in _OUTER:
        raise ValueError(f"{folder} holds a model of type {kind!r}, expected 'clip' or 'siglip'")
    arrays = read_weights(folder)
    missing = [name for name in _OUTER[kind] if name not in arrays]
    if missing:
        raise ValueError(f"the weights in {folder} lack {', '.join(missing)}")
    of_text = {**config.get("text_config", {}), "model_type": f"{kind}_text_model"}
    image = images_among(arrays, folder)
    text, text_params = clip_text(arrays, of_text, folder)
    scale = np.asarray(arrays["logit_scale"], np.float32).reshape(())
    scales = {"logit_scale": scale}
    if kind == "siglip":
        scales["logit_bias"] = np.asarray(arrays["logit_bias"], np.float32).reshape(())
    projectors = _projectors(arrays, kind)
    widths = {"image": image.encoder.width, "text": text.width}
    kernels = {name: kernel for name, (kernel, _) in projectors.items() if kernel is not None}
    ends = {len(kernels[name]) if name in kernels else widths[name] for name in widths}
    if len(ends) > 1 or any(kernels[name].shape[1] != widths[name] for name in kernels):
        raise ValueError(
            f"the projections in {folder} are {[list(one.shape) for one in kernels.values()]}, "
            f"expected to map {image.encoder.width} and {text.width} to one width"
        )
    towers = tuple(
        Tower(name, encoder, None if kernel is None else MLP((len(kernel),), output_bias=has_bias))
        for name, encoder, (kernel, has_bias) in (
            ("image", image.encoder, projectors["image"]),
            ("text", text, projectors["text"]),
        )
    )
    contrast: Contrast = "siglip" if kind == "siglip" else "clip"
    method = MultiModal(towers, contrast=contrast, temperature=float(np.exp(-scale)))
    side = image.encoder.image_size if hasattr(image.encoder, "image_size") else 224

    def start(key: jax.Array) -> tuple[Any, MultiModalState]:
        images = jnp.zeros((1, side, side, 3))
        return method.init(key, Batch((images, jnp.zeros((1, text.max_length), jnp.int32))))

    _, state = jax.eval_shape(start, jax.random.key(0))
    params: dict[str, Any] = {
        "image_encoder": image.variables["params"],
        "text_encoder": text_params,
        "scales": {"image_text": scales},
    }
    for name, (kernel, has_bias) in projectors.items():
        if kernel is not None:
            bias = {"bias": arrays["text_model.head.bias"]} if has_bias else {}
            params[f"{name}_projector"] = {"dense0": {"kernel": kernel.T, **bias}}
    state = dataclasses.replace(
        state, batch_stats=jax.tree.map(lambda leaf: np.zeros(leaf.shape), state.batch_stats)
    )
    tokenizer = None
    if (folder / "tokenizer.json").is_file():
        tokenizer = Tokenizer.load(folder, max_length=text.max_length, too_long="cut")
    padding = of_text.get("pad_token_id", 1) if kind == "siglip" else None
    return PretrainedClip(method, params, state, tokenizer, padding)


_OUTER = {
    "clip": ("visual_projection.weight", "text_projection.weight", "logit_scale"),
    "siglip": ("text_model.head.weight", "text_model.head.bias", "logit_scale", "logit_bias"),
}
"""What stands beside the towers, by model_type."""


def _projectors(
    arrays: Mapping[str, np.ndarray], kind: str
) -> dict[str, tuple[np.ndarray | None, bool]]:
    """Kernels [out, in] by tower, and whether they have a bias."""
    if kind == "siglip":
        return {"image": (None, False), "text": (arrays["text_model.head.weight"], True)}
    return {
        "image": (arrays["visual_projection.weight"], False),
        "text": (arrays["text_projection.weight"], False),
    }
