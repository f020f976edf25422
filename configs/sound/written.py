"""Pictures and their captions alone: what `together.py` has without speech."""

import together as stamps

from jaxcl import augment, methods, training
from jaxcl.evaluation import tasks


def config() -> training.Experiment:
    return stamps.experiment(
        stamps.rows("train"),
        {"image": stamps.picture(), "caption": augment.OneOf()},
        methods.MultiModal((stamps.picture_tower(), stamps.caption_tower())),
        (tasks.Retrieval("image, caption", stamps.rows("test"), "image", "caption"),),
    )
