"""Pictures, captions and speech together: every two of them are contrasted (see stamps.py)."""

import stamps

from jaxcl import augment, methods, training
from jaxcl.evaluation import tasks


def config() -> training.Experiment:
    return stamps.experiment(
        stamps.rows("train", spoken=stamps.LANGUAGES),
        {"image": stamps.picture(), "caption": augment.OneOf(), "spoken": stamps.speech()},
        methods.MultiModal((stamps.picture_tower(), stamps.caption_tower(), stamps.spoken_tower())),
        (
            tasks.Retrieval("image, caption", stamps.rows("test"), "image", "caption"),
            *stamps.by_language("image"),
            *stamps.by_language("caption"),
        ),
    )
