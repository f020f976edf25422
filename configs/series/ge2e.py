"""Who speaks, by the GE2E loss: nine speakers saying two vowels (JapaneseVowels).

Data are those of ts2vec.py, as twelve cepstra a frame. The speakers are the same in the test part,
their utterances are not.
"""

import ts2vec as archive

from jaxcl import augment, encoders, methods, training
from jaxcl.evaluation import tasks

NAME = "JapaneseVowels"


def config() -> training.Experiment:
    train, test = archive.series(NAME, "train"), archive.series(NAME, "test")
    return training.Experiment(
        data=train,
        views=augment.Views((augment.Compose(()),), fields="series"),
        method=methods.GE2E(
            encoders.TemporalConvolutions((64, 64, 64), causal=False, pool="mean"),
            encoders.MLP((64,)),
        ),
        optimizer=training.AdamW(learning_rate=1e-3, scaling="none"),
        schedule=training.Schedule(warmup_epochs=2),
        train=training.Train(batch_size=64, epochs=60),
        run=training.Run(devices=1),
        tasks=(
            tasks.Verification("speaker", test, "series"),
            tasks.Classes("speaker is known", train, test, "series"),
        ),
    )
