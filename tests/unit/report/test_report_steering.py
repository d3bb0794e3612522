"""The page's section on steering: what it claims, what it does not, and that answers are escaped."""

from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from helpers_steering import steered_answers, steering_inputs

from crossdiff.config import Stated
from crossdiff.interventions.steering_effects import effects
from crossdiff.report.steering import contrasts_of, steering_section
from crossdiff.report.template import ShownFigure, page_template

FRAME = page_template(ROOT / "report/page.html.jinja").environment


def page(folder: Path, answers: pd.DataFrame, **inputs) -> str:
    figure = ShownFigure("steering", "data:,", "Refusals", "What steering does.", section="steering")
    return FRAME.get_template("sections/steering.html.jinja").render(
        steering=steering_section(steering_inputs(folder, answers, **inputs)), figures=[figure]
    )


def test_contrast_is_where_the_latent_differs_most_from_its_controls():
    harmful, benign = contrasts_of(effects(steered_answers(), Stated(), 0), 5)
    assert (harmful.requests, harmful.change, harmful.steered["shown"], harmful.unsteered["shown"]) == (
        "harmful",
        "-1",
        3,
        24,
    )
    assert (benign.requests, benign.change, benign.steered["shown"], benign.unsteered["shown"]) == (
        "benign",
        "+2",
        22,
        0,
    )
    assert harmful.controls == [24, 24, 24]
    assert harmful.surely
    assert benign.surely


def test_latent_without_an_effect_supports_nothing():
    assert not any(
        contrast.surely for contrast in contrasts_of(effects(steered_answers(effect=False), Stated(), 0), 5)
    )


def test_control_that_goes_as_far_takes_the_claim_away():
    answers = steered_answers()
    answers.loc[
        (answers.number == 7) & (answers.strength == -1) & (answers.requests == "harmful"), "shown"
    ] = False
    harmful, benign = contrasts_of(effects(answers, Stated(), 0), 5)
    assert harmful.change == "-2"  # where no control does
    answers.loc[
        (answers.number == 7) & (answers.strength == -2) & (answers.requests == "harmful"), "shown"
    ] = False
    harmful, benign = contrasts_of(effects(answers, Stated(), 0), 5)
    assert not harmful.surely
    assert benign.surely


def test_ablation_counts_where_it_does_most(tmp_path: Path):
    answers = steered_answers()
    out = (answers.change == "ablate") & (answers.requests == "harmful") & (answers.direction == "latent")
    answers.loc[out, "shown"] = False
    harmful, _ = contrasts_of(effects(answers, Stated(), 0), 5)
    assert (harmful.change, harmful.steered["shown"], len(harmful.controls)) == ("ablated", 0, 3)
    assert harmful.surely and not harmful.odd
    text = " ".join(page(tmp_path, answers).split())
    assert "Ablated, where it differs most from its controls, <strong>0 of 24</strong> harmful" in text


def test_odd_answers_take_the_weight_off_a_claim(tmp_path: Path):
    answers = steered_answers()
    answers.loc[(answers.direction == "latent") & (answers.change == "add"), "nats"] += 3 * answers.tokens
    text = page(tmp_path, answers)
    assert text.count("so odd that this says little") == 2
    assert "so odd" not in page(tmp_path, steered_answers())


def test_page_says_why_what_and_how_sure(tmp_path: Path):
    text = " ".join(page(tmp_path, steered_answers()).split())
    assert "latent 5 (topk)" in text
    assert "Why this latent: <strong>confirmed by latent scaling</strong>." in text
    assert "Candidates are 2 latents. The 1 that latent scaling confirms at 95 % come first" in text
    assert "harmful training requests (mean 2.00) from benign ones (0.25)" in text
    assert "It stands for harm: turned up, it should make the model refuse." in text
    assert "Counted is every answer that <strong>refuses</strong>." in text
    assert "the next latent has 3.00" in text
    assert "<strong>3 of 24</strong> harmful requests get an answer that refuses" in text
    assert "24 unsteered, 24 to 24 with 3 controls" in text
    assert text.count("beyond chance and beyond all controls") == 2
    assert "24 harmful requests, 24 benign requests" in text
    assert "too few to tell a small effect" not in text


def test_latent_is_called_by_its_name_and_number(tmp_path: Path):
    found = steering_section(
        steering_inputs(tmp_path, steered_answers()),
        {"topk": {5: "refusals", 6: "another"}, "l1": {5: "of another"}},
    )
    assert [entry["label"] for entry in found["latents"]] == ["refusals: latent 5 (topk)"]


def test_page_without_an_effect_says_so(tmp_path: Path):
    text = page(tmp_path, steered_answers(effect=False))
    assert text.count("This shows no effect of its own") == 2
    assert "beyond chance" not in text


