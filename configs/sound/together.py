"""Pictures, captions and speech together, every two of them contrasted.

STAMPS holds stamps.npz, with captions in ten languages, the folder speech, with captions spoken in
four, and the table of it, which `python benchmarks/speech_data.py data/stamps` writes; TOKENIZER is
written by `benchmarks/text_data.py`. Pictures that share a caption are held out together, a fifth
of all. The other configs of spoken captions take their parts from here.
"""

from jaxcl import augment, data, encoders, methods, training
from jaxcl.evaluation import tasks

STAMPS = "data/stamps"
TOKENIZER = "data/text/captions.json"
LANGUAGES = ("bg", "es", "fr", "ru")
FRONT = augment.LogMel(hop=400, mels=32, mean=-30.0, std=20.0)
PROJECTOR = encoders.MLP((256, 128), output_bias=False)


def rows(part: str, **spoken: str | tuple[str, ...]) -> data.SourceConfig:
    """The training or the test part: picture, captions, and fields of what is spoken in a language,
    or in one of several, drawn anew each time."""
    captions = data.Texts(
        f"{STAMPS}/stamps.npz", TOKENIZER, ("caption",), max_length=32, empty="keep"
    )
    sounds = (
        data.Sounds(f"{STAMPS}/speech.csv", seconds=2.0, column=column, field=field)
        for field, column in spoken.items()
    )
    pictures = data.Arrays(f"{STAMPS}/stamps.npz", size=32)
    return data.Split(data.Paired((pictures, captions, *sounds)), part)  # type: ignore[arg-type]


def picture() -> augment.Transform:
    """A view of a picture: few pictures, so that one is to be known again."""
    crop = augment.RandomResizedCrop(32, scale=(0.4, 1.0))
    return augment.Compose((crop, augment.RandomHorizontalFlip()))


def speech() -> augment.Transform:
    """A view of what is spoken."""
    blanks = augment.SpecAugment(times=1, time_width=8, pitches=1, pitch_width=4)
    return augment.Compose((augment.AddNoise(20.0, 40.0), FRONT, blanks))


def spoken_tower(name: str = "spoken") -> methods.Tower:
    """Of speech, in whatever language."""
    encoder = encoders.OnSpectrogram(encoders.SmallCNN((16, 32, 64, 128)), FRONT)
    return methods.Tower(name, encoder, PROJECTOR)


def picture_tower() -> methods.Tower:
    """Of pictures, 32 pixels wide."""
    return methods.Tower("image", encoders.SmallCNN((32, 64, 128, 128)), PROJECTOR)


def caption_tower() -> methods.Tower:
    """Of captions, of which one is drawn anew at each step."""
    text = encoders.bert(4000, width=128, depth=1, heads=4, max_length=32)
    return methods.Tower("caption", text, PROJECTOR)


def by_language(field: str) -> tuple[training.Task, ...]:
    """Of held-out rows, a field by what is spoken in each language, and the other way round."""
    return tuple(
        tasks.Retrieval(f"{field}, {name}", rows("test", spoken=name), field, "spoken")
        for name in LANGUAGES
    )


def experiment(
    source: data.SourceConfig,
    views: dict[str, augment.Transform],
    method: methods.MultiModal,
    measured: tuple[training.Task, ...],
) -> training.Experiment:
    """Of views by field, for a tower each."""
    return training.Experiment(
        data=source,
        views=augment.Views(tuple(views.values()), fields=tuple(views)),
        method=method,
        optimizer=training.AdamW(learning_rate=1e-3, scaling="none"),
        schedule=training.Schedule(warmup_epochs=2),
        train=training.Train(batch_size=128, epochs=40, apart=True),
        run=training.Run(devices=1),
        tasks=measured,
    )


def config() -> training.Experiment:
    return experiment(
        rows("train", spoken=LANGUAGES),
        {"image": picture(), "caption": augment.OneOf(), "spoken": speech()},
        methods.MultiModal((picture_tower(), caption_tower(), spoken_tower())),
        (
            tasks.Retrieval("image, caption", rows("test"), "image", "caption"),
            *by_language("image"),
            *by_language("caption"),
        ),
    )
