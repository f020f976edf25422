"""Text encoders from Hugging Face folders and back: BERT's family, and CLIP's text tower."""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcl.data.tokenizer import Tokenizer, TooLong, pad_tokens
from jaxcl.encoders.text import Pool, TextTransformer
from jaxcl.extras import import_extra
from jaxcl.pretrained.files import read_json, read_weights
from jaxcl.pretrained.hub import local_path
from jaxcl.pretrained.names import Names, from_torch, to_torch
from jaxcl.training.experiment import Start

_BERT = Names(
    {
        "tokens": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "types": "embeddings.token_type_embeddings",
        "embed_norm": "embeddings.LayerNorm",
        "pooler": "pooler.dense",
    },
    "encoder.layer.{}",
    {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "out": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "mlp_norm": "output.LayerNorm",
    },
)
_CLIP = Names(
    {
        "tokens": "embeddings.token_embedding",
        "positions": "embeddings.position_embedding",
        "final_norm": "final_layer_norm",
    },
    "encoder.layers.{}",
    {
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "out": "self_attn.out_proj",
        "attention_norm": "layer_norm1",
        "up": "mlp.fc1",
        "down": "mlp.fc2",
        "mlp_norm": "layer_norm2",
    },
)
_FAMILIES = {
    "bert": (_BERT, "bert."),
    "roberta": (_BERT, "roberta."),
    "xlm-roberta": (_BERT, "roberta."),
    "clip_text_model": (_CLIP, "text_model."),
}
"""Names, and what may stand before them all, by the config's model_type."""
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
_POOLS = {
    "pooling_mode_cls_token": "class",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}
"""Fields of sentence-transformers' pooling, and ours."""


