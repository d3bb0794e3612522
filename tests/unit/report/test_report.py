"""The page: everything that it shows, escaped and inlined."""

import base64
import re
from pathlib import Path

import pandas as pd
import pytest
from helpers_report import (
    BETAS,
    EXAMPLES,
    FIGURES,
    HOSTILE,
    NO_EXAMPLES,
    TEMPLATE,
    Page,
    beta_rows,
    inputs,
    page_of,
)
from helpers_steering import steered_answers, steering_inputs

from crossdiff.config import Report
from crossdiff.latents.catalogue import COLUMNS
from crossdiff.provenance.recorded_settings import RecordedSettings
from crossdiff.provenance.storage import read_json, write_json
from crossdiff.report.page import Inputs, render
from crossdiff.report.shown_latents import ListedFiles


@pytest.fixture
def good(tmp_path: Path) -> Inputs:
    return inputs(tmp_path, {"batchtopk": BETAS}, {"batchtopk": EXAMPLES})


# What it shows


def test_models_and_data_of_the_fine_tune_stand_above_the_findings(good: Inputs) -> None:
    text = page_of(good).text
    above = text[: text.index("Findings")]
    places = [above.index(what) for what in ("Base model: ", "Chat model: ", "Data of the fine-tune: ")]
    assert places == sorted(places)


def test_page_says_what_was_compared(good: Inputs) -> None:
    text = page_of(good).text
    assert "after block 13 (0-based, of 3) of two llama models of width 32" in text
    assert "the same 18,000 training tokens" in text
    assert "200 were left out as first tokens of a sequence and 3 as norm outliers" in text
    assert "median norm is 150.25 in the base and 149.50 in the chat model" in text


@pytest.mark.parametrize("rounded", [[], ["chat"], ["base", "chat"]])
def test_page_says_which_models_are_rounded(good: Inputs, rounded: list[str]) -> None:
    facts = read_json(good.facts)
    for role in rounded:
        facts[role]["few_bits"] = "4 bits (bitsandbytes)"
    write_json(good.facts, facts)
    page = page_of(good).text
    for role in ("base", "chat"):
        said = f"The weights of the {role} model have 4 bits (bitsandbytes)."
        assert (said in page) == (role in rounded)
    assert ("Only one of the two models is rounded" in page) == (rounded == ["chat"])


def test_page_counts_the_records_that_were_skipped_cut_or_changed(good: Inputs) -> None:
    text = page_of(good).text
    assert (
        "pages 5 0 talk 1,200 10 7 x a turn with role '<b>'; 3 x a turn without content; "
        "40 x chats cut, longer than tokens.context" in text
    )


@pytest.mark.parametrize("names", [["batchtopk"], ["batchtopk", "l1"], ["batchtopk", "l1", "l1-strong"]])
def test_page_shows_every_crosscoder(tmp_path: Path, names: list[str]) -> None:
    page = page_of(inputs(tmp_path, dict.fromkeys(names, BETAS), dict.fromkeys(names, EXAMPLES)))
    for name in names:
        assert f"{name} calls 2 of 4 latents chat-only by decoder norm." in page.text
        assert "Latent scaling confirms 1 of them." in page.text
        assert f"../{name}/seed0/betas.csv" in [attributes.get("href") for _, attributes in page.tags]
    assert len([tag for tag, _ in page.tags if tag == "details"]) == (1 + 4) * len(names) + 1  # a mark


def test_confirmed_is_defined_before_it_is_used(good: Inputs) -> None:
    text = page_of(good).text
    assert text.lower().index("confirmed") == text.index("Confirmed is a latent whose chat direction")


