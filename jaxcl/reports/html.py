"""HTML pages of sections, tables and pictures, whole in one file."""

import base64
import dataclasses
import io
import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from PIL import Image

COLOURS = (
    *("#0b62a4", "#b5400a", "#1a7f4b", "#8a3fa0", "#8c6d00"),
    *("#00798c", "#b3245a", "#5b5b5b", "#4d4dbf", "#7a4a2b"),
)
"""Of runs and classes: each stands out from white by 4.5 to 1 or more."""


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a page."""

    title: str
    """Plain text."""
    body: str
    """HTML."""


def text(value: object) -> str:
    """A value as HTML that shows it, whatever it holds."""
    return escape(str(value), quote=True)


def paragraph(words: str) -> str:
    """Plain text as a paragraph."""
    return f"<p>{text(words)}</p>"


def note(words: str) -> str:
    """Plain text that says what is missing, or odd."""
    return f'<p class="note">{text(words)}</p>'


def table(
    head: Sequence[object], rows: Iterable[Sequence[object]], *, caption: str, numbers: bool = True
) -> str:
    """A table of plain values, the first column naming rows; wide ones scroll by themselves."""
    kind = "numbers" if numbers else "words"
    cells = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    lines = "".join(
        f'<tr><th scope="row">{text(first)}</th>'
        + "".join(f"<td>{text(value)}</td>" for value in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}">'
        f'<table class="{kind}"><caption>{text(caption)}</caption>'
        f"<thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def legend(names: Sequence[str], colours: Sequence[str]) -> str:
    """Names beside their colours."""
    items = "".join(
        f'<li><span class="swatch" style="background:{colour}"></span>{text(name)}</li>'
        for name, colour in zip(names, colours, strict=True)
    )
    return f'<ul class="legend">{items}</ul>'


def picture(image: Image.Image, alt: str, *, caption: str = "", kind: str = "PNG") -> str:
    """A picture within the page, no wider than it."""
    words = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="{data_address(image, kind)}" alt="{text(alt)}">{words}</figure>'


def data_address(image: Image.Image, kind: str = "PNG") -> str:
    """A picture as an address that holds it."""
    file = io.BytesIO()
    options: dict[str, Any] = {"quality": 85} if kind == "JPEG" else {"optimize": True}
    image.convert("RGB").save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def embedded_json(value: Any) -> str:
    """JSON that may stand within a script element: nothing in it ends that."""
    content = json.dumps(value, allow_nan=False)
    return content.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole file."""
    links = "".join(
        f'<li><a href="#part-{number}">{text(section.title)}</a></li>'
        for number, section in enumerate(sections)
    )
    parts = "".join(
        f'<section id="part-{number}" aria-labelledby="title-{number}">'
        f'<h2 id="title-{number}">{text(section.title)}</h2>{section.body}</section>'
        for number, section in enumerate(sections)
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head><body>"
        f"<header><h1>{text(title)}</h1><p>{text(subtitle)}</p>"
        f'<nav aria-label="Parts"><ul>{links}</ul></nav></header>'
        f"<main>{parts}</main><script>{_SCRIPT}</script></body></html>\n"
    )


_STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --soft: #57606a; --line: #d0d7de; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 0 1rem 4rem; max-width: 72rem; background: #fff;
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 1.5rem 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; padding-top: .5rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
header p, figcaption, caption, .soft { color: var(--soft); }
nav ul, .legend { display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding: 0; margin: .5rem 0;
  list-style: none; }
