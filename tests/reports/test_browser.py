"""Reports in a real browser: readable at two widths, silent, and answering to pointer and keys."""

import shutil

import numpy as np
import pytest
from PIL import Image
from short_runs import quickstart

from jaxcl.reports import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
WIDTHS = {"phone": (390, 844), "desk": (1280, 900)}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no browser here")]

CONTRAST = """
() => [...document.querySelectorAll('body *')].filter(element =>
  [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim()) &&
  element.checkVisibility() && !element.closest('svg,script,style')
).map(element => {
  const style = getComputedStyle(element);
  let back = element;
  while (back && getComputedStyle(back).backgroundColor.endsWith(', 0)')) back = back.parentElement;
  const behind = back ? getComputedStyle(back).backgroundColor : 'rgb(255, 255, 255)';
  const light = colour => {
    const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number);
    const part = value => {
      const share = (value * a + 255 * (1 - a)) / 255;
      return share <= 0.03928 ? share / 12.92 : Math.pow((share + 0.055) / 1.055, 2.4);
    };
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const [low, high] = [light(style.color), light(behind)].sort((x, y) => x - y);
  return [(high + 0.05) / (low + 0.05), element.textContent.slice(0, 40)];
}).filter(([ratio]) => ratio < 4.5)
"""


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        found = running.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    run = quickstart(tmp_path_factory)
    write_report([run], run / "report.html")
    return run / "report.html"


@pytest.fixture(params=WIDTHS)
def page(browser, page_file, request):
    """The report, opened; at the end nothing was said, asked of the network, or cut off."""
    width, height = WIDTHS[request.param]
    opened = browser.new_page(viewport={"width": width, "height": height})
    said, asked = [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(page_file.as_uri())
    yield opened
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    opened.close()


def test_it_fits_and_can_be_read(page, tmp_path):
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    assert page.evaluate(CONTRAST) == []
    smallest = page.evaluate(
        "() => Math.min(...[...document.querySelectorAll('p, td, th, li, figcaption')]"
        ".filter(e => e.checkVisibility()).map(e => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert smallest >= 12
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    seen = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
    assert seen.shape[0] > 2000
    assert (seen < 128).mean() > 0.01  # not an empty page


def test_a_point_shows_what_it_is(page):
    svg, tip = page.locator(".map svg"), page.locator(".tip")
    svg.scroll_into_view_if_needed()
    assert not tip.is_visible()
    box = page.locator(".map circle").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert tip.is_visible()
    first = tip.inner_text()
    assert first == page.locator(".said").inner_text()
    thumbnail = page.locator(".thumb")
    assert "data:image/jpeg" in thumbnail.evaluate("e => getComputedStyle(e).backgroundImage")
    page.mouse.move(2, 2)
    assert not tip.is_visible()
    svg.focus()
    page.keyboard.press("ArrowRight")
    one = tip.inner_text()
    page.keyboard.press("ArrowRight")
    assert tip.inner_text() != one
    page.keyboard.press("Escape")
    assert not tip.is_visible()


def test_it_prints(page, tmp_path):
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").stat().st_size > 20_000
