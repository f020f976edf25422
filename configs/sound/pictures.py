"""Pictures and what is said of them, in any of four languages, as one space.

Data and towers are those of together.py.
"""

import together as stamps

from jaxcl import methods, training


def config() -> training.Experiment:
    return stamps.experiment(
        stamps.rows("train", spoken=stamps.LANGUAGES),
        {"image": stamps.picture(), "spoken": stamps.speech()},
        methods.MultiModal((stamps.picture_tower(), stamps.spoken_tower())),
        stamps.by_language("image"),
    )