a { color: #0550ae; }
.note { border-left: 4px solid #8c6d00; padding: .25rem .75rem; background: #fff8e1; }
.swatch { display: inline-block; width: .8rem; height: .8rem; margin-right: .35rem;
  border-radius: 2px; }
.charts { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); }
.tables { display: grid; gap: 0 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); }
figure { margin: 0; }
figure svg, figure img { display: block; width: 100%; height: auto; }
figure img { width: auto; max-width: 100%; image-rendering: pixelated; }
.charts figure svg { max-width: 28rem; }
.scroll { overflow-x: auto; max-width: 100%; }
.scroll:focus-visible, a:focus-visible, svg:focus-visible, summary:focus-visible {
  outline: 2px solid #0550ae; outline-offset: 2px; }
table { border-collapse: collapse; margin: .5rem 0 1rem; font-size: .9rem; }
caption { text-align: left; padding-bottom: .25rem; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; font-weight: normal; }
thead th { font-weight: 600; }
table.numbers td, table.numbers thead th:not(:first-child) { text-align: right;
  font-variant-numeric: tabular-nums; }
td.cell { text-align: center; min-width: 2rem; }
.strip { display: flex; gap: .5rem; align-items: flex-start; padding: .25rem 0; }
.item { flex: none; width: 5.5rem; font-size: .75rem; line-height: 1.25; }
.item img { display: block; width: 5rem; height: 5rem; object-fit: contain;
  image-rendering: pixelated; border: 3px solid transparent; background: #f6f8fa; }
.item.words { width: 11rem; border: 2px solid var(--line); padding: .25rem; }
.item.right img, .item.right.words { border-color: #1a7f4b; }
.item.wrong img, .item.wrong.words { border-color: #b5400a; }
.item.query { margin-right: .75rem; }
.map { position: relative; max-width: 40rem; }
.map svg { display: block; width: 100%; height: auto; border: 1px solid var(--line);
  touch-action: manipulation; }
.tip { position: absolute; display: none; pointer-events: none; max-width: 12rem;
  background: #fff; border: 1px solid var(--line); padding: .35rem; font-size: .8rem;
  box-shadow: 0 2px 8px rgba(0, 0, 0, .2); z-index: 1; }
.tip span { display: block; }
pre { white-space: pre-wrap; font-size: .8rem; }
@media print {
  nav { display: none; }
  body { max-width: none; font-size: 11px; }
  section, figure, .strip { break-inside: avoid; }
  .scroll { overflow: visible; }
}
"""

_SCRIPT = """
document.querySelectorAll('.map').forEach(function (box) {
  var data = JSON.parse(box.querySelector('script').textContent);
  var svg = box.querySelector('svg'), tip = box.querySelector('.tip');
  var ring = svg.querySelector('.ring'), said = box.querySelector('.said');
  var thumb = tip.querySelector('.thumb'), words = tip.querySelector('.words');
  var at = -1;
  function show(i) {
    at = i;
    var x = data.x[i], y = data.y[i], scale = svg.clientWidth / data.size;
    ring.setAttribute('cx', x); ring.setAttribute('cy', y);
    ring.setAttribute('visibility', 'visible');
    words.textContent = data.words[i];
    said.textContent = data.words[i];
    if (data.side) {
      var across = i % data.across, down = Math.floor(i / data.across);
      thumb.style.cssText = 'width:' + data.side + 'px;height:' + data.side +
        'px;background-image:url(' + data.sprite + ');background-position:-' +
        across * data.side + 'px -' + down * data.side + 'px';
    }
    tip.style.display = 'block';
    var left = x * scale + 12, top = y * scale + 12;
    tip.style.left = Math.max(0, Math.min(left, box.clientWidth - tip.offsetWidth)) + 'px';
    tip.style.top = Math.max(0, top) + 'px';
  }
  function hide() {
    at = -1; tip.style.display = 'none'; ring.setAttribute('visibility', 'hidden');
  }
  function nearest(event) {
    var frame = svg.getBoundingClientRect(), scale = data.size / frame.width;
    var x = (event.clientX - frame.left) * scale, y = (event.clientY - frame.top) * scale;
    var best = -1, least = 400;
    for (var i = 0; i < data.x.length; i++) {
      var far = Math.pow(data.x[i] - x, 2) + Math.pow(data.y[i] - y, 2);
      if (far < least) { least = far; best = i; }
    }
    if (best < 0) { hide(); } else if (best !== at) { show(best); }
  }
  svg.addEventListener('pointermove', nearest);
  svg.addEventListener('pointerdown', nearest);
  svg.addEventListener('pointerleave', hide);
  svg.addEventListener('blur', hide);
  svg.addEventListener('keydown', function (event) {
    var step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (event.key === 'Escape') { hide(); }
    if (!step) { return; }
    event.preventDefault();
    show((at + step + data.x.length) % data.x.length);
  });
});
"""
