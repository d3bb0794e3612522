"""Cautions: what a page says of a run that is too weak for its claims."""

from pathlib import Path

import pytest
from helpers_report import BETAS, EXAMPLES, inputs, page_of

from crossdiff.config import Classes
from crossdiff.report.limits import unequal_l0
from crossdiff.report.page import cautions

FINE = {
    "classes": {"base-only": 0, "shared": 50, "chat-only": 10, "other": 15, "dead": 25},
    "latents": 100,
    "chat_only_confirmed": 5,
    "largest_norm_difference": 0.97,
    "fve_base": 0.6,
    "fve_chat": 0.6,
}
NO_CHAT_ONLY = {"classes": FINE["classes"] | {"chat-only": 0}, "chat_only_confirmed": 0}


def cautions_for(changes: dict) -> list[str]:
    return cautions({"l1": FINE | changes}, Classes().chat_only_above)


def test_good_run_needs_no_caution() -> None:
    assert cautions_for({}) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (NO_CHAT_ONLY | {"largest_norm_difference": 0.8765}, "norm difference of 0.9 (the largest is 0.88)"),
        (NO_CHAT_ONLY | {"largest_norm_difference": None}, "(the largest is \u2013)"),
        ({"chat_only_confirmed": 4}, "confirms 4 of 10 chat-only latents"),
        ({"chat_only_confirmed": 0}, "confirms 0 of 10 chat-only latents"),
        ({"classes": FINE["classes"] | {"dead": 26}}, "26 % of the latents never fire"),
        ({"fve_base": 0.59}, "less than 60 % of the variance"),
        ({"fve_chat": 0.59}, "less than 60 % of the variance"),
    ],
)
def test_weak_run_gets_exactly_its_caution(changes: dict, said: str) -> None:
    (caution,) = cautions_for(changes)
    assert caution.startswith("l1: ")
    assert said in caution


def test_each_crosscoder_gets_its_own_cautions() -> None:
    found = cautions(
        {"batchtopk": FINE, "l1": FINE | {"fve_base": 0.1, "chat_only_confirmed": 1}},
        Classes().chat_only_above,
    )
    assert [caution.split(":")[0] for caution in found] == ["l1", "l1"]


@pytest.mark.parametrize(
    ("l0", "said"), [([16.0], 0), ([16.0, 20.0], 0), ([16.0, 20.1], 1), ([42.1, 15.6], 1)]
)
def test_unequal_l0_is_said(l0: list[float], said: int) -> None:
    found = unequal_l0({f"loss{number}": value for number, value in enumerate(l0)})
    assert len(found) == said
    assert not said or f"{l0[0]:.1f} in loss0, {l0[1]:.1f} in loss1" in found[0]


def test_page_shows_the_cautions(tmp_path: Path) -> None:
    page = page_of(inputs(tmp_path, {"batchtopk": BETAS}, {"batchtopk": EXAMPLES}))
    first, *rest = page.cautions
    assert "confirms 1 of 2 chat-only latents" in first
    assert [" ".join(one.split())[:12] for one in rest] == ["There is one", "No section c", "No section s"]


@pytest.mark.parametrize(("config", "warned"), [("tiny.yaml", True), ("gemma2-2b.yaml", False)])
def test_random_models_are_called_meaningless(tmp_path: Path, config: str, warned: bool) -> None:
    page = page_of(inputs(tmp_path, {"batchtopk": BETAS}, {"batchtopk": EXAMPLES}, config=config))
    assert any("meaningless" in caution for caution in page.cautions) == warned
