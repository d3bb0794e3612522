"""The first look on its own page and in the report: what it says, and that text is escaped."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from helpers_look_files import LAYERS, SUMMARY, first_look_files
from helpers_report import BETAS, EXAMPLES, Page, inputs, page_of, write_tokenizer

from crossdiff.errors import UserError
from crossdiff.provenance.recorded_settings import RecordedSettings
from crossdiff.provenance.storage import read_json, write_json, write_parquet
from crossdiff.report.figures.first_look import over_layers
from crossdiff.report.first_look import FirstLookInputs, promoted_tokens, render


def page(folder: Path, asked: list[str] | None = None, summary=SUMMARY, rows: int | None = None) -> Page:
    recorded = RecordedSettings({"pair.name": "talk-pair"})
    template = ROOT / "report/first_look.html.jinja"
    tokenizer = write_tokenizer(folder / "tokenizer")
    html = render(first_look_files(folder, asked, summary, rows), tokenizer, recorded, template)
    assert "<script>alert" not in html and "<script>boo" not in html
    return Page(html)


def test_report_has_the_first_look_as_a_section(tmp_path) -> None:
    (tmp_path / "look").mkdir()
    given = inputs(tmp_path, {"l1": BETAS}, {"l1": EXAMPLES})
    given = given._replace(
        first_look=first_look_files(tmp_path / "look"), sections=["compared", "first_look"]
    )
    found = page_of(given)
    assert "First look, before any crosscoder Both models read 2,000 tokens" in found.text
    assert ("a", {"href": "../../first_look.html"}) in found.tags
    assert "layer: 1" in found.text and "This run compares layer 13." in found.text


def test_report_of_a_run_at_the_suggested_layer_says_it_once(tmp_path) -> None:
    (tmp_path / "look").mkdir()
    given = inputs(tmp_path, {"l1": BETAS}, {"l1": EXAMPLES})
    look = first_look_files(tmp_path / "look", summary=SUMMARY | {"suggested_layer": 13})
    found = page_of(given._replace(first_look=look, sections=["first_look"]))
    assert "layer: 13" in found.text and "This run compares" not in found.text


def test_page_says_where_the_models_differ(tmp_path) -> None:
    found = page(tmp_path)
    assert "First look: talk-pair" in found.text
    assert (
        "Both models read 2,000 tokens once, in 30 sequences, and answered 2 held-out prompts" in found.text
    )
    assert "role user 1,500 0.1 60 % assistant 500 0.2 40 %" in found.text
    assert "layer: 1" in found.text
    assert "<script>alert('boo')</script> 7 1.5 10 %" in found.text  # as text, which the parser gives back
    assert not found.cautions


def test_place_where_both_models_are_equal_has_no_tokens(tmp_path) -> None:
    given = first_look_files(tmp_path)
    means = pd.read_parquet(given.mean_differences)
    tokens = ["promoted", "promoted_by", "suppressed", "suppressed_by"]
    means[tokens] = means[tokens].astype(object)
    means.loc[0, tokens] = None
    write_parquet(given.mean_differences, means)
    template, tokenizer = ROOT / "report/first_look.html.jinja", write_tokenizer(tmp_path / "tokenizer")
    found = Page(render(given, tokenizer, RecordedSettings({"pair.name": "talk-pair"}), template))
    assert found.text.count("Both models are equal here.") == 1
    shown = {int(token) for ids in means.promoted[1:] for token in ids}
    assert shown <= promoted_tokens(given)


def test_contexts_are_coloured_and_escaped(tmp_path) -> None:
    of_kl, of_topic = page(tmp_path).contexts
    for tokens in (of_kl, of_topic):
        (header, shown), (word, strong), (last, weak) = [entry for entry in tokens if entry[0].strip()]
        assert (header, word, last) == ("<|user|>", "<script>alert('boo')</script>", " do")
        assert shown == {"class": "template"}
        assert strong["style"].endswith("0.70)") and weak["style"].endswith("0.25)")
    assert of_kl[-1][1]["title"] == "1 nats" and of_topic[-1][1]["title"] == "1"


def test_mean_differences_stand_next_to_chance(tmp_path) -> None:
    found = page(tmp_path).text
    assert "text, token 1 9 25 % <script>alert('boo')</script> How & 9.5 3.0 3.5" in found.replace("  ", " ")
    assert "template token '<|user|>', assistant 8 50 %" in found


def test_answers_say_what_changed(tmp_path) -> None:
    found = page(tmp_path).text
    assert "base 2 of 2, chat + mean difference in texts 2 of 2, chat + random direction 2 of 2." in found
    assert "A language model that saw" not in found


@pytest.mark.parametrize(("asked", "said"), [(["It refuses."], "It refuses."), ([], "None.")])
def test_language_model_is_quoted(tmp_path, asked: list[str], said: str) -> None:
    found = page(tmp_path, asked).text
    assert said in found[found.index("A language model that saw") :]


def test_pair_that_does_not_differ_and_has_no_prompts(tmp_path) -> None:
    nothing = SUMMARY | {"equal": True, "conversations": 0}
    found = page(tmp_path, summary=nothing, rows=0)
    assert found.cautions[0].startswith("The two models do not differ")
    assert "There are no prompts: no data set is of kind chats" in found.text
    assert "Suggested layer" not in found.text
    assert "held-out prompts" not in found.text
    for said in ("No prediction differs.", "No topic was found.", "No place has enough tokens."):
        assert said in found.text


def test_run_without_a_first_look_has_no_inputs_of_it() -> None:
    assert FirstLookInputs.of([], []) is None


def test_figure_shows_measured_layers_alone(tmp_path) -> None:
    left, middle, right = over_layers(LAYERS, 1).axes
    assert middle.lines[0].get_xdata().tolist() == [1, 2]
    assert [line.get_xdata()[0] for line in (left.lines[-1], middle.lines[-1], right.lines[-1])] == [1] * 3
    without = over_layers(LAYERS.assign(kl_patched=np.nan), 1).axes[1]
    assert "no conversation" in without.texts[0].get_text()


def check(folder: Path, equal: bool, allowed: str) -> dict[str, object]:
    import runpy

    from crossdiff.config import FirstLook

    main = runpy.run_path(str(ROOT / "workflow_scripts/check_difference.py"))["main"]
    write_json(folder / "summary.json", SUMMARY | {"equal": equal})
    main(folder / "summary.json", "page.html", FirstLook(equal_models=allowed), folder / "differs.json")
    return dict(read_json(folder / "differs.json"))


def test_run_of_equal_models_stops_unless_told_otherwise(tmp_path) -> None:
    expected = {"kl": 0.125, "largest_difference": 0.5}
    assert check(tmp_path, False, "stop") == expected | {"equal": False}
    assert check(tmp_path, True, "allow") == expected | {"equal": True}
    with pytest.raises(UserError, match=r"do not differ.*\(page.html\).*first_look.equal_models: allow"):
        check(tmp_path, True, "stop")