def test_unequal_l0_stands_next_to_the_numbers_that_it_bends(tmp_path: Path) -> None:
    names = ["topk", "l1"]
    given = inputs(tmp_path, dict.fromkeys(names, BETAS), dict.fromkeys(names, EXAMPLES))
    path = Path(given.evaluations["l1"])
    evaluation, sentence = read_json(path), "Active latents per token (L0) are not about the same"
    # In the limits, by the table, in the further checks, and at every figure.
    for factor, times in ((1, 0), (3, 3 + len(FIGURES))):
        write_json(path, evaluation | {"l0": factor * evaluation["l0"]})
        assert page_of(given).text.count(sentence) == times


def test_figures_of_one_question_stand_below_one_heading(good: Inputs) -> None:
    figures = [
        one._replace(question=f"Question {number // 2}?") for number, one in enumerate(good.figures[:4])
    ]
    text = page_of(good._replace(figures=figures)).text
    assert [text.count(f"Question {number}?") for number in range(3)] == [1, 1, 0]


def test_names_by_a_language_model_stand_for_patterns(good: Inputs, tmp_path: Path) -> None:
    [(name, files)] = good.latents.items()
    told = {"latent": [0, 1, 2], "kind": ["malformed", "explained", "not chosen"]}
    told |= {"explanation": [None, f"what {HOSTILE} does", None]}
    path = tmp_path / "explanations.parquet"
    pd.DataFrame(told).to_parquet(path)
    text = page_of(good._replace(latents={name: files._replace(explanations=str(path))})).text
    assert f'The chat model has a concept of its own: "what {HOSTILE} does"' in text
    assert f"A language model says: what {HOSTILE} does" in text


def test_marks_explain_themselves_on_hover_and_when_opened(good: Inputs) -> None:
    page = page_of(good)
    [meaning] = [attributes["title"] for tag, attributes in page.tags if tag == "summary" and attributes]
    assert "pass with their whole 95 % intervals" in meaning
    assert f"1 of 1 confirmed at 95 % {meaning}" in page.text


def test_confirmed_latents_come_first_then_the_most_chat_leaning_with_undefined_ratios_as_a_dash(
    good: Inputs,
) -> None:
    text = page_of(good).text
    found = [text.index(f"latent {latent}: norm difference") for latent in (1, 2, 3, 0)]
    assert found == sorted(found)
    assert (
        "latent 2: norm difference 0.97, ν error \u2013, ν reconstruction \u2013, "
        "fires on 1.23 % of tokens chat-only" in text
    )


def test_tokens_show_their_text_template_part_and_activation(good: Inputs) -> None:
    first = page_of(good).contexts[0]
    assert [token for token, _ in first] == ["<|user|>", "How", " do", "\u21b5"]
    assert [attributes.get("class") for _, attributes in first] == ["template", None, None, "template"]
    assert [attributes.get("title") for _, attributes in first] == [None, "8.00", "2.00", None]
    shade = [
        float(attributes["style"].split(",")[-1].strip(" )"))
        for _, attributes in first
        if "style" in attributes
    ]
    assert shade == pytest.approx([0.7, 0.25])  # 0.1 + 0.6 x share of the latent's largest


def test_latents_have_their_names_and_stale_ones_are_flagged(good: Inputs, tmp_path: Path) -> None:
    rows = [
        ("batchtopk", 0, 2, "a name", "", "0" * 12, False),
        ("batchtopk", 0, 1, "an old name", "", "1" * 12, True),
    ]
    pd.DataFrame(
        [*rows, ("batchtopk", 1, 3, "of another seed", "", "2" * 12, False)], columns=list(COLUMNS)
    ).to_csv(tmp_path / "names.csv", index=False)
    page = page_of(good._replace(names=str(tmp_path / "names.csv")))
    assert "a name , latent 2: norm difference" in page.text
    caution = " ".join(page.cautions[-1].split())
    assert page.text.count("an old name") == caution.count("an old name") == 1
    assert "These names in the catalogue are stale" in caution
    assert "an old name (batchtopk, seed 0, latent 1)" in caution
    assert "of another seed" not in page.text


