"""Weights of one library written for another."""

from pathlib import Path

import jax

import jaxcl
from jaxcl.encoders import ViT
from jaxcl.pretrained import Pretrained, load_images, save_images, save_pretrained
from jaxcl.pretrained.saving import LIBRARIES


def convert_weights(
    weights: str, out: Path, *, to: str, part: str | None = None, revision: str | None = None
) -> str:
    """Reads an image encoder as `load_images` does, and writes it.

    Args:
      weights: file, folder, or a repository of the hub.
      out: the folder that is made.
      to: "safetensors" for jaxcl's own, or another library.
      part: as `load_images` has it.
      revision: of the repository.

    Returns:
      What it is, in words.

    Raises:
      FileNotFoundError: if there is no such file or repository.
      ConnectionError: if the hub cannot be reached.
      ValueError: for what cannot be read, or not be written so.
      ImportError: where safetensors or torch is not installed.
    """
    if to not in ("safetensors", *LIBRARIES):
        raise ValueError(f"--to {to!r}: expected one of safetensors, {', '.join(LIBRARIES)}")
    found = load_images(weights, part=part, revision=revision)
    encoder, variables = found.encoder, found.variables
    side = encoder.image_size if isinstance(encoder, ViT) else 224
    if to == "safetensors":
        about = {
            "jaxcl": jaxcl.__version__,
            "from": f"{Path(weights).name}, by the names of {found.layout}",
            "inputs": {"shape": [side, side, encoder.in_channels], "dtype": "float32"},
        }
        model = Pretrained(
            {"encoder": encoder},
            {"encoder": variables["params"]},
            {"encoder": variables.get("batch_stats", {})},
            about,
        )
        save_pretrained(out, model)
    else:
        save_images(out, encoder, variables, to=to, image_size=side)  # type: ignore[arg-type]
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    kind = type(encoder).__name__
    return f"wrote the {kind} of {weights}, {count / 1e6:.1f} M parameters, for {to}: {out}"
