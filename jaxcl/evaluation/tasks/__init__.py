"""What a config asks to be measured of features, beside labels of images: retrieval from one field
to another, classes, what is told of moments, cameras that see the same."""

from jaxcl.evaluation.tasks.classes import Classes, Verification, ZeroShot
from jaxcl.evaluation.tasks.retrieval import Retrieval, Similarity
from jaxcl.evaluation.tasks.times import Cameras, Regression

__all__ = [
    "Cameras",
    "Classes",
    "Regression",
    "Retrieval",
    "Similarity",
    "Verification",
    "ZeroShot",
]