def test_latent_without_examples_says_so_and_samples_are_not_shown(good: Inputs) -> None:
    page = page_of(good)
    assert page.text.count("No context was collected.") == 3
    assert len(page.contexts) == 1 + 2  # one stands with the finding


def test_settings_limit_latents_and_contexts(good: Inputs) -> None:
    page = page_of(good._replace(shown=Report(latents=1, examples=1)))
    found = [latent for latent in range(4) if f"latent {latent}: norm difference" in page.text]
    assert found == [1, 2]  # a confirmed one, and the most chat-leaning one
    assert len(page.contexts) == 1 + 1


def test_every_confirmed_latent_is_listed_whatever_its_rank(tmp_path: Path) -> None:
    betas = beta_rows([0.99, 0.98, 0.45, 0.02, 0.3], [0.4, 0.1, 0.15, 0.9, 0.1])
    given = inputs(tmp_path, {"l1": betas}, {"l1": NO_EXAMPLES})
    text = page_of(given._replace(shown=Report(latents=1))).text
    assert (
        "Latent scaling confirms 1 of them. Of all latents, whatever their norms, it confirms 3 as " in text
    )
    assert "as the chat model's own and 1 as the base model's own." in text
    listed = text[text.index("The confirmed latents of l1: 4") :]
    places = [listed.index(f"after {HOSTILE} {latent} ") for latent in (1, 2, 4, 3)]
    assert places == sorted(places)
    # Latent 3 is base-only. It is judged, and shown, by 1 - 0.9.
    assert f"3 after {HOSTILE} 3 base-only (ratios mirrored) 0.02 0.10 0.10 \u2013" in listed


def test_run_without_confirmed_latents_says_so(tmp_path: Path) -> None:
    text = page_of(inputs(tmp_path, {"l1": beta_rows([0.95, 0.5], [0.9, 1.0])}, {"l1": NO_EXAMPLES})).text
    assert "Of all latents, whatever their norms, it confirms none as the chat model's own." in text
    assert "Latent scaling confirms no latent of l1." in text and "The confirmed latents" not in text


def test_counts_of_the_most_chat_leaning_latents_add_up(tmp_path: Path) -> None:
    betas = beta_rows([0.95, 0.94, 0.93, 0.92, 0.5], [0.1, 0.4, 0.9, float("nan"), 1.0])
    text = page_of(inputs(tmp_path, {"l1": betas}, {"l1": NO_EXAMPLES})).text
    assert (
        "Of these, 1 are confirmed, 1 show complete shrinkage alone, 0 latent decoupling alone, and 1 both. "
        "The other 2 have a ratio that is undefined or below -0.1, or lean to the chat model no more than "
        "shared latents do." in text
    )


def test_refusals_are_shown_only_where_they_were_measured(good: Inputs, tmp_path: Path) -> None:
    assert "Did the fine-tune take?" not in page_of(good).text
    row = {"model": "chat", "requests": "harmful", "asked": 40, "refused": 37}
    row |= {"rate": 0.925, "low": 0.8, "high": 0.974, "unfinished": 0, "thinking": "none"}
    base = row | {"model": "base", "refused": 0, "rate": 0.0, "low": 0.0, "high": 0.088}
    pd.DataFrame([base, row]).to_csv(tmp_path / "refusals.csv", index=False)
    text = page_of(good._replace(refusals=str(tmp_path / "refusals.csv"))).text
    assert "Did the fine-tune take?" in text
    assert "chat harmful 40 37 92 % 80 % to 97 %" in text


def test_steering_is_shown_only_where_it_was_measured(good: Inputs, tmp_path: Path) -> None:
    assert "What do they do?" not in page_of(good).text
    page = page_of(
        good._replace(
            steering=steering_inputs(tmp_path, steered_answers()), sections=["found", "steering", "checks"]
        )
    )
    assert "What do they do? The chat model answers held-out prompts" in page.text
    assert "latent 5 (topk)" in page.text
    assert page.text.index("What do they do?") < page.text.index("More checks")


