"""Model cards: what a model is, what made it, and what it reached."""

import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxcl.training import RestoredRun, RunDirectory
from jaxcl.training.config_json import to_data

_PACKAGES = ("jaxcl", "jax", "flax", "optax")
_LIBRARIES = {"huggingface": "transformers", "torchvision": "torchvision", "timm": "timm"}
_USE = {
    "safetensors": """from jaxcl.pretrained import from_pretrained

features = from_pretrained("{name}")(images)  # [N, H, W, C], scaled as config.json says""",
    "torchvision": """import torch, torchvision
from safetensors.torch import load_file{fetch}

model = torchvision.models.{architecture}()
model.fc = torch.nn.Identity()
model.load_state_dict(load_file({weights}))""",
    "timm": """import timm

model = timm.create_model("{where}:{name}", pretrained=True).eval()""",
    "huggingface": """from transformers import {architecture}

model = {architecture}.from_pretrained("{name}").eval()""",
    "stablehlo": """import jax, pathlib

program = jax.export.deserialize(pathlib.Path("{name}/model.stablehlo").read_bytes())
features = program.call(batch)  # of any number of examples""",
    "onnx": """import onnxruntime

session = onnxruntime.InferenceSession("{name}/model.onnx")
(features,) = session.run(None, {{"inputs": batch}})  # of any number of examples""",
}


def model_card(
    run: RestoredRun,
    *,
    to: str,
    networks: Sequence[str],
    file: Path,
    digest: str,
    repository: str | None = None,
) -> str:
    """The README.md of an exported model.

    Args:
      run: where it is from.
      to: the format.
      networks: what was written.
      file: the file of weights, or the program.
      digest: its SHA-256.
      repository: of the hub, from which it is loaded; None: from its folder.
    """
    experiment, method = run.experiment, type(run.experiment.method).__name__
    folder = file.parent
    config = json.loads((folder / "config.json").read_text()) if to in _LIBRARIES else {}
    architecture = config.get("architecture") or next(iter(config.get("architectures", [])), "")
    library = _LIBRARIES.get(to, "jaxcl")
    use = _USE[to].format(
        name=repository or folder.name,
        where="hf-hub" if repository else "local-dir",
        fetch="\nfrom huggingface_hub import hf_hub_download" if repository else "",
        weights=f'hf_hub_download("{repository}", "{file.name}")'
        if repository
        else f'"{folder.name}/{file.name}"',
        architecture=architecture,
    )
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    facts = RunDirectory(run.directory).read_facts()
    inputs = ", ".join(
        f"{name} {'x'.join(map(str, one.shape))} {one.dtype}" for name, one in run.inputs.items()
    )
    whole = json.dumps(to_data(experiment), indent=2)
    return f"""---
library_name: {library}
tags: [contrastive-learning, self-supervised, jaxcl, {method.lower()}]
---

# {" and ".join(networks)} learned by {method}

By a run of jaxcl: {run.step:,} steps of {experiment.train.batch_size:,} examples, seed
{experiment.train.seed}.

```python
{use}
```

| | |
|---|---|
| file | `{file.name}`, SHA-256 `{digest}` |
| data | `{type(experiment.data).__name__}`, {facts.examples:,} examples: {inputs} |
| optimizer | `{type(experiment.optimizer).__name__}`, {experiment.train.epochs:g} epochs |
| made with | {versions} |

## What it reached

{_measured(run)}

## How it was trained

<details><summary>The whole experiment</summary>

```json
{whole}
```

</details>
"""


def _measured(run: RestoredRun) -> str:
    """Figures as they stand in the run's directory."""
    files = RunDirectory(run.directory)
    parts = []
    if files.evaluation.is_file():
        found = json.loads(files.evaluation.read_text())
        rows = [
            f"| {name} | {100 * scores['knn']:.1f} | {100 * scores['linear']['accuracy']:.1f} |"
            for name, scores in found.get("scores", {}).items()
        ]
        head = "| features | kNN, % | linear, % |\n|---|---:|---:|\n"
        parts.append(
            f"On the test part, after step {found.get('step')}:\n\n" + head + "\n".join(rows)
        )
    if files.tasks.is_file():
        parts += [_task(name, one) for name, one in _tasks(files.tasks).items()]
    return "\n\n".join(parts) or "Nothing was measured: `jaxcl evaluate` does."


def _tasks(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())["tasks"]
    return found


def _task(name: str, by_features: dict[str, dict[str, float]]) -> str:
    figures = list(next(iter(by_features.values())))
    head = f"| {name} | {' | '.join(by_features)} |\n|---|{'---:|' * len(by_features)}\n"
    return head + "\n".join(
        f"| {figure} | {' | '.join(f'{one[figure]:.3f}' for one in by_features.values())} |"
        for figure in figures
    )
