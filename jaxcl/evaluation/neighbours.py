"""A picture of nearest neighbours: what the representation takes for alike."""

import os
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from jax.typing import ArrayLike

from jaxcl.evaluation.knn import nearest_neighbours
from jaxcl.evaluation.validation import as_features, as_labels, check_count

_RIGHT, _WRONG, _NEUTRAL = "#1a7f5a", "#c8452f", "#444444"


def neighbour_sheet(
    images: ArrayLike,
    features: ArrayLike,
    query_images: ArrayLike,
    query_features: ArrayLike,
    path: str | os.PathLike[str] | BinaryIO,
    *,
    labels: ArrayLike | None = None,
    query_labels: ArrayLike | None = None,
    class_names: Sequence[str] | None = None,
    k: int = 8,
    exclude_self: bool = False,
    title: str | None = None,
    cell_inches: float = 0.9,
) -> None:
    """Writes a PNG: each row a query image and its k nearest images, by cosine of the features.

    With labels, the class stands beneath each picture and a neighbour's frame is green where its
    class is the query's, red where not; without, its similarity stands there.

    Args:
      images: [N, H, W], [N, H, W, 1] or [N, H, W, 3]; uint8, or float in [0, 1].
      features: [N, D] of the images.
      query_images: [M, ...] as `images`, a row each; 1 to 50.
      query_features: [M, D].
      path: of the PNG to write, or a file open for its bytes.
      labels: [N] int >= 0, with `query_labels`.
      query_labels: [M] int >= 0.
      class_names: what to call the classes; None: their numbers.
      k: neighbours a query, 1 <= k <= N.
      exclude_self: the queries are the images themselves, each not its own neighbour.
      title: above the sheet.
      cell_inches: size of one picture, at 160 dots an inch.

    Raises:
      ValueError: if shapes do not fit, one kind of labels lacks, a class has no name, or pictures
        are neither grey nor RGB, or floats out of [0, 1].
    """
    gallery, probes = _as_images("images", images), _as_images("query_images", query_images)
    check_count("the number of query_images", len(probes), most=50, of="rows in a readable sheet")
    for name, pictures, rows in (
        ("features", gallery, as_features("features", features)),
        ("query_features", probes, as_features("query_features", query_features)),
    ):
        if len(pictures) != len(rows):
            raise ValueError(f"{name} has {len(rows)} rows for {len(pictures)} images")
    if (labels is None) != (query_labels is None):
        raise ValueError("labels and query_labels belong together: give both or neither")
    classes = query_classes = None
    if labels is not None:
        classes = as_labels("labels", labels, len(gallery))
        query_classes = as_labels("query_labels", query_labels, len(probes))
        most = max(classes.max(), query_classes.max())
        if class_names is not None and most >= len(class_names):
            raise ValueError(f"class_names has {len(class_names)} names, but a label is {most}")
    indices, similarities = nearest_neighbours(
        features, query_features, k, exclude_self=exclude_self
    )

    def class_name(label: int) -> str:
        return str(label) if class_names is None else class_names[label]

    sheet = _Sheet(len(probes), k, cell_inches, title)
    for row, probe in enumerate(probes):
        query_caption = "" if query_classes is None else class_name(query_classes[row])
        sheet.picture(row, None, probe, query_caption, _NEUTRAL)
        for column, (index, similarity) in enumerate(
            zip(indices[row], similarities[row], strict=True)
        ):
            caption, colour = f"{similarity:.2f}", _NEUTRAL
            if classes is not None and query_classes is not None:
                caption = class_name(classes[index])
                colour = _RIGHT if classes[index] == query_classes[row] else _WRONG
            sheet.picture(row, column, gallery[index], caption, colour)
    sheet.save(path)


def _as_images(name: str, images: ArrayLike) -> np.ndarray:
    """[N, H, W] or [N, H, W, 3], uint8 or float in [0, 1]."""
    array = np.asarray(images)
    if array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    if not (array.ndim == 3 or (array.ndim == 4 and array.shape[-1] == 3)) or 0 in array.shape:
        raise ValueError(
            f"{name} has shape {np.shape(images)}, expected [N, H, W], [N, H, W, 1] or [N, H, W, 3]"
        )
    if array.dtype == np.uint8:
        return array
    array = array.astype(np.float32)
    # Negated, so that NaN is refused too.
    if not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(
            f"{name} reaches from {array.min():.3g} to {array.max():.3g}, expected uint8 or floats "
            "in [0, 1]: undo the normalization first"
        )
    return array


class _Sheet:
    """The page: a column of queries, a gap, and a grid of neighbours."""

    def __init__(self, rows: int, k: int, cell: float, title: str | None) -> None:
        # Figure and canvas without pyplot: no display is looked for, no global state changed.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._cell, self._caption = cell, 0.22
        self._gap, self._margin = 0.12 * cell, 0.15
        self._head = 0.32 + (0.36 if title else 0.0)
        self._width = 2 * self._margin + (k + 1) * (cell + self._gap) + 2 * self._gap
        self._height = self._margin + self._head + rows * (cell + self._caption + self._gap)
        self._figure = Figure(figsize=(self._width, self._height), facecolor="white")
        FigureCanvasAgg(self._figure)
        if title:
            self._text(self._margin, self._margin + 0.12, title, size=11, weight="bold")
        head = self._margin + self._head - 0.18
        self._text(self._margin, head, "query", size=8.5, color="#777777")
        self._text(self._left(0), head, "nearest first", size=8.5, color="#777777")

    def _left(self, column: int | None) -> float:
        step = self._cell + self._gap
        return (
            self._margin if column is None else self._margin + step * (column + 1) + 2 * self._gap
        )

    def _text(self, x: float, y: float, text: str, **style: object) -> None:
        placed = self._figure.text(
            x / self._width, 1 - y / self._height, text, ha="left", va="center"
        )
        placed.set(**style)

    def picture(
        self, row: int, column: int | None, image: np.ndarray, caption: str, colour: str
    ) -> None:
        """One picture, framed, with its caption beneath; column None is the query's."""
        left = self._left(column)
        top = self._margin + self._head + row * (self._cell + self._caption + self._gap)
        axes = self._figure.add_axes(
            (
                left / self._width,
                1 - (top + self._cell) / self._height,
                self._cell / self._width,
                self._cell / self._height,
            )
        )
        brightest = 255 if image.dtype == np.uint8 else 1
        axes.imshow(image, cmap="gray", vmin=0, vmax=brightest, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        for side in axes.spines.values():
            side.set(color=colour, linewidth=1.0 if column is None else 1.8)
        room = max(int(self._cell * 15), 4)  # characters of this size that a picture is wide
        if len(caption) > room:
            caption = caption[: room - 1] + "…"
        centre, below = left + self._cell / 2, top + self._cell + self._caption / 2 + 0.01
        self._text(centre, below, caption, size=8, color=colour, ha="center")

    def save(self, path: str | os.PathLike[str] | BinaryIO) -> None:
        # No software version in the file: equal sheets are equal bytes.
        self._figure.savefig(path, format="png", dpi=160, metadata={"Software": None})
