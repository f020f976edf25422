"""CLIP from scratch: emoji and their names.

`python benchmarks/text_data.py ...` makes the tokenizer.
"""

from jaxcl import augment, data, encoders, methods, training
from jaxcl.evaluation import tasks

EMOJI = "data/emoji.npz"


def emoji(part: str) -> data.SourceConfig:
    """The training or the test part: one studio's pictures, with names."""
    pictures = data.Arrays(EMOJI, image="google", label="category")
    names = data.Texts(EMOJI, "data/text/emoji.json", ("name",), max_length=24)
    return data.Split(data.Paired((pictures, names)), part)  # type: ignore[arg-type]


def config() -> training.Experiment:
    crop = augment.simclr(32, strength=0.3, blur=False, mean=None).views[0]
    return training.Experiment(
        data=emoji("train"),
        views=augment.Views((crop, augment.Unchanged()), fields=("image", "name")),
        method=methods.clip(
            encoders.ResNet(18, stem="cifar", width=16),
            encoders.bert(2000, width=64, depth=1, heads=2, max_length=24),
            dim=128,
        ),
        optimizer=training.AdamW(learning_rate=1e-3, scaling="none"),
        schedule=training.Schedule(warmup_epochs=2),
        train=training.Train(batch_size=256, epochs=50, apart=True),
        run=training.Run(devices=1),
        tasks=(tasks.Retrieval("names", emoji("test"), "image", "name"),),
    )
