"""The live page in Chromium: type a prompt, read tokens and latents, move a slider, get answers, save."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers_explore import CROSSCODER, HOSTILE, TOKEN, served, tiny_session

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: make install")
pytestmark = pytest.mark.browser

PROMPT = "a <b>b</b>?"


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sessions")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, sessions: Path) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("pair")
    (folder / "layer1/report/latents").mkdir(parents=True)
    for name in ("index.html", "latents/index.html"):
        (folder / "layer1/report" / name).write_text(f"<h1>{name}</h1>")
    with served(tiny_session(folder), sessions) as found:
        yield found


@pytest.fixture
def page(chromium: "playwright.Browser", address: str) -> Iterator["playwright.Page"]:
    context = chromium.new_context(viewport={"width": 1400, "height": 900})
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: (errors.append(dialog.message), dialog.dismiss()))
    page.goto(f"{address}/?token={TOKEN}")
    yield page
    context.close()
    assert not errors


def read(page: "playwright.Page", prompt: str = PROMPT, mode: str = "text") -> None:
    page.select_option("#mode", mode)
    page.fill("#prompt", prompt)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#result:not([hidden])")
    page.wait_for_selector('#prompt-latents button[aria-pressed="true"]')


def steer(page: "playwright.Page", latent: int) -> "playwright.Locator":
    """Put a slider for a latent."""
    row = page.locator("#prompt-latents tr", has=page.locator(f'button.latent:text-is("{latent}")'))
    row.get_by_role("button", name="steer").click()
    return page.locator(f'.slider[data-latent="{latent}"]')


def first_latent(page: "playwright.Page") -> int:
    return int(page.locator('#prompt-latents button[aria-pressed="true"]').inner_text())


def test_prompt_is_shown_as_coloured_tokens_with_their_top_latents(page) -> None:
    read(page)
    tokens = page.locator("#tokens span")
    assert tokens.all_inner_texts() == list(PROMPT)
    assert page.locator("#tokens b").count() == 0
    assert page.locator("#tokens .active").count() > 0
    assert "left-out" in tokens.first.get_attribute("class")
    tokens.nth(3).click()
    assert page.locator("#of-token").inner_text() == "Top latents of token 3 “b”"
    assert page.locator("#token-latents tr").count() > 1
    tokens.nth(5).hover()
    assert page.locator("#of-token").inner_text() == "Top latents of token 3 “b”"  # the click keeps it
    page.keyboard.press("ArrowRight")
    assert "token 4" in page.locator("#of-token").inner_text()


def test_any_latent_can_be_chosen_and_its_name_is_text(page) -> None:
    read(page)
    page.fill("#latent", "0")
    page.locator("#latent").blur()
    page.locator("#chosen", has_text=HOSTILE).wait_for()
    assert page.title() == "Explore " + page.locator("h1").inner_text().removeprefix("Explore ")
    link = page.locator("#chosen a").get_attribute("href")
    assert link == f"/report/latents/index.html#{CROSSCODER}/0"
    with page.context.expect_page() as opened:
        page.locator("#chosen a").click()
    assert opened.value.locator("h1").inner_text() == "latents/index.html"
    page.fill("#latent", "99")
    page.locator("#latent").blur()
    page.locator("#message:not([hidden])").wait_for()
    assert page.locator("#message").inner_text() == "latent: found 99, allowed: whole numbers, 0 to 11"


def test_sliders_change_the_kl_and_the_steered_answer_alone(page, sessions: Path) -> None:
    read(page, mode="chat")
    latent = first_latent(page)
    slider = steer(page, latent)
    page.locator("#kl").wait_for()
    before = page.locator("#kl").inner_text()
    slider.get_by_role("slider").focus()
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    page.wait_for_selector(f"#kl:not(:text-is({json.dumps(before)}))")
    assert slider.get_by_role("spinbutton").input_value() == "3"
    assert page.locator("#effect li").count() == 16
    page.select_option("#colour", "kl")
    assert "KL" in page.locator("#tokens .active").first.get_attribute("title")
    page.fill("#new-tokens", "6")
    page.click("#answer")
    page.locator("#steered-tokens", has_text="6 tokens").wait_for()
    page.wait_for_selector("#answer:enabled")
    base, chat, steered = (page.locator(f"#{who}").inner_text() for who in ("base", "chat", "steered"))
    assert len({base, chat, steered}) == 3
    slider.get_by_role("checkbox").check()
    page.locator("#stale", has_text="The sliders have moved since.").wait_for()
    assert slider.get_by_role("slider").is_disabled()

    page.fill("#title", "mine")
    page.click("#save")
    page.locator("#saved-as", has_text="saved as").wait_for()
    [file] = sessions.glob("*-mine.json")
    written = json.loads(file.read_text())
    assert (written["prompt"], written["mode"], written["new_tokens"]) == (PROMPT, "chat", 6)
    assert [one["change"] for one in written["latents"]] == ["ablate"]
    assert written["answers"]["base"] and written["answers"]["chat"]
    assert written["answers"]["steered"] is None  # other sliders steered what the page shows
    assert written["kl_mean"] > 0 and len(written["kl"]) == page.locator("#tokens span").count()

    page.reload()
    page.select_option("#sessions", file.stem)
    page.locator("#stale", has_text="as saved on").wait_for()
    assert page.locator("#prompt").input_value() == PROMPT
    assert page.locator(f'.slider[data-latent="{latent}"] input[type="checkbox"]').is_checked()
    assert (page.locator("#base").inner_text(), page.locator("#steered").inner_text()) == (base, "")

    page.click("#answer")
    page.locator("#steered-tokens", has_text="6 tokens").wait_for()
    page.wait_for_selector("#answer:enabled")
    again = page.locator("#steered").inner_text()
    page.fill("#title", "whole")
    page.click("#save")
    page.locator("#saved-as", has_text="-whole.json").wait_for()
    [file] = sessions.glob("*-whole.json")
    assert json.loads(file.read_text())["answers"]["steered"]
    page.reload()
    page.select_option("#sessions", file.stem)
    page.locator("#stale", has_text="as saved on").wait_for()
    assert page.locator("#steered").inner_text() == again


def test_problems_are_one_line_and_the_page_goes_on(page) -> None:
    page.select_option("#mode", "text")
    page.fill("#prompt", "x" * 65)
    page.click("#read")
    page.locator("#message:not([hidden])").wait_for()
    assert page.locator("#message").inner_text() == "text: found 65 tokens, allowed: 64 in all"
    read(page, "x" * 30)
    assert page.locator("#message").is_hidden()
    page.fill("#new-tokens", "40")
    page.click("#answer")
    page.locator("#message:not([hidden])").wait_for()
    assert "allowed: 64 in all" in page.locator("#message").inner_text()
    assert page.locator("#answer").is_enabled()


def test_stop_ends_an_answer(page) -> None:
    read(page, "abc")
    page.fill("#new-tokens", "60")
    page.click("#answer")
    page.locator("#base-tokens", has_text="…").wait_for()
    page.click("#stop")
    assert page.locator("#answer").is_enabled() and page.locator("#stop").is_disabled()
    assert page.locator("#message").is_hidden()


def test_page_without_the_token_is_one_line(chromium: "playwright.Browser", address: str) -> None:
    page = chromium.new_page()
    found = page.goto(f"{address}/")
    assert found is not None and found.status == 403
    assert page.locator("body").inner_text().startswith("The token is missing or wrong")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_page_fits_its_width(chromium: "playwright.Browser", address: str, scheme: str, width: int) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{address}/?token={TOKEN}")
    read(page, "A word-" + "w" * 50)
    steer(page, first_latent(page))
    page.locator("#kl").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for place in page.locator("#prompt-latents .number").all():
        box = place.bounding_box()
        assert box is None or box["x"] + box["width"] <= width
    context.close()
