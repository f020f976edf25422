"""CLIP as transformers saves it: both towers in one space, to use or to train on."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcl.data.tokenizer import Tokenizer, pad_tokens
from jaxcl.methods import Batch, MultiModal, clip
from jaxcl.methods.multi_modal import MultiModalState
from jaxcl.pretrained.files import read_json, read_weights
from jaxcl.pretrained.hub import local_path
from jaxcl.pretrained.images import images_among
from jaxcl.pretrained.text import clip_text


@dataclasses.dataclass(frozen=True)
class PretrainedClip:
    """CLIP's two towers as a method, and what they have learned."""

    method: MultiModal
    """Its towers are `image` and `text`."""
    params: dict[str, Any]
    """Parameters of all its networks."""
    state: MultiModalState
    """The method's state, as `method.init` gives it."""
    tokenizer: Tokenizer | None
    """None where the folder has none."""

    def images(self, images: np.ndarray) -> jax.Array:
        """Unit embeddings [N, D] of images [N, H, W, 3], normalized as CLIP's are."""
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
        return _embed(self.method, self.params, self.state, jnp.asarray(texts), tower="text")


@functools.partial(jax.jit, static_argnums=0, static_argnames="tower")
def _embed(method: MultiModal, params: Any, state: Any, inputs: jax.Array, *, tower: str) -> Any:
    return method.embed(params, state, inputs, tower=tower, project=True)


def load_clip(folder: str | os.PathLike[str], *, revision: str | None = None) -> PretrainedClip:
    """Reads a CLIP from a folder as transformers saves it.

    Args:
      folder: with config.json of model_type clip, weights, and tokenizer.json if texts are to be
        read; or a repository of the hub, as `local_path` takes it.
      revision: of the repository.

    Returns:
      Method, parameters, state and tokenizer; the temperature is the folder's, too.

    Raises:
      FileNotFoundError: if config.json or the weights are missing, or the repository is.
      ConnectionError: if the hub cannot be reached.
      ValueError: for another model, damaged files, or weights that do not fit, all named.
      ImportError: where safetensors, torch or tokenizers is not installed.
    """
    folder = local_path(folder, revision)
    config = read_json(folder / "config.json")
    if config.get("model_type") != "clip":
        raise ValueError(
            f"{folder} holds a model of type {config.get('model_type')!r}, expected 'clip'"
        )
    arrays = read_weights(folder)
    outer = ("visual_projection.weight", "text_projection.weight", "logit_scale")
    missing = [name for name in outer if name not in arrays]
    if missing:
        raise ValueError(f"the weights in {folder} lack {', '.join(missing)}")
    image = images_among(arrays, folder)
    text, of_text = clip_text(arrays, config.get("text_config", {}), folder)
    projections = {name: arrays[f"{name}_projection.weight"] for name in ("visual", "text")}
    scale = np.asarray(arrays["logit_scale"], np.float32).reshape(())
    dim = len(projections["text"])
    method = clip(image.encoder, text, dim=dim, temperature=float(np.exp(-scale)))
    side = image.encoder.image_size if hasattr(image.encoder, "image_size") else 224

    def start(key: jax.Array) -> tuple[Any, MultiModalState]:
        images = jnp.zeros((1, side, side, 3))
        return method.init(key, Batch((images, jnp.zeros((1, text.max_length), jnp.int32))))

    wanted, state = jax.eval_shape(start, jax.random.key(0))
    params = {
        "image_encoder": image.variables["params"],
        "image_projector": {"dense0": {"kernel": projections["visual"].T}},
        "text_encoder": of_text,
        "text_projector": {"dense0": {"kernel": projections["text"].T}},
        "scales": {"image_text": {"logit_scale": scale}},
    }
    if jax.tree.map(np.shape, params) != jax.tree.map(lambda leaf: leaf.shape, wanted):
        raise ValueError(
            f"the projections in {folder} are {[list(one.shape) for one in projections.values()]}, "
            f"expected to map {image.encoder.width} and {text.width} to one width"
        )
    state = dataclasses.replace(
        state, batch_stats=jax.tree.map(lambda leaf: np.zeros(leaf.shape), state.batch_stats)
    )
    tokenizer = None
    if (folder / "tokenizer.json").is_file():
        tokenizer = Tokenizer.load(folder, max_length=text.max_length, too_long="cut")
    return PretrainedClip(method, params, state, tokenizer)
