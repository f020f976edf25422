"""Which language is spoken, learned without labels: COLA on short spoken captions.

SPEECH has a folder of sound files for each language, where a file's name says which caption it is:
change it here, for training and tasks read it. A fifth of the names are held out, in all languages.
`docs/time.md` says what it reached.
"""

from jaxcl import augment, data, encoders, methods, training
from jaxcl.evaluation import tasks

SPEECH = "data/stamps/speech"
FRONT = augment.LogMel(hop=320, mels=40, mean=-30.0, std=20.0)


def speech(part: str) -> data.SourceConfig:
    """The training or the test part."""
    clips = data.Sounds(SPEECH, seconds=1.5, labels="subfolders", same="name")
    return data.Split(clips, part)  # type: ignore[arg-type]


def config() -> training.Experiment:
    view = augment.Compose(
        (
            augment.RandomWindow(12_000),
            augment.RandomGain(),
            augment.AddNoise(10.0, 40.0),
            FRONT,
            augment.SpecAugment(),
        )
    )
    return training.Experiment(
        data=speech("train"),
        views=augment.Views((view, view), fields="sound"),
        method=methods.COLA(
            encoders.OnSpectrogram(encoders.SmallCNN((16, 32, 64, 128)), FRONT),
            encoders.TanhProjector(128),
        ),
        optimizer=training.AdamW(learning_rate=1e-3, scaling="none"),
        schedule=training.Schedule(warmup_epochs=2),
        train=training.Train(batch_size=128, epochs=10),
        run=training.Run(devices=1),
        tasks=(tasks.Classes("language", speech("train"), speech("test"), "sound"),),
    )
