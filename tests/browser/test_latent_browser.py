"""The latent browser in Chromium, opened from disk: what a reader can do, and what the page must never do."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers_browser import HOSTILE, beta_table, named, without_base, write_page

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: make install")
pytestmark = pytest.mark.browser

NAMES = named(("batchtopk", 0, 7, "the refusal", False), ("batchtopk", 0, 8, "an old name", True))


class Reader:
    """A page that records what it requests and which errors it has."""

    def __init__(self, page: "playwright.Page", file: Path) -> None:
        self.page, self.file = page, file
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on(
            "console", lambda message: self.errors.append(message.text) if message.type == "error" else None
        )
        page.on("dialog", lambda dialog: (self.errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))

    def open(self, address: str = "") -> "Reader":
        self.page.goto(f"file://{self.file}{address}")
        return self.at(address or "#")

    def at(self, address: str) -> "Reader":
        """Wait until the page shows what an address says."""
        self.page.wait_for_selector(f'body[data-ready="{address}"]')
        return self

    def column(self, number: int, rows: int = 5) -> list[str]:
        """Give the first texts of a column, from top to bottom."""
        read = "cells => cells.map(cell => [cell.getBoundingClientRect().top, cell.innerText])"
        placed = self.page.locator(f".slick-cell.l{number}").evaluate_all(read)
        return [text for _, text in sorted(placed)][:rows]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("browser"), {"batchtopk": 300, "l1": 130}, NAMES)


@pytest.fixture
def reader(chromium: "playwright.Browser", file: Path) -> Iterator[Reader]:
    context = chromium.new_context(viewport={"width": 1600, "height": 900})
    found = Reader(context.new_page(), file)
    yield found
    context.close()
    # After every test: no script in the data ran, nothing failed, and nothing was requested from elsewhere.
    assert not found.errors
    assert found.requests
    assert not [url for url in found.requests if not url.startswith("file://")]


def test_opens_on_all_latents_of_the_first_crosscoder_most_chat_leaning_first(reader: Reader) -> None:
    page = reader.open().page
    assert page.locator("#count").inner_text() == "300 latents"
    differences = [float(text) for text in reader.column(4, 20)]
    assert differences == sorted(differences, reverse=True)
    assert differences[0] > 0.98
    assert 20 < page.locator(".slick-row").count() < 120  # of 300: only what is seen is there


def test_sorts_by_a_heading_and_by_the_menu_with_undefined_values_last(reader: Reader) -> None:
    page = reader.open().page
    page.locator(".slick-header-column", has_text="ν error").click()
    values = [text.split()[0] for text in reader.column(5, 20)]
    assert [float(value) for value in values] == sorted(map(float, values), reverse=True)
    page.select_option("#sort", "nu_error")
    page.click("#direction")
    values = [float(text.split()[0]) for text in reader.column(5, 20)]
    assert values == sorted(values)
    page.locator(".slick-viewport-top.slick-viewport-right").evaluate(
        "place => place.scrollTop = place.scrollHeight"
    )
    page.locator(".slick-cell.l0").get_by_text("0", exact=True).wait_for()
    assert reader.column(5, 1000)[-1] == "–"


def test_filters_and_searches(reader: Reader) -> None:
    page = reader.open().page
    page.fill("#filter-nu_error", "<0.2")
    kept = int(page.locator("#count").inner_text().split()[0])
    assert 20 < kept < 100
    assert all(float(text.split()[0]) <= 0.2 for text in reader.column(5, 20))
    page.fill("#filter-class", "chat")
    assert set(reader.column(2, 20)) == {"chat-only"}
    assert int(page.locator("#count").inner_text().split()[0]) < kept
    page.fill("#filter-nu_error", "")
    page.fill("#filter-class", "")
    page.fill("#search", "refusal")
    assert (page.locator("#count").inner_text(), reader.column(0)) == ("1 of 300 latents", ["7"])
    page.fill("#search", "")
    page.select_option("#show", "dead")
    assert reader.column(0) == ["0"]


@pytest.mark.parametrize(
    ("typed", "count"), [("0.1..0.2", 31), ("=0.5", 3), ("0.5", 3), (">=0", 299), ("> 2", 0)]
)
def test_numbers_are_filtered_by_bounds_ranges_and_as_shown(reader: Reader, typed: str, count: int) -> None:
    page = reader.open().page
    page.fill("#filter-template_share", typed)
    assert page.locator("#count").inner_text().split()[0] == str(count)


def test_filter_that_says_nothing_is_marked_and_keeps_all(reader: Reader) -> None:
    page = reader.open().page
    page.fill("#filter-nu_error", "small")
    assert page.locator("#filter-nu_error").get_attribute("aria-invalid") == "true"
    assert page.locator("#count").inner_text() == "300 latents"


def test_shared_link_opens_a_latent(reader: Reader) -> None:
    page = reader.open("#batchtopk/7").page
    assert page.locator("#latent h2").inner_text() == "batchtopk/7 the refusal"
    text = page.locator("#latent").inner_text()
    assert "note on the refusal" in text
    assert "the word refuse, 7" in text
    assert "Detection (balanced accuracy) is 0.88 (0.75 to 0.94) on 20 contexts" in text
    assert "refuse +2.5" in text
    assert "−3.5" in text
    assert page.title() == "batchtopk/7: latents of made-up"


def test_links_lead_to_where_the_latent_recurs_and_back(reader: Reader) -> None:
    page = reader.open("#batchtopk/5").page
    page.click("text=l1/5")
    reader.at("#l1/5")
    assert page.locator("#latent h2").inner_text() == "l1/5"
    assert page.locator("#training").input_value() == "l1.seed0"
    page.go_back()
    reader.at("#batchtopk/5")
    assert page.locator("#latent h2").inner_text() == "batchtopk/5"


def test_open_latent_stays_marked_and_its_neighbours_are_those_of_the_new_order(reader: Reader) -> None:
    page = reader.open("#batchtopk/200").page
    assert page.locator(".slick-cell.l0.open").inner_text() == "200"
    page.select_option("#sort", "latent")
    page.fill("#filter-latent", "198..250")
    page.click("#direction")  # ascending
    assert reader.column(0, 3) == ["198", "199", "200"]
    assert page.locator(".slick-cell.l0.open").inner_text() == "200"
    page.click("#next")
    reader.at("#batchtopk/201")
    assert page.locator(".slick-cell.l0.open").inner_text() == "201"
    page.fill("#filter-latent", "201")
    assert page.locator("#next").is_disabled()
    page.click("#close")
    reader.at("#batchtopk")
    assert page.locator(".slick-cell.l0.open").count() == 0


def test_twins_and_the_effect_of_sets_are_told(reader: Reader) -> None:
    text = reader.open("#batchtopk/2").page.locator("#latent").inner_text()
    assert "batchtopk/3\t0.95\ttwin; they fire apart on 0.50" in text
    assert "best half by norm difference (2 latents): KL is reduced by 25 % (13 % to 50 %)" in text
    assert "Causal effect" not in reader.open("#batchtopk/3").page.locator("#latent").inner_text()


def test_hover_tells_the_value_and_template_tokens_are_marked(reader: Reader) -> None:
    page = reader.open("#batchtopk/7").page
    tokens = page.locator("#latent .context").first.locator("span")
    tokens.nth(3).hover()
    assert page.locator(".readout").inner_text() == "“ refuse” activation 8.00, 100 % of the largest"
    tokens.nth(0).click()
    assert page.locator(".readout").inner_text() == "“<|user|>” silent; template: header"
    assert tokens.nth(0).get_attribute("class") == "template"
    assert [
        tokens.nth(place).evaluate("span => getComputedStyle(span).borderBottomWidth") for place in (2, 5, 3)
    ] == ["0px", "1px", "5px"]
    page.check("#show-values")
    assert tokens.nth(5).evaluate("span => getComputedStyle(span, '::after').content") == '"1.0"'


def test_text_that_is_html_is_shown_as_text(reader: Reader) -> None:
    page = reader.open("#batchtopk/7").page
    contexts = page.locator("#latent .context")
    assert contexts.first.inner_text().endswith(HOSTILE)
    assert "</script><img src=x onerror=alert(1)>" in contexts.nth(1).inner_text()
    assert page.locator("#latent script, #latent img").count() == 0
    assert page.title() == "batchtopk/7: latents of made-up"


def test_only_what_is_looked_at_is_loaded(reader: Reader) -> None:
    reader.open()
    assert not [url for url in reader.requests if "/l1.seed0/" in url or url.endswith("vocabulary.js")]
    reader.open("#batchtopk/130")
    assert [url.rpartition("files/")[2] for url in reader.requests if "batchtopk.seed0" in url][-2:] == [
        "batchtopk.seed0/table.js",
        "batchtopk.seed0/128.js",
    ]


def test_stale_name_is_flagged_and_not_used(reader: Reader) -> None:
    page = reader.open("#batchtopk/8").page
    assert "an old name (latent 8 of weights 0123456789ab)" in page.locator("#stale").inner_text()
    assert page.locator("#latent h2").inner_text() == "batchtopk/8"
    assert "“an old name”, but of other weights" in page.locator("#latent .caution").inner_text()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("#l2/3", "There is no crosscoder l2 here, but batchtopk, l1."),
        ("#l1/130", "There is no latent 130 in l1. Its latents are 0 to 129."),
        ("#l1/x", "There is no latent x in l1. Its latents are 0 to 129."),
    ],
)
def test_bad_link_is_one_clear_line(reader: Reader, address: str, message: str) -> None:
    assert reader.open(address).page.locator("#message").inner_text() == message


def test_dead_latent_says_what_it_lacks(reader: Reader) -> None:
    text = reader.open("#batchtopk/0").page.locator("#latent").inner_text()
    assert "There is none: it never fires on the text that was searched." in text
    assert "It was not compared. It never fires on held-out text" in text
    assert "ν error\n–" in text


def test_keyboard_is_enough(reader: Reader) -> None:
    page = reader.open().page
    first = reader.column(0, 2)
    page.keyboard.press("t")
    page.keyboard.press("Enter")
    reader.at(f"#batchtopk/{first[0]}")
    page.keyboard.press("j")
    reader.at(f"#batchtopk/{first[1]}")
    page.keyboard.press("k")
    reader.at(f"#batchtopk/{first[0]}")
    page.keyboard.press("Escape")
    reader.at("#batchtopk")
    page.keyboard.press("/")
    page.keyboard.type("refusal")
    assert page.locator("#count").inner_text() == "1 of 300 latents"


def test_phone_shows_the_table_or_a_latent(chromium: "playwright.Browser", file: Path) -> None:
    context = chromium.new_context(
        viewport={"width": 390, "height": 800}, has_touch=True, color_scheme="dark"
    )
    reader = Reader(context.new_page(), file).open()
    page = reader.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    number = reader.column(0, 1)[0]
    page.locator(".slick-cell.l0").first.tap()
    reader.at(f"#batchtopk/{number}")
    assert page.locator("#table").is_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.tap("#close")
    reader.at("#batchtopk")
    assert page.locator("#table").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 22, 22)"
    assert not reader.errors
    context.close()


def test_without_scripts_the_first_latents_still_read(chromium: "playwright.Browser", file: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"file://{file}")
    text = page.locator("body").inner_text()
    assert "Scripts are off, so the table of all latents" in text
    assert page.locator("noscript tr").count() == 2 * 21
    assert page.locator("main").is_hidden()
    context.close()


def test_missing_folder_is_one_clear_line(chromium: "playwright.Browser", file: Path, tmp_path: Path) -> None:
    shutil.copytree(file.parent, tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved/files/batchtopk.seed0")
    page = chromium.new_page()
    page.goto(f"file://{tmp_path}/moved/index.html")
    page.wait_for_selector("#message:not([hidden])")
    assert (
        page.locator("#message").inner_text().startswith("files/batchtopk.seed0/table.js could not be read")
    )
    page.close()


def test_what_does_not_apply_and_what_a_loss_sets_is_said(
    chromium: "playwright.Browser", tmp_path: Path
) -> None:
    why = "a difference SAE has no base decoder"
    exclusive = beta_table(40).assign(part=["chat"] * 10 + ["shared"] * 30)
    betas = {
        "dedicated": exclusive.assign(norms_set=exclusive.part == "chat"),
        "difference": without_base(beta_table(30), why),
    }
    page = chromium.new_context().new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    reader = Reader(page, write_page(tmp_path, {"dedicated": 40, "difference": 30}, betas=betas))
    reader.open("#dedicated/3")
    assert not page.locator("#limits").is_visible()
    text = page.locator("#latent").inner_text()
    assert "(set by the loss, not found)" in text and "part of its loss" in text
    reader.open("#dedicated/12")
    assert "set by the loss" not in page.locator("#latent").inner_text()

    reader.open("#difference/3")
    assert f"do not apply: {why}." in page.locator("#limits").inner_text()
    text = page.locator("#latent").inner_text()
    assert text.count(f"does not apply: {why}") == 6
    reader.open("#difference")
    page.select_option("#show", "confirmed")
    assert page.locator("#count").inner_text() == "0 of 30 latents"
    page.select_option("#show", "dead")
    assert reader.column(0) == ["0"]
    assert not errors


def test_no_column_hides_behind_a_scroll_bar_on_a_small_screen(
    chromium: "playwright.Browser", tmp_path: Path
) -> None:
    """With every column that there is."""
    betas = beta_table(50, 0).assign(part="free")
    page = chromium.new_page(viewport={"width": 1400, "height": 800})
    file = write_page(tmp_path, {"batchtopk": 50}, NAMES, {"batchtopk": betas})
    page.goto(f"file://{file}")
    page.wait_for_selector("body[data-ready] .slick-row")
    shown = page.locator(".slick-header-column").evaluate_all("all => all.map(one => one.innerText.trim())")
    assert len(shown) == 13 and {"name", "part", "explanation"} < {*shown}
    ends = page.locator(".slick-header-column").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().right)"
    )
    assert max(ends) <= 1400
    page.close()
