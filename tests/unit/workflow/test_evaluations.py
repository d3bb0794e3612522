"""The registration of evaluations: what it names is there, and fits together."""

import inspect
import itertools
import re
from pkgutil import resolve_name

import pytest
import yaml
from conftest import ROOT, TINY

from crossdiff.config import Config, load
from crossdiff.config.declared import flatten, only
from crossdiff.report.figures.drawing import caption_of
from crossdiff.workflow.evaluations import PAGE, Evaluation, evaluations
from crossdiff.workflow.forecast_run import forecast
from crossdiff.workflow.shapes import shape

EXPLAINED = {"explanations": {"model": {"folder": "some"}}}


def config(**changes: object) -> Config:
    """The tiny config with other sections, None for one that is left out."""
    values = yaml.safe_load((ROOT / TINY).read_text()) | changes
    return load({key: value for key, value in values.items() if value is not None})


ALL = {evaluation.name: evaluation for evaluation in evaluations(config(**EXPLAINED))}


def test_names_are_in_the_order_of_the_page() -> None:
    order = "training norm_difference latent_scaling threshold_sweep kl density template_tokens".split()
    assert list(ALL) == [*order, "explanations", "steering"]


def test_figures_of_one_question_follow_one_another() -> None:
    asked = [evaluation.question for evaluation in ALL.values()]
    assert len([*itertools.groupby(asked)]) == len(set(asked)) < len(asked)
    assert all(question.endswith("?") for question in asked)


def test_what_a_config_does_not_ask_for_is_left_out() -> None:
    found = {evaluation.name: evaluation for evaluation in evaluations(config(causal=None, steering=None))}
    assert not {"kl", "steering"} & set(found)
    assert "language_model" not in found["explanations"].files
    assert "language_model" in ALL["explanations"].files


@pytest.mark.parametrize("evaluation", ALL.values(), ids=ALL)
def test_function_takes_the_files_the_sections_and_the_names(evaluation: Evaluation) -> None:
    """A function with **kwargs takes any files."""
    parameters = inspect.signature(resolve_name(evaluation.draw)).parameters
    given = {*evaluation.files, *evaluation.params()["sections"], *(["names"] if evaluation.named else [])}
    named = {name for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_KEYWORD}
    assert named <= given
    assert given == named or len(named) < len(parameters)


@pytest.mark.parametrize("evaluation", ALL.values(), ids=ALL)
def test_caption_stands_next_to_the_function(evaluation: Evaluation) -> None:
    caption = caption_of(resolve_name(evaluation.draw))
    assert caption.alt and caption.text.endswith(".")
    assert not re.search(r"\s\s|<|&", caption.alt + caption.text)  # plain text: the page escapes it


@pytest.mark.parametrize("evaluation", ALL.values(), ids=ALL)
def test_settings_are_keys_of_the_config(evaluation: Evaluation) -> None:
    keys = flatten("", config(**EXPLAINED).model_dump(mode="json", by_alias=True))
    assert set(evaluation.settings) <= set(keys)
    part = only(config(), set(evaluation.settings), "draw_figure")
    for section in evaluation.params()["sections"]:
        assert getattr(part, section) is not None


@pytest.mark.parametrize("evaluation", ALL.values(), ids=ALL)
def test_files_are_made_by_a_rule(evaluation: Evaluation) -> None:
    rules = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    assert all(f'trained("{file}")' in rules for file in evaluation.files.values())
    assert not evaluation.table or f'of_layer("tables/{evaluation.table}.csv")' in rules
    assert all(f"rule {rule}:" in rules for rule in evaluation.need)


def test_sections_of_the_page_have_templates() -> None:
    assert {path.name.removesuffix(".html.jinja") for path in (ROOT / "report/sections").iterdir()} == set(
        PAGE
    )
    assert {evaluation.section for evaluation in ALL.values()} <= set(PAGE)


def test_what_an_evaluation_takes_is_in_the_forecast() -> None:
    run = config()
    needs = forecast(run, shape(run, ROOT))
    assert {rule for evaluation in evaluations(run) for rule in evaluation.need} <= set(needs)
    assert needs["measure_density"].jobs == 1
