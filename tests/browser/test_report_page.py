"""The report and the first look in Chromium, opened from disk: they fit the screen, and load nothing."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from helpers_look_files import first_look_files
from helpers_report import EXAMPLES, TEMPLATE, beta_rows, inputs, write_tokenizer
from helpers_steering import steered_answers, steering_inputs
from safetensors.torch import save_file

from crossdiff.provenance import storage
from crossdiff.provenance.recorded_settings import RecordedSettings
from crossdiff.provenance.times import Stage
from crossdiff.report.first_look import render as render_first_look
from crossdiff.report.page import render
from crossdiff.workflow.evaluations import PAGE

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: make install")
pytestmark = pytest.mark.browser

RECORD = "ab" * 16
PLACE = "gemma2-2b/layer13"
LONG = "batchtopk-with-a-name-as-long-as-names-are"
NAMES = ("topk", LONG, "l1")
SESSION = ROOT / "tests/data/session.json"


@dataclass
class Pages:
    """Both pages on disk."""

    report: Path
    times: Path  # a script among the logs
    first_look: Path


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """A report with every section, of three crosscoders with confirmed latents."""
    monkeypatch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("report")
    betas = beta_rows([0.5, 0.95, 0.97, 0.6], [1.0, 0.1, 0.1, 0.9])
    given = inputs(folder, dict.fromkeys(NAMES, betas), dict.fromkeys(NAMES, EXAMPLES))
    for name in ("look", "steering"):
        (folder / name).mkdir()
    look = first_look_files(folder / "look", ["The tuned model declines."])
    steering = steering_inputs(folder / "steering", steered_answers((1,)))
    save_file({"decoder": torch.ones(1)}, folder / "weights.safetensors")  # not those of the session
    monkeypatch.setattr(storage, "current_job", storage.CurrentJob(RECORD, frozenset(), {}, {}))
    page = render(
        given._replace(
            sections=list(PAGE),
            first_look=look,
            steering=steering,
            sessions=[str(SESSION)],
            weights={"batchtopk.seed0": str(folder / "weights.safetensors")},
        ),
        TEMPLATE,
    )
    monkeypatch.undo()
    report = folder / "results" / PLACE / "report/index.html"
    report.parent.mkdir(parents=True)
    report.write_text(page, encoding="utf-8")
    script = folder / "logs" / PLACE / "times.js"
    script.parent.mkdir(parents=True)
    stages = [Stage("train_crosscoder", 2, 400.0, 250.0), Stage("write_report", 1, 3800.0, 3800.0)]
    told = {"record": RECORD, "stages": [one._asdict() for one in stages]}
    script.write_text(f"crossdiffTimes({json.dumps(told)});")
    first = folder / "first_look.html"
    recorded = RecordedSettings({"pair.name": LONG})
    tokenizer = write_tokenizer(folder / "tokenizer")
    html = render_first_look(look, tokenizer, recorded, ROOT / "report/first_look.html.jinja")
    first.write_text(html, encoding="utf-8")
    return Pages(report, script, first)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("which", ["report", "first_look"])
def test_page_fits_the_screen(
    chromium: "playwright.Browser", pages: Pages, which: str, width: int, scheme: str
) -> None:
    """At 1,400 pixels no table scrolls either. Nothing is loaded."""
    file = getattr(pages, which)
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    requests, problems = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: problems.append(message.text))
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    page.goto(f"file://{file}")
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    if width == 1400:
        wide = "[...document.querySelectorAll('.wide')].filter(part => part.scrollWidth > part.clientWidth)"
        assert page.evaluate(f"{wide}.map(part => part.textContent.trim().slice(0, 40))") == []
    loaded = [url for url in requests if not url.startswith("data:")]
    assert loaded == [f"file://{file}", *([f"file://{pages.times}"] if which == "report" else [])]
    assert not problems
    context.close()


def test_page_says_how_long_everything_took(chromium: "playwright.Browser", pages: Pages) -> None:
    page = chromium.new_page()
    page.goto(f"file://{pages.report}")
    assert page.locator("#took").text_content() == (
        "3 jobs took 1 h 10 min, one after the other. A run takes less where jobs run side by side."
    )
    row = page.get_by_role("row", name="train crosscoder")
    assert row.get_by_role("cell").all_text_contents() == [
        "train crosscoder",
        "2",
        "6 min 40 s",
        "4 min 10 s",
    ]
    page.close()


def test_page_takes_no_times_of_another_run(
    chromium: "playwright.Browser", pages: Pages, tmp_path: Path
) -> None:
    """Nor any where the page was copied alone."""
    alone = tmp_path / "results" / PLACE / "report/index.html"
    alone.parent.mkdir(parents=True)
    alone.write_text(pages.report.read_text(), encoding="utf-8")
    script = tmp_path / "logs" / PLACE / "times.js"
    for told in (None, pages.times.read_text().replace(RECORD, "1" * 32)):
        if told:
            script.parent.mkdir(parents=True)
            script.write_text(told)
        page = chromium.new_page()
        page.goto(f"file://{alone}")
        assert "crossdiff times results/" in (page.locator("#took").text_content() or "")
        assert page.get_by_role("row", name="train crosscoder").count() == 0
        page.close()


def test_first_screen_has_findings_and_limits(chromium: "playwright.Browser", pages: Pages) -> None:
    """Without scrolling, at 1,400 x 900 pixels."""
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    page.goto(f"file://{pages.report}")
    for heading in ("Findings", "What this run cannot say"):
        box = page.get_by_role("heading", name=heading, exact=True).bounding_box()
        assert box and box["y"] + box["height"] < 900, heading
    first = page.locator(".finding").first.bounding_box()
    assert first and first["y"] + first["height"] < 900
    page.close()


def test_marks_open_and_terms_lead_to_the_glossary(chromium: "playwright.Browser", pages: Pages) -> None:
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    page.goto(f"file://{pages.report}")
    mark = page.locator("details.mark").first
    meaning = mark.locator("summary").get_attribute("title") or ""
    explained = mark.locator("span")
    assert explained.text_content() == meaning and not explained.is_visible()
    mark.locator("summary").click()
    assert explained.is_visible()
    for link in page.locator("a.term").all():
        target = (link.get_attribute("href") or "").removeprefix("#")
        assert page.locator(f"[id='{target}']").count() == 1, target
    page.close()
