"""Neighbours of queries, confusion of classes, and what retrieval does not find."""

import numpy as np

from jaxcl.evaluation.blocks import normalized_rows
from jaxcl.evaluation.knn import knn_classify, nearest_neighbours
from jaxcl.reports.examples import Examples
from jaxcl.reports.html import note, paragraph, table, text

_SHOWN, _NEIGHBOURS = 8, 6
_MATRIX = 20  # classes of a matrix that can be read
_PAIRS = 25  # pairs of classes in a list


def neighbours(gallery: Examples, queries: Examples, *, same: bool) -> str:
    """Some queries, each with what is most like it.

    Args:
      gallery: what is found.
      queries: what it is found for.
      same: whether they are the same examples, so that none finds itself.
    """
    k = min(_NEIGHBOURS, len(gallery) - same)
    if k < 1:
        return note("There is one example, and so no neighbour.")
    chosen = np.linspace(0, len(queries) - 1, min(_SHOWN, len(queries))).astype(int)
    return _strips(gallery, queries, chosen, k, same=same)


def confusion(gallery: Examples, queries: Examples, *, same: bool) -> str:
    """Which classes the nearest neighbours take for one another, and the surest mistakes."""
    labels, truth = gallery.source.labels, queries.source.labels
    assert labels is not None
    assert truth is not None
    labels, truth = np.asarray(labels), np.asarray(truth)
    k = min(20, len(gallery) - same)
    if k < 1:
        return note("There is one example, and so no neighbour.")
    if same:
        rows, _ = nearest_neighbours(gallery.features, queries.features, k, exclude_self=True)
        found = np.array([np.bincount(labels[row]).argmax() for row in rows])
    else:
        rows, _ = nearest_neighbours(gallery.features, queries.features, k)
        found = knn_classify(gallery.features, labels, queries.features, k=k)
    right = found == truth
    said = paragraph(
        f"{k} nearest of {len(gallery):,} examples: {100 * right.mean():.1f} % of {len(queries):,} "
        "queries right."
    )
    classes = np.unique(np.concatenate([truth, found]))
    names = {int(number): _class_name(gallery, queries, int(number)) for number in classes}
    if len(classes) <= _MATRIX:
        said += _matrix(truth, found, names)
    else:
        said += _pairs(truth, found, names)
    wrong = np.flatnonzero(~right)
    if not len(wrong):
        return said + paragraph("No mistakes.")
    agreeing = (labels[rows[wrong]] == found[wrong, None]).mean(1)
    surest = wrong[np.argsort(-agreeing, kind="stable")[:_SHOWN]]
    return (
        said
        + "<h3>Surest mistakes</h3>"
        + _strips(gallery, queries, surest, min(k, _NEIGHBOURS), same=same)
    )


def not_found(queries: Examples, gallery: Examples, *, what: str) -> str:
    """Records whose partner is far down among what their query finds, farthest first.

    Args:
      queries: record i of one field.
      gallery: record i of the other.
      what: the two, in words.
    """
    cosines = normalized_rows(queries.features) @ normalized_rows(gallery.features).T  # [N, N]
    own = np.diagonal(cosines)[:, None]
    # Of equal cosines the earlier record comes first: of a collapsed encoder nothing is found.
    is_before = np.tri(len(cosines), k=-1, dtype=bool)
    ranks = 1 + ((cosines > own) | ((cosines == own) & is_before)).sum(1)
    said = paragraph(
        f"{what}: the partner comes first for {100 * (ranks == 1).mean():.1f} % of "
        f"{len(ranks):,} records, within ten for {100 * (ranks <= 10).mean():.1f} %; its median "
        f"place is {np.median(ranks):,.0f}."
    )
    worst = [int(row) for row in np.argsort(-ranks, kind="stable")[:_SHOWN] if ranks[row] > 1]
    if not worst:
        return said + paragraph("No failures.")
    strips = []
    for row in worst:
        best = np.argsort(-cosines[row], kind="stable")[:4]
        items = [
            queries.html(row, caption="query", kind="query"),
            gallery.html(row, caption=f"partner, place {ranks[row]:,}", kind="right"),
            *(
                gallery.html(int(other), caption=f"found, {cosines[row, other]:.2f}", kind="wrong")
                for other in best
            ),
        ]
        strips.append(_strip(items, f"query {queries.words(row)}"))
    return said + "".join(strips)