@dataclasses.dataclass(frozen=True)
class PretrainedText:
    """A text encoder, what it has learned, and its tokenizer."""

    encoder: TextTransformer
    params: dict[str, Any]
    """Parameters of the encoder, as `encoder.init(...)["params"]`."""
    tokenizer: Tokenizer | None
    """None where the folder has none."""

    def __call__(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        """Features [N, width] of texts, float32.

        Args:
          texts: any number.
          batch_size: texts encoded at once.

        Raises:
          ValueError: where there is no tokenizer, or a text has no tokens.
        """
        if self.tokenizer is None:
            raise ValueError("there is no tokenizer.json beside the model, so no text can be read")
        tokens = self.tokenizer(texts).texts
        features = np.zeros((len(tokens), self.encoder.width), np.float32)
        by_length = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
        for start in range(0, len(tokens), batch_size):
            rows = by_length[start : start + batch_size]
            length = -(-len(tokens[rows[-1]]) // 16) * 16  # few shapes, so few programs
            length = min(length, self.encoder.max_length)
            batch = pad_tokens([tokens[row] for row in rows], length)
            batch = np.pad(batch, [(0, batch_size - len(rows)), (0, 0)], constant_values=-1)
            features[rows] = np.asarray(_encode(self.encoder, self.params, batch))[: len(rows)]
        return features


@functools.partial(jax.jit, static_argnums=0)
def _encode(encoder: TextTransformer, params: Any, rows: jax.Array) -> Any:
    return encoder.apply({"params": params}, rows)


def load_text(
    folder: str | os.PathLike[str],
    *,
    revision: str | None = None,
    pool: Pool | None = None,
    max_length: int | None = None,
    too_long: TooLong = "cut",
    **fields: Any,
) -> PretrainedText:
    """Reads a folder as transformers and sentence-transformers save it.

    config.json says the sizes, model.safetensors (or its parts, by model.safetensors.index.json)
    holds the weights, tokenizer.json the tokenizer. Heads for other purposes are left out.

    Args:
      folder: with these files; model_type bert, roberta, xlm-roberta or clip_text_model; or a
        repository of the hub, as `local_path` takes it.
      revision: of the repository.
      pool: what becomes the features; None: what sentence-transformers' modules say, "last" of a
        CLIP text tower, else "mean".
      max_length: most tokens of a text; None: what sentence-transformers' files say, else the
        model's positions.
      too_long: what becomes of longer texts.
      **fields: other fields of `TextTransformer`, such as dropout or dtype; dropout is 0 unless
        given.

    Returns:
      Encoder, parameters and tokenizer.

    Raises:
      FileNotFoundError: if config.json or the weights are missing, or the repository is.
      ConnectionError: if the hub cannot be reached.
      ValueError: for a model that is none of these, damaged files, weights that are missing, left
        over or misshapen (all named), or a tokenizer with more tokens than the model.
      ImportError: where safetensors or tokenizers are not installed.

    Example: `vectors = load_text("all-MiniLM-L6-v2")(["A red bird.", "Ein roter Vogel."])`
    """
    folder = local_path(folder, revision)
    encoder = text_encoder(folder, pool=pool, **fields)
    params = _load(folder, _shapes(encoder), pooler=encoder.pooler)
    tokenizer = None
    if (folder / "tokenizer.json").is_file():
        longest = min(max_length or _length_of(folder) or encoder.max_length, encoder.max_length)
        tokenizer = Tokenizer.load(folder, max_length=longest, too_long=too_long)
        if tokenizer.vocabulary > encoder.vocabulary:
            raise ValueError(
                f"{folder}: the tokenizer has {tokenizer.vocabulary} tokens and the model "
                f"{encoder.vocabulary}: they are not of one another"
            )
    return PretrainedText(encoder, params, tokenizer)


def clip_text(
    arrays: Mapping[str, np.ndarray], config: Mapping[str, Any], folder: Path
) -> tuple[TextTransformer, dict[str, Any]]:
    """The text tower among the arrays of a CLIP or, where `config` has the model_type
    siglip_text_model, of a SigLIP, by its `text_config`."""
    kind = config.get("model_type", "clip_text_model")
    encoder = _encoder({**config, "model_type": kind}, folder, pool="last")
    names, prefix = _FAMILIES["clip_text_model"]
    own = {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix) and not name.startswith(f"{prefix}head.")
    }
    ignored = {"embeddings.position_ids"}
    params = from_torch(
        own, _shapes(encoder), names, ignored=ignored.__contains__, what=f"the text in {folder}"
    )
    return encoder, params


def text_encoder(
    folder: str | os.PathLike[str],
    *,
    revision: str | None = None,
    pool: Pool | None = None,
    **fields: Any,
) -> TextTransformer:
    """The module of a folder, without its weights; arguments and errors are as `load_text`'s."""
    folder = local_path(folder, revision)
    config = read_json(folder / "config.json")
    names, _ = _family(config, folder)
    pool = pool or _pool_of(folder) or ("last" if names is _CLIP else "mean")
    return _encoder(config, folder, pool=pool, **fields)


_BUILD = (
    *("vocabulary", "width", "depth", "heads", "hidden", "max_length", "positions"),
    *("position_offset", "types", "norm", "norm_place", "epsilon", "activation", "gated", "bias"),
    "causal",
)
"""Fields that have to be those of the weights."""


@dataclasses.dataclass(frozen=True)
class HuggingFaceText(Start):
    """Starts a `TextTransformer` from a folder as `load_text` takes it.

    The module may have another dropout, pool, type or remat than there, not another size.
    """

    folder: str
    """The folder, or a repository of the hub."""
    revision: str | None = None
    """As `load_text` has it."""

    def load(self, network: nn.Module, shapes: Any) -> Any:
        folder = local_path(self.folder, self.revision)
        there = text_encoder(folder)
        if not isinstance(network, TextTransformer):
            raise ValueError(f"expected a TextTransformer, got {type(network).__name__}")
        for name in _BUILD:
            ours, theirs = getattr(network, name), getattr(there, name)
            if name == "hidden":
                ours = 4 * network.width if ours is None else ours
            if ours != theirs:
                raise ValueError(
                    f"the network's {name} is {ours!r} and that of {self.folder} {theirs!r}: make "
                    "it by pretrained.text_encoder"
                )
        return {"params": _load(folder, shapes["params"], pooler=network.pooler)}


def save_text(
    folder: str | os.PathLike[str],
    encoder: TextTransformer,
    params: Mapping[str, Any],
    tokenizer: Tokenizer | None = None,
) -> None:
    """Writes a folder that transformers loads, and sentence-transformers too.

    Args:
      folder: made if need be; files in it are replaced.
      encoder: one of BERT's, RoBERTa's or CLIP's build.
      params: its parameters.
      tokenizer: written as tokenizer.json; None: none.

    Raises:
      ValueError: for an encoder that is built as none of these.
      ImportError: where safetensors is not installed.
    """
    safetensors = import_extra("safetensors.numpy", "text")
    config = _config(encoder, tokenizer)
    names, _ = _FAMILIES[config["model_type"]]
    arrays = to_torch(params, names)
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    if tokenizer is not None:
        tokenizer.tokenizer.save(str(folder / "tokenizer.json"))
        _write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": tokenizer.max_length or encoder.max_length,
                **_marks(tokenizer),
            },
        )
    if encoder.pool != "none":
        module = "sentence_transformers.models."
        _write_json(
            folder / "modules.json",
            [
                {"idx": 0, "name": "0", "path": "", "type": f"{module}Transformer"},
                {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{module}Pooling"},
            ],
        )
        (folder / "1_Pooling").mkdir(exist_ok=True)
        pooling = {theirs: ours == encoder.pool for theirs, ours in _POOLS.items()}
        _write_json(
            folder / "1_Pooling" / "config.json",
            {"word_embedding_dimension": encoder.width, **pooling},
        )
        length = encoder.max_length if tokenizer is None else tokenizer.max_length
        _write_json(folder / "sentence_bert_config.json", {"max_seq_length": length})
    _write_json(folder / "config.json", config)  # last: without it the folder is no model


def _load(folder: Path, shapes: Any, *, pooler: bool) -> Any:
    """The parameters in a folder, for a module of those shapes."""
    names, prefix = _family(read_json(folder / "config.json"), folder)
    arrays = read_weights(folder)
    if any(name.startswith(prefix) for name in arrays):  # others are heads for other purposes
        arrays = {
            name.removeprefix(prefix): array
            for name, array in arrays.items()
            if name.startswith(prefix)
        }
    unused = (
        "embeddings.position_ids",
        *(() if pooler else ("pooler.dense.weight", "pooler.dense.bias")),
    )
    return from_torch(
        arrays, shapes, names, ignored=unused.__contains__, what=f"the weights in {folder}"
    )


def _family(config: Mapping[str, Any], folder: Path) -> tuple[Names, str]:
    kind = config.get("model_type")
    if kind not in _FAMILIES:
        raise ValueError(
            f"{folder} holds a model of type {kind!r}, expected one of {', '.join(_FAMILIES)}"
        )
    return _FAMILIES[kind]


def _encoder(config: Mapping[str, Any], folder: Path, **fields: Any) -> TextTransformer:
    """The module that a config.json describes."""

    def of(name: str, default: Any = None) -> Any:
        if config.get(name, default) is None:
            raise ValueError(f"{folder / 'config.json'} lacks {name!r}")
        return config.get(name, default)

    kind = config["model_type"]
    usual = {"clip_text_model": "quick_gelu", "siglip_text_model": "gelu_pytorch_tanh"}
    activation = of("hidden_act", usual.get(kind, "gelu"))
    if activation not in _ACTIVATIONS:
        raise ValueError(
            f"{folder} has the activation {activation!r}, expected one of {', '.join(_ACTIVATIONS)}"
        )
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise ValueError(
            f"{folder} has positions of type {config['position_embedding_type']!r}, expected "
            "'absolute'"
        )
    # RoBERTa counts its positions from that after the padding token's.
    offset = of("pad_token_id", 1) + 1 if "roberta" in kind else 0
    sizes = {
        "vocabulary": of("vocab_size"),
        "width": of("hidden_size"),
        "depth": of("num_hidden_layers"),
        "heads": of("num_attention_heads"),
        "hidden": of("intermediate_size"),
        "max_length": of("max_position_embeddings") - offset,
        "position_offset": offset,
        "activation": _ACTIVATIONS[activation],
    }
    if kind == "clip_text_model":
        own = {"norm_place": "pre", "causal": True, "epsilon": of("layer_norm_eps", 1e-5)}
    elif kind == "siglip_text_model":
        own = {"norm_place": "pre", "epsilon": of("layer_norm_eps", 1e-6)}
    else:
        own = {"types": of("type_vocab_size", 2), "epsilon": of("layer_norm_eps", 1e-12)}
    return TextTransformer(**{**sizes, **own, **fields})


def _config(encoder: TextTransformer, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """The config.json of an encoder."""
    ends: dict[str, int] = {}
    if tokenizer is not None:  # by which transformers finds the last token of CLIP's texts
        marks = tokenizer(["a"]).texts[0]
        ends = {"bos_token_id": int(marks[0]), "eos_token_id": int(marks[-1]), "pad_token_id": 0}
    common = {"positions": "learned", "norm": "layer", "gated": False, "bias": True}
    clip = {**common, "norm_place": "pre", "causal": True, "types": 0, "position_offset": 0}
    bert = {**common, "norm_place": "post", "causal": False}
    built = {name for name, want in (("clip", clip), ("bert", bert)) if _has(encoder, want)}
    if not built or ("bert" in built and not encoder.types):
        raise ValueError(
            "save_text writes encoders built as bert(...) or clip_text(...) make them; this is "
            f"none: {encoder}"
        )
    theirs = {ours: name for name, ours in reversed(_ACTIVATIONS.items())}
    sizes = {
        "vocab_size": encoder.vocabulary,
        "hidden_size": encoder.width,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "intermediate_size": 4 * encoder.width if encoder.hidden is None else encoder.hidden,
        "max_position_embeddings": encoder.max_length + encoder.position_offset,
        "hidden_act": theirs[encoder.activation],
        "layer_norm_eps": encoder.epsilon,
        "torch_dtype": "float32",
    }
    if "clip" in built:
        return {
            **sizes,
            "architectures": ["CLIPTextModel"],
            "model_type": "clip_text_model",
            "attention_dropout": encoder.attention_dropout,
            **ends,
        }
    kind = {
        "hidden_dropout_prob": encoder.dropout,
        "attention_probs_dropout_prob": encoder.attention_dropout,
        "type_vocab_size": encoder.types,
    }
    if encoder.position_offset:
        pad = {"pad_token_id": encoder.position_offset - 1}
        return {**sizes, **kind, **pad, "architectures": ["RobertaModel"], "model_type": "roberta"}
    return {**sizes, **kind, "architectures": ["BertModel"], "model_type": "bert"}


def _has(encoder: TextTransformer, fields: Mapping[str, Any]) -> bool:
    return all(getattr(encoder, name) == value for name, value in fields.items())


def _shapes(encoder: TextTransformer) -> Any:
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return jax.eval_shape(encoder.init, jax.random.key(0), tokens)["params"]


def _pool_of(folder: Path) -> Any:
    """What sentence-transformers' pooling says, where the folder has one."""
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return None
    config = read_json(path)
    found = [ours for theirs, ours in _POOLS.items() if config.get(theirs)]
    if len(found) != 1:
        raise ValueError(f"{path} asks for pooling that is none of {', '.join(_POOLS)}: give pool")
    return found[0]


def _length_of(folder: Path) -> int | None:
    """Most tokens that sentence-transformers gives the model."""
    path = folder / "sentence_bert_config.json"
    return read_json(path).get("max_seq_length") if path.is_file() else None


def _marks(tokenizer: Tokenizer) -> dict[str, str]:
    """The marks that a tokenizer has, by transformers' names for them."""
    known = {
        "pad_token": ("[PAD]", "<pad>"),
        "unk_token": ("[UNK]", "<unk>"),
        "cls_token": ("[CLS]", "<s>"),
        "sep_token": ("[SEP]", "</s>"),
        "mask_token": ("[MASK]", "<mask>"),
    }
    return {
        name: mark
        for name, marks in known.items()
        for mark in marks
        if tokenizer.tokenizer.token_to_id(mark) is not None
    }


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
