"""Pictures of things and their captions in ten languages, as one space, from scratch.

Two captions are drawn anew for each picture and step, and each of the three is contrasted with the
others: CLIP's loss between picture and caption, and between two languages. Pictures that share a
caption are held out together. `python benchmarks/text_data.py ...` makes the tokenizer;
`docs/text.md` says what it reached.
"""

from jaxcl import augment, data, encoders, methods, training
from jaxcl.evaluation import tasks

STAMPS = "data/stamps.npz"
TOKENIZER = "data/text/captions.json"
PROMPTS = ("{}", "A picture of {}.")


def pictures(part: str) -> data.SourceConfig:
    """The training or the test part: pictures with captions and categories."""
    captions = data.Texts(STAMPS, TOKENIZER, ("caption",), max_length=32, empty="keep")
    return data.Split(
        data.Paired((data.Arrays(STAMPS, label="category"), captions)),
        part,  # type: ignore[arg-type]
    )


def config() -> training.Experiment:
    text = encoders.bert(4000, width=128, depth=1, heads=4, max_length=32)
    projector = encoders.MLP((128,), output_bias=False)
    crop = augment.simclr(32, strength=0.3, blur=False, mean=None).views[0]
    return training.Experiment(
        data=pictures("train"),
        views=augment.Views(
            (crop, augment.OneOf(), augment.OneOf()), fields=("image", "caption", "caption")
        ),
        method=methods.MultiModal(
            (
                methods.Tower("image", encoders.ResNet(18, stem="cifar", width=16), projector),
                methods.Tower("caption", text, projector),
                methods.Tower("translation", encoder_of="caption", projector_of="caption"),
            )
        ),
        optimizer=training.AdamW(learning_rate=1e-3, scaling="none"),
        schedule=training.Schedule(warmup_epochs=2),
        train=training.Train(batch_size=128, epochs=60, apart=True),
        run=training.Run(devices=1),
        tasks=(
            tasks.Retrieval("captions", pictures("test"), "image", "caption"),
            tasks.Retrieval("languages", pictures("test"), "caption", "caption"),
            tasks.ZeroShot("categories", pictures("test"), "image", TOKENIZER, "caption", PROMPTS),
        ),
    )
