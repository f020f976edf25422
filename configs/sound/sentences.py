"""One sentence in four languages: two of a picture's spoken captions are alike.

Data and towers are those of together.py.
"""

import itertools

import together as stamps

from jaxcl import methods, training
from jaxcl.evaluation import tasks


def config() -> training.Experiment:
    measured = tuple(
        tasks.Retrieval(
            f"{one}, {other}", stamps.rows("test", spoken=one, again=other), "spoken", "again"
        )
        for one, other in itertools.combinations(stamps.LANGUAGES, 2)
    )
    spoken = stamps.spoken_tower()
    return stamps.experiment(
        stamps.rows("train", spoken=stamps.LANGUAGES, again=stamps.LANGUAGES),
        {"spoken": stamps.speech(), "again": stamps.speech()},
        methods.MultiModal(
            (spoken, methods.Tower("again", encoder_of="spoken", projector_of="spoken"))
        ),
        measured,
    )