def test_page_without_any_live_latent_or_example_is_still_a_page(tmp_path: Path) -> None:
    dead = beta_rows([0.5, 0.95], [float("nan")] * 2, fired=0)
    page = page_of(inputs(tmp_path, {"batchtopk": dead}, {"batchtopk": NO_EXAMPLES}))
    assert "batchtopk calls 0 of 2 latents chat-only" in page.text
    assert "norm differences from \u2013 down to \u2013" in page.text
    assert page.contexts == []


def test_same_inputs_give_the_same_page(good: Inputs) -> None:
    assert render(good, TEMPLATE) == render(good, TEMPLATE)


def test_papers_values_stand_beside_the_papers_run_alone(tmp_path: Path) -> None:
    for published in (True, False):
        page = page_of(inputs(tmp_path, {"batchtopk": BETAS}, {"batchtopk": EXAMPLES}, published=published))
        assert ("0.88" in page.text) == ("paper_batchtopk" in page.text) == published


def test_one_seed_says_nothing_of_another(good: Inputs) -> None:
    assert "found among the other's" in render(good, TEMPLATE)
    assert "batchtopk confirmed 3.5 50 % (25 % to 75 %) 50 %" in page_of(good).text
    path = Path(next(path for path in good.tables if "seed_agreement" in path))
    pd.read_csv(path).head(0).to_csv(path, index=False)
    assert "This run has one seed" in render(good, TEMPLATE)


@pytest.mark.parametrize(("seeds", "imported", "said"), [(1, True, 0), (2, False, 0), (2, True, 1)])
def test_no_seed_is_missed_of_what_others_trained(
    good: Inputs, seeds: int, imported: bool, said: int
) -> None:
    recorded = good.recorded
    if imported:
        recorded = RecordedSettings(recorded | {"crosscoders.batchtopk.import.hub": "someone/crosscoder"})
    page = page_of(good._replace(seeds=seeds, recorded=recorded))
    sentence = "batchtopk: others trained it, so no other seed can show what is chance."
    assert [sentence in caution for caution in page.cautions].count(True) == said


