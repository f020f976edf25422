"""wav2vec 2.0, small, on short spoken captions: what is hidden of one is told from the rest of it.

Data and task are those of language.py; frames are measured one by one, too. Each frame is 20 ms.
"""

import language as spoken

from jaxcl import augment, encoders, methods, training
from jaxcl.evaluation import tasks


def config() -> training.Experiment:
    train, test = spoken.speech("train"), spoken.speech("test")
    return training.Experiment(
        data=train,
        views=augment.Views((augment.RandomGain(),), fields="sound"),
        method=methods.Wav2Vec2(
            encoders.wav2vec_front(64),
            encoders.MLP((64,)),
            context=encoders.FrameTransformer(
                width=128, depth=2, heads=4, place_kernel=32, place_groups=16
            ),
            quantizer=encoders.ProductQuantizer(entries=40, width=64, out=64),
            negatives=30,
        ),
        optimizer=training.AdamW(learning_rate=1e-3, scaling="none"),
        schedule=training.Schedule(warmup_epochs=2),
        train=training.Train(batch_size=32, epochs=4),
        run=training.Run(devices=1),
        tasks=(
            tasks.Classes("language", train, test, "sound"),
            tasks.Classes("language, of a frame", train, test, "sound", frames=True),
        ),
    )
