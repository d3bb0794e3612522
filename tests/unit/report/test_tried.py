"""The page's section on saved sessions: whose page shows them, what it says of each, and what is escaped."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from safetensors.torch import save_file

from crossdiff.errors import UserError
from crossdiff.latents.catalogue import weights_digest
from crossdiff.report.template import page_template
from crossdiff.report.tried import sessions_by_place, tried_section

FRAME = page_template(ROOT / "report/page.html.jinja").environment
GIVEN: dict[str, Any] = json.loads((ROOT / "tests/data/session.json").read_text())
TRAININGS = [("batchtopk", 0), ("batchtopk", 1)]


def saved(folder: Path, name: str = "one", **values: Any) -> str:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(GIVEN | values))
    return str(path)


@pytest.fixture
def weights(tmp_path: Path) -> dict[str, str]:
    path = str(tmp_path / "weights.safetensors")
    save_file({"decoder": torch.ones(2, 2)}, path)
    return {"batchtopk.seed0": path}


def section(paths: list[str], weights: dict[str, str]) -> str:
    html = FRAME.get_template("sections/tried.html.jinja").render(tried=tried_section(paths, weights))
    return " ".join(html.split())


def test_each_page_shows_its_own_sessions(tmp_path):
    ours, deeper = saved(tmp_path), saved(tmp_path, "deeper", layer=2)
    places = [("tiny", 1), ("tiny", 2), ("other", 1)]
    found = sessions_by_place([deeper, ours], places, TRAININGS)
    assert found == {("tiny", 1): [ours], ("tiny", 2): [deeper], ("other", 1): []}


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"pair": "mine"}, "found mine layer 1, allowed: tiny layer 1"),
        ({"layer": 5}, "found tiny layer 5, allowed: tiny layer 1"),
        ({"crosscoder": "l1.seed0"}, "found l1.seed0, allowed: batchtopk.seed0, batchtopk.seed1"),
        ({"crosscoder": "batchtopk.seed2"}, "found batchtopk.seed2, allowed: "),
        ({"format": "something else"}, "not a session of the live page"),
        ({"latents": [{"latent": 3, "change": "add"}]}, "not a session of the live page"),
    ],
)
def test_session_that_no_page_can_show_is_one_line(tmp_path, values, found):
    with pytest.raises(UserError) as error:
        sessions_by_place([saved(tmp_path, **values)], [("tiny", 1)], TRAININGS)
    assert found in str(error.value) and "\n" not in str(error.value) and "one.json" in str(error.value)


def test_section_shows_prompt_changes_answers_and_kl(tmp_path, weights):
    latents = [
        {"latent": 3, "change": "add", "strength": -1.5, "name": "JSON & refusals"},
        {"latent": 8, "change": "ablate", "strength": None},
    ]
    answers = GIVEN["answers"] | {"steered": ""}
    digest = weights_digest(weights["batchtopk.seed0"])
    path = saved(tmp_path, latents=latents, answers=answers, weights=digest)
    shown = section([path], weights)
    assert "<h3>An egg, without the latent</h3>" in shown
    assert "How do I boil an egg?" in shown and "In water." in shown and "(nothing)" in shown
    assert "Changed: latent 3 (JSON &amp; refusals) added at -1.5; latent 8 ablated." in shown
    assert "0.25 nats" in shown and "caution" not in shown


def test_what_was_not_asked_is_not_shown(tmp_path, weights):
    shown = section([saved(tmp_path, latents=[], kl=None, kl_mean=None, title="")], weights)
    assert "<h3>How do I boil an egg?</h3>" in shown and "No latent was changed" in shown
    assert "nats" not in shown and "steered chat" not in shown


def test_latents_of_other_or_unknown_weights_are_called_so(tmp_path, weights):
    assert "had other weights when this was saved" in section([saved(tmp_path)], weights)
    assert "does not say for which weights" in section([saved(tmp_path, "old", weights="")], weights)


def test_page_without_a_session_has_no_section():
    assert section([], {}) == ""


def test_text_of_a_session_is_escaped(tmp_path, weights):
    shown = section([saved(tmp_path, title="<b>bold</b>", prompt="<script>alert(1)</script>")], weights)
    assert "<b>" not in shown and "<script>" not in shown and "&lt;script&gt;" in shown
