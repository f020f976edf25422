"""TS2Vec on labelled series, learned without the labels.

`python benchmarks/series_data.py data/series` writes the data; SERIES=BasicMotions, say, takes
another set of them than GunPoint. Network, learning rate and 200 steps of 8 series are the authors'
for data as small; their stretches vary in length, ours have one. `docs/time.md` says what it
reached. The other config of series takes its data from here.
"""

import math
import os

from jaxcl import augment, data, encoders, methods, training
from jaxcl.encoders.series import PoolTimes
from jaxcl.evaluation import tasks

# Series to train on, and times of each.
SIZES = {
    "ArrowHead": (36, 251),
    "BasicMotions": (40, 100),
    "GunPoint": (50, 150),
    "ItalyPowerDemand": (67, 24),
    "JapaneseVowels": (270, 29),
    "OSULeaf": (200, 427),
}


def series(name: str, part: str) -> data.SourceConfig:
    """The training or the test part; a record is a whole series."""
    if name not in SIZES:
        raise ValueError(f"SERIES is {name!r}, expected one of {', '.join(SIZES)}")
    path = f"data/series/{name}_{part}.npz"
    return data.Episodes(path, fields=("series",), window=SIZES[name][1], label="label")


def network(pool: PoolTimes, mask_share: float = 0.0) -> encoders.TemporalConvolutions:
    """Eleven blocks, which see further than any of these series."""
    widths = (64,) * 10 + (320,)
    return encoders.TemporalConvolutions(widths, causal=False, mask_share=mask_share, pool=pool)


def config() -> training.Experiment:
    name = os.environ.get("SERIES", "GunPoint")
    train, test = series(name, "train"), series(name, "test")
    count, times = SIZES[name]
    return training.Experiment(
        data=train,
        views=augment.Views((augment.Compose(()),), fields="series"),
        method=methods.TS2Vec(
            network("none", mask_share=0.5), stretch=2 * times // 3, overlap=times // 2
        ),
        optimizer=training.AdamW(learning_rate=1e-3, weight_decay=0.01, scaling="none"),
        train=training.Train(batch_size=8, epochs=math.ceil(200 / (count // 8))),
        run=training.Run(devices=1),
        tasks=(tasks.Classes("class", train, test, "series", neighbours=1),),
    )