def _strips(gallery: Examples, queries: Examples, chosen: np.ndarray, k: int, *, same: bool) -> str:
    rows, cosines = nearest_neighbours(
        gallery.features, queries.features[chosen], k + same
    )  # of the same examples the first is itself
    labels, truth = gallery.source.labels, queries.source.labels
    strips = []
    for query, found, alike in zip(chosen.tolist(), rows, cosines, strict=True):
        items = [queries.html(query, caption=queries.label(query) or "query", kind="query")]
        others = [(int(r), s) for r, s in zip(found, alike, strict=True) if not same or r != query]
        for row, cosine in others[:k]:
            kind = ""
            if labels is not None and truth is not None:
                kind = "right" if labels[row] == truth[query] else "wrong"
            mark = {"right": "\u2713 ", "wrong": "\u2717 "}.get(kind, "")
            caption = f"{mark}{gallery.label(row)} {cosine:.2f}".strip()
            items.append(gallery.html(row, caption=caption, kind=kind))
        strips.append(_strip(items, f"neighbours of {queries.words(query)}"))
    return "".join(strips)


def _strip(items: list[str], words: str) -> str:
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(words)}">'
        f'<div class="strip">{"".join(items)}</div></div>'
    )


def _class_name(gallery: Examples, queries: Examples, number: int) -> str:
    for examples in (gallery, queries):
        names = examples.source.label_names
        if names and number < len(names):
            return names[number]
    return str(number)


def _matrix(truth: np.ndarray, found: np.ndarray, names: dict[int, str]) -> str:
    """Counts by true class (rows) and found class, darker where more of the class are."""
    numbers = list(names)
    head = "".join(f'<th scope="col">{text(names[number])}</th>' for number in numbers)
    lines = []
    for number in numbers:
        of_class = found[truth == number]
        cells = []
        for other in numbers:
            count = int((of_class == other).sum())
            share = count / max(1, len(of_class))
            full = (26, 127, 75) if other == number else (181, 64, 10)
            shade = tuple(round(255 + share * (part - 255)) for part in full)
            style = f' style="background:rgb{shade};color:{_ink(shade)}"' if count else ""
            cells.append(f'<td class="cell"{style}>{count or ""}</td>')
        lines.append(f'<tr><th scope="row">{text(names[number])}</th>{"".join(cells)}</tr>')
    caption = "Queries by their class (rows) and the class that was found (columns)"
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table>'
        f"<caption>{caption}</caption><thead><tr><td></td>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _ink(shade: tuple[int, ...]) -> str:
    """Black or white, whichever stands out more: by 4.5 to 1 at least, as WCAG has it."""
    shares = [part / 255 for part in shade]
    linear = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in shares]
    light = float(np.dot((0.2126, 0.7152, 0.0722), linear))
    return "#fff" if 1.05 / (light + 0.05) > (light + 0.05) / 0.05 else "#000"


def _pairs(truth: np.ndarray, found: np.ndarray, names: dict[int, str]) -> str:
    """Of many classes, the pairs that are confused most."""
    wrong = truth != found
    pairs, counts = np.unique(np.stack([truth[wrong], found[wrong]], 1), axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_PAIRS]
    rows = [(names[int(pairs[i, 0])], names[int(pairs[i, 1])], int(counts[i])) for i in order]
    return table(
        ["class", "taken for", "times"],
        rows,
        caption=f"Of {len(names):,} classes, the most confused",
    )
