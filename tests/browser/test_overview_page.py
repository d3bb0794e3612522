"""The page over all pairs and layers in Chromium, opened from disk: it fits narrow and wide screens."""

from pathlib import Path

import pytest
from helpers_overview import html, numbers, place, shared

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: make install")
pytestmark = pytest.mark.browser

LONG = "a-pair-whose-name-is-as-long-as-names-of-fine-tunes-are"
PLACES = [place(pair, layer, base=f"{LONG}-base") for pair in (LONG, "two") for layer in (8, 12)]
ROWS = [shared(*names, layer) for layer in (8, 12) for names in ((LONG, "two"), ("two", LONG))]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("overview")
    path = folder / "index.html"
    path.write_text(html(folder, PLACES, [numbers()] * 4, ROWS), encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 800, 1400])
def test_page_fits_the_screen(chromium: "playwright.Browser", file: Path, width: int, scheme: str) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(f"file://{file}")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    assert [url for url in requests if not url.startswith("data:")] == [f"file://{file}"]
    context.close()
