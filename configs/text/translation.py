"""Verses and their translations, from scratch: one encoder for English and Spanish.

`python benchmarks/text_data.py ...` writes the files.
"""

from jaxcl import augment, data, encoders, methods, training
from jaxcl.evaluation import tasks

FOLDER = "data/text"
LANGUAGES = ("world_english", "spanish")


def verses(part: str) -> data.Texts:
    """The verses of some books, in both languages."""
    path = f"{FOLDER}/verses_{part}.tsv"
    return data.Texts(path, f"{FOLDER}/english_spanish.json", LANGUAGES, max_length=64)


def config() -> training.Experiment:
    projector = encoders.MLP((128,), output_bias=False)
    encoder = encoders.bert(8000, width=128, depth=1, heads=4, max_length=64)
    return training.Experiment(
        data=verses("train"),
        views=augment.Views((augment.Unchanged(),) * 2, fields=LANGUAGES),
        method=methods.MultiModal(
            (
                methods.Tower("english", encoder, projector),
                methods.Tower("spanish", encoder_of="english", projector_of="english"),
            ),
        ),
        optimizer=training.AdamW(learning_rate=2e-3, scaling="none"),
        schedule=training.Schedule(warmup_epochs=0.2),
        train=training.Train(batch_size=256, epochs=2, apart=True),
        run=training.Run(devices=1),
        tasks=(tasks.Retrieval("translations", verses("held_out"), *LANGUAGES),),
    )
