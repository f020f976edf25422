"""Two-dimensional maps of features."""

import math
from typing import Literal, get_args

import numpy as np

from jaxcl.extras import import_extra
from jaxcl.reports.examples import Examples, sprite
from jaxcl.reports.html import COLOURS, data_address, embedded_json, legend, text

MapKind = Literal["pca", "tsne", "umap"]
MAP_KINDS: tuple[str, ...] = get_args(MapKind)
_NAMES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
_SIZE, _MARGIN = 400, 12  # units of the drawing
_CELL, _ACROSS = 48, 32  # of thumbnails
_LEAST = 6  # examples that t-SNE and UMAP need


def project(features: np.ndarray, kind: MapKind) -> tuple[np.ndarray, str]:
    """Places [N, 2] of features [N, F] in the plane, and by what; the same each time.

    Rows are scaled to length 1 first, so that distances follow cosines. Of fewer than 6 rows, PCA.

    Raises:
      ImportError: of "umap", where umap-learn is not installed.
    """
    rows = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    if len(rows) < _LEAST:
        kind = "pca"
    if kind == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(rows) - 1) / 3)
        places = TSNE(perplexity=perplexity, init="random", random_state=0).fit_transform(rows)
    elif kind == "umap":
        umap = import_extra("umap", "umap")
        neighbours = min(15, len(rows) - 1)
        places = umap.UMAP(n_neighbors=neighbours, random_state=0, n_jobs=1).fit_transform(rows)
    else:
        centred = rows - rows.mean(0)
        _, _, axes = np.linalg.svd(centred, full_matrices=False)
        places = np.zeros((len(rows), 2))
        places[:, : len(axes[:2])] = centred @ axes[:2].T
    return np.asarray(places, np.float64), _NAMES[kind]


def feature_map(examples: Examples, kind: MapKind) -> str:
    """A map of examples as HTML: coloured by class, a thumbnail where one points."""
    places, name = project(examples.features, kind)
    low, high = places.min(0), places.max(0)
    spread = np.where(high > low, high - low, 1)
    x, y = (_MARGIN + (_SIZE - 2 * _MARGIN) * (places - low) / spread).T
    colours, names, shades = _colours(examples)
    dots = "".join(
        f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>'
        for a, b, colour in zip(x, y, colours, strict=True)
    )
    data = {
        "size": _SIZE,
        "x": [round(value, 1) for value in x.tolist()],
        "y": [round(value, 1) for value in y.tolist()],
        "words": [examples.words(row) for row in range(len(examples))],
        "side": 0,
    }
    thumbnails = sprite(examples, _CELL, _ACROSS)
    if thumbnails is not None:
        address = data_address(thumbnails, "JPEG")
        data |= {"side": _CELL, "across": _ACROSS, "sprite": address}
    words = f"{name} of the features of {len(examples):,} examples"
    said = f"{words}{', coloured by class' if names else ''}; arrow keys go from one to the next"
    return (
        f"<p>{text(words)}. Point at one, or use the arrow keys, to see it.</p>"
        f"{legend(names, shades) if names else ''}"
        f'<div class="map"><svg viewBox="0 0 {_SIZE} {_SIZE}" role="img" tabindex="0" '
        f'aria-label="{text(said)}">{dots}'
        '<circle class="ring" r="7" fill="none" stroke="#1b1f24" stroke-width="2" '
        'visibility="hidden"/></svg>'
        '<div class="tip"><span class="thumb"></span><span class="words"></span></div>'
        '<p class="said soft" aria-live="polite"></p>'
        f'<script type="application/json">{embedded_json(data)}</script></div>'
    )


def _colours(examples: Examples) -> tuple[list[str], list[str], list[str]]:
    """The colour of each example; the names and colours of classes, where there are
    more than colours the most frequent, and the others as one."""
    labels = examples.source.labels
    if labels is None:
        return [COLOURS[0]] * len(examples), [], []
    numbers, first, counts = np.unique(np.asarray(labels), return_index=True, return_counts=True)
    order = np.arange(len(numbers))
    if len(order) > len(COLOURS):
        order = np.argsort(-counts, kind="stable")
    shown = order if len(order) <= len(COLOURS) else order[: len(COLOURS) - 1]
    by_number = {int(numbers[place]): COLOURS[i] for i, place in enumerate(shown)}
    names = [examples.label(int(first[place])) for place in shown]
    shades = list(COLOURS[: len(shown)])
    if len(shown) < len(order):
        names.append(f"{len(order) - len(shown):,} other classes")
        shades.append("#9aa0a6")
    return [by_number.get(int(label), "#9aa0a6") for label in np.asarray(labels)], names, shades


def is_finite(features: np.ndarray) -> bool:
    """Whether all features are numbers."""
    return bool(np.isfinite(features).all()) and math.isfinite(float(np.abs(features).max()))