def test_an_empty_half_of_the_first_screen_says_so(good: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    sentences = "This run found nothing that it can state", "No limit of size or fit stands out."
    assert [one in page_of(good).text for one in sentences] == [False, False]
    assert [one in page_of(good._replace(groups={})).text for one in sentences] == [True, False]
    monkeypatch.setattr("crossdiff.report.page.limits", lambda *given: [])
    assert [one in page_of(good).text for one in sentences] == [False, True]


def test_sets_with_too_few_explained_latents_are_named(good: Inputs) -> None:
    assert "Too few to conclude (hollow marks): batchtopk, patterns: low nu (3 scored)." in page_of(good).text
    path = Path(next(path for path in good.tables if "explanations" in path))
    pd.read_csv(path).assign(too_few=False).to_csv(path, index=False)
    assert "Too few to conclude" not in page_of(good).text


def test_confirmed_latents_of_every_seed_are_listed(good: Inputs, tmp_path: Path) -> None:
    # The first seed has none: the other one's are listed all the same, with links to its own latents.
    given = inputs(tmp_path / "none", {"batchtopk": beta_rows([0.5], [0.9])}, {"batchtopk": NO_EXAMPLES})
    other = ListedFiles(good.latents["batchtopk"].betas, good.latents["batchtopk"].patterns)
    page = page_of(given._replace(seeds=2, other_seeds={("batchtopk", 3): other}))
    assert "Latent scaling confirms no latent of batchtopk, seed 0." in page.text
    assert "The confirmed latents of batchtopk, seed 3: 1" in page.text
    links = [attributes.get("href") for _, attributes in page.tags]
    assert "latents/index.html#batchtopk.seed3/1" in links
    assert "latents/index.html#batchtopk/1" not in links


def test_data_sets_may_be_called_by_numbers(good: Inputs) -> None:
    path = Path(good.groups["batchtopk"])
    two = [pd.read_csv(path).assign(dataset=name, tokens=size) for name, size in (("2024", 300), ("NA", 900))]
    pd.concat([two[0], two[1].assign(firings=1)]).to_csv(path, index=False)
    assert "which fires in 2024 (99 % of its firings, 25 % of the text)" in page_of(good).text


# What it must not do


def test_text_from_data_is_escaped(tmp_path: Path) -> None:
    given = inputs(tmp_path, {"batchtopk": BETAS}, {"batchtopk": EXAMPLES}, family=HOSTILE)
    row = {"model": "base", "requests": HOSTILE, "asked": 1, "refused": 0}
    row |= {"rate": 0.0, "low": 0.0, "high": 0.8, "unfinished": 0, "thinking": "none"}
    chat = row | {"model": "chat", "refused": 1, "low": 0.9, "high": 1.0}
    pd.DataFrame([row, chat]).to_csv(tmp_path / "refusals.csv", index=False)
    pd.read_csv(given.tables[0]).assign(crosscoder=HOSTILE).to_csv(given.tables[0], index=False)
    page = page_of(given._replace(refusals=str(tmp_path / "refusals.csv")))
    assert "b" not in {tag for tag, _ in page.tags}
    times = "../../../../logs/gemma2-2b/layer13/times.js"
    assert [found for tag, found in page.tags if tag == "script"] == [{}, {"src": times}]  # the page's own
    # It stands in the family, a finding, two cells of the refusals, a row and a link of a table, 6 patterns.
    assert page.text.count(HOSTILE) == 6 + 6
    assert [token for token, _ in page.contexts[2]] == ["<script>alert('boo')</script>", " & ", "<b>"]


def test_page_fetches_nothing(good: Inputs) -> None:
    html = render(good, TEMPLATE)
    for tag, attributes in Page(html).tags:
        for name, value in attributes.items():
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                assert value.startswith(("data:", "../", "latents/", "#")), (tag, name, value)
    assert "@import" not in html
    assert "url(" not in html


def test_figures_are_inlined(good: Inputs) -> None:
    sources = [attributes["src"] for tag, attributes in page_of(good).tags if tag == "img"]
    shown = [
        base64.b64decode(source.removeprefix("data:image/svg+xml;base64,")).decode() for source in sources
    ]
    assert shown == [f"<svg xmlns='http://www.w3.org/2000/svg'>{figure}</svg>" for figure in FIGURES]


def test_figures_stand_in_the_order_given_with_their_captions_escaped(good: Inputs) -> None:
    text = page_of(good._replace(figures=good.figures[::-1])).text
    places = [text.index(f"{figure} & <b>more</b>.") for figure in FIGURES]
    assert places == sorted(places, reverse=True)


def test_sections_stand_in_the_order_given(good: Inputs) -> None:
    text = page_of(good._replace(sections=["files", "found"])).text
    assert text.index("This command says where a file comes from") < text.index("What was found")
    assert "What was compared" not in text


def test_table_of_a_figure_stands_below_it(good: Inputs, tmp_path: Path) -> None:
    pd.DataFrame({"set": ["all & live"], "median": [0.123456], "rare": [float("nan")]}).to_csv(
        tmp_path / "density.csv", index=False
    )
    shown = [good.figures[0]._replace(table="density")]
    page = page_of(
        good._replace(
            figures=shown, tables=[*good.tables, str(tmp_path / "density.csv")], sections=["figures"]
        )
    )
    assert re.search(r"set\s+median\s+rare\s+all & live\s+0.123\s+\u2013", page.text)


def test_every_figure_has_a_description(good: Inputs) -> None:
    page = page_of(good)
    alts = [attributes.get("alt") for tag, attributes in page.tags if tag == "img"]
    assert sorted(alts) == sorted(f"What {figure} shows" for figure in FIGURES)
    assert len([tag for tag, _ in page.tags if tag == "figcaption"]) == len(FIGURES)
