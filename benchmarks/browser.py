"""Time the latent browser in Chromium: how soon its table shows, scrolls, sorts and filters.

The page is opened from disk and holds made-up latents.

PYTHONPATH=tests/helpers:tests python benchmarks/browser.py [--latents 73728] [--rounds 3] [--json]
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from helpers_browser import write_page
from playwright.sync_api import sync_playwright
from turns import show

# Scroll a screen per frame for two seconds. Returns the longest and the median time between two frames, in
# ms.
SCROLL = """async () => {
  const place = document.querySelector(".slick-viewport-top.slick-viewport-right");
  const times = [];
  const end = performance.now() + 2000;
  while (performance.now() < end) {
    place.scrollTop += 600;
    times.push(await new Promise((done) => requestAnimationFrame(done)));
  }
  const gaps = times.slice(1).map((time, i) => time - times[i]).sort((a, b) => a - b);
  return [gaps[gaps.length - 1], gaps[Math.floor(gaps.length / 2)]];
}"""
# Time from a reader's request to the next frame, in ms.
ANSWER = """async (wish) => {
  const start = performance.now();
  wish === "sort" ? crossdiff.table.sort("explanation", true) : crossdiff.table.search("refuse, 12");
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() - start;
}"""


def measure(file: Path, chromium: str) -> dict[str, float]:
    """Measure one opening of the page in a fresh browser."""
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1600, "height": 900})
        start = time.perf_counter()
        page.goto(f"file://{file}")
        page.wait_for_selector("body[data-ready] .slick-row")
        opened = time.perf_counter() - start
        longest, median = page.evaluate(SCROLL)
        sorting, searching = (page.evaluate(ANSWER, wish) for wish in ("sort", "search"))
        start = time.perf_counter()
        page.goto(f"file://{file}#batchtopk/100")
        page.wait_for_selector("body[data-ready='#batchtopk/100']")
        latent = time.perf_counter() - start
        browser.close()
    return {
        "open s": opened,
        "frame ms": median,
        "longest frame ms": longest,
        "sort ms": sorting,
        "search ms": searching,
        "latent s": latent,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--latents", type=int, default=73_728)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        parser.error("needs Debian's chromium: make test-browser installs it")
    with tempfile.TemporaryDirectory() as folder:
        file = write_page(Path(folder), {"batchtopk": options.latents})
        found = [measure(file, chromium) for _ in range(options.rounds)]
    row = {name: statistics.median(one[name] for one in found) for name in found[0]}
    show([{"latents": options.latents} | row], options.json)


if __name__ == "__main__":
    main()