def test_few_requests_bring_a_caution(tmp_path: Path):
    assert "too few to tell a small effect" in page(tmp_path, steered_answers(asked=6))


def test_latent_of_the_config_is_not_called_chosen(tmp_path: Path):
    text = page(tmp_path, steered_answers(latents=(5, 6)))
    assert text.count("confirmed by latent scaling</strong>") == 1
    assert text.count("named in the config</strong>") == 1
    assert text.count("Candidates are") == 1


def test_answers_are_escaped_and_stand_side_by_side(tmp_path: Path):
    text = page(tmp_path, steered_answers())
    assert "<b>" not in text
    assert "&lt;b&gt;Yes&lt;/b&gt; 3" not in text  # of the requests shown, answers 0 to 2
    rows = [row.strip() for row in text.split("<tr>")]
    assert [row.split()[0] for row in rows].count("<td>harmful") == 3
    assert [row.split()[0] for row in rows].count("<td>benign") == 3
    [row] = [row for row in rows if row.startswith("<td>benign 0?")]
    assert row.index("&lt;b&gt;Yes&lt;/b&gt; 0") < row.index("+2: I can&#39;t do that.")


@pytest.mark.parametrize("controls", [(), (("random direction", 1),)])
def test_any_number_of_controls_will_do(tmp_path: Path, controls):
    assert "latent 5 (topk)" in page(tmp_path, steered_answers(controls=controls))


def test_no_latent_at_all_is_no_error(tmp_path: Path):
    assert "<h3>" not in page(tmp_path, steered_answers(latents=()))


# Behaviours that a user states.

OF_CHATS = pd.DataFrame(
    {
        "latent": [5, 8],
        "relative_norm_difference": 0.8,
        "confirmed_95": False,
        "on_prompts": [1.5, 0.5],
        "score": [4.0, 3.0],
        "chosen_because": ["fires most on the prompts", None],
    }
)


def of_one_data_set(answers: pd.DataFrame) -> pd.DataFrame:
    """The answers to harmful requests, as if they were prompts of a data set."""
    question = answers.question.str.replace("harmful", "talk")
    return answers.assign(requests="talk", question=question)[answers.requests == "harmful"]


def test_stated_behaviour_is_named_wherever_something_is_counted(tmp_path: Path):
    behaviour = Stated(pattern="<b>|Yes")
    text = page(tmp_path, of_one_data_set(steered_answers()), behaviour=behaviour, candidates=OF_CHATS)
    text = " ".join(text.split())
    named = "matches /&lt;b&gt;|Yes/"
    assert f"Counted is every answer that <strong>{named}</strong>." in text
    assert f"Asked: 24 prompts of talk. Counted is every answer that {named}." in text
    assert f"<strong>3 of 24</strong> prompts of talk get an answer that {named}" in text
    assert "Why this latent: <strong>fires most on the prompts</strong>." in text
    assert "the mean activation on training prompts (1.50) times the direction's norm. It is 4.00" in text
    assert "shows it</span>" in text
    assert "refus" not in text and "harm" not in text and "<b>" not in text


def test_other_behaviours_may_go_either_way():
    found = effects(of_one_data_set(steered_answers()), Stated(words=["sorry"]), 0)
    [contrast] = contrasts_of(found, 5)
    assert (contrast.change, contrast.sign, contrast.steered["shown"], contrast.surely) == ("-1", -1, 3, True)
    # Of requests, too: more of a behaviour is no more expected than less of it.
    answers = steered_answers()
    answers.loc[answers.requests == "harmful", "shown"] = ~answers.shown[answers.requests == "harmful"]
    harmful, benign = contrasts_of(effects(answers, Stated(words=["sorry"]), 0), 5)
    assert (harmful.change, harmful.sign, harmful.steered["shown"], harmful.surely) == ("-1", 1, 21, True)
    assert (benign.change, benign.sign, benign.steered["shown"], benign.surely) == ("+2", 1, 22, True)
    harmful, _ = contrasts_of(effects(answers, Stated(), 0), 5)
    assert not harmful.surely


def test_answers_without_a_verdict_are_told_and_support_nothing(tmp_path: Path):
    answers = steered_answers()
    answers.loc[answers.change == "add", "shown"] = pd.NA
    text = " ".join(page(tmp_path, answers, behaviour=Stated(judge="Is it rude?")).split())
    assert f"On {4 * 4 * 2 * 24} answers the judge said neither yes nor no." in text
    assert "get an answer that is judged yes: Is it rude?" in text
    assert "not judged</span>" in text
    assert "beyond chance" not in text
