"""The handwritten digits inside scikit-learn: real images without a download."""

import dataclasses
from typing import Literal, get_args

import numpy as np

from jaxcl.data.arrays import ArraySource
from jaxcl.data.source import SourceConfig

DigitsSplit = Literal["train", "test", "all"]


@dataclasses.dataclass(frozen=True)
class Digits(SourceConfig):
    """scikit-learn's 1797 handwritten digits of 43 writers, 8x8 grey, labels 0 to 9 (the test part
    of Alpaydin and Kaynak's Optical Recognition of Handwritten Digits, 1998).

    The 17 grey levels are scaled to 0..255. The split is fixed: 1500 to train, 297 to test,
    stratified by label (its writers are in both). A record's name is its number in
    `sklearn.datasets.load_digits`.

    Example:
      >>> source = Digits(split="test").open()
      >>> len(source), source.image_shape, source[0]["label"] == source.labels[0]
      (297, (8, 8, 1), np.True_)
    """

    split: DigitsSplit = "train"
    """Which digits: "train" (1500), "test" (297) or "all" (1797)."""

    size: int | None = None
    """Side in pixels that images are resized to when opened, antialiased bilinear. None keeps 8."""

    def open(self) -> ArraySource:
        """Loads the digits.

        Raises:
          ValueError: if the split is none of the three.
        """
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        if self.split not in get_args(DigitsSplit):
            raise ValueError(f"split {self.split!r} is none of {', '.join(get_args(DigitsSplit))}")
        levels, labels = load_digits(return_X_y=True)
        records = np.arange(len(labels))
        if self.split != "all":
            train, test = train_test_split(records, test_size=297, stratify=labels, random_state=0)
            records = np.sort(train if self.split == "train" else test)
        images = np.rint(levels[records].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        return ArraySource(
            images,
            labels[records],
            names=[str(record) for record in records],
            label_names=tuple("0123456789"),
            size=self.size,
            what="digits",
        )
