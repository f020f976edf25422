"""Captions, written in ten languages and spoken in four, as one space.

Data and towers are those of together.py.
"""

import together as stamps

from jaxcl import augment, methods, training


def config() -> training.Experiment:
    return stamps.experiment(
        stamps.rows("train", spoken=stamps.LANGUAGES),
        {"caption": augment.OneOf(), "spoken": stamps.speech()},
        methods.MultiModal((stamps.caption_tower(), stamps.spoken_tower())),
        stamps.by_language("caption"),
    )
