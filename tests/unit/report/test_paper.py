"""The paper's values stand next to a run's own."""

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT

from crossdiff.report.paper import comparison, is_papers_run, quantities

PUBLISHED = yaml.safe_load((ROOT / "data/paper.yaml").read_text())
EVALUATION = {
    "fve_base": 0.8,
    "fve_chat": 0.9,
    "l0": 16.0,
    "latents": 200,
    "classes": {"base-only": 1, "shared": 100, "chat-only": 7, "other": 42, "dead": 50},
    "chat_only_confirmed": 4,
    "chat_only_inside_shared": None,
    "top_confirmed": 9,
    "top_inside_shared": 0.1,
    "correlation_nu_error": -0.7,
    "correlation_nu_reconstruction": -0.8,
}
TWINS = pd.Series({"twins": 3, "twins_divergent": 0.6})
TEMPLATE = pd.DataFrame(
    {"set": ["shared", "chat-only"], "mostly_on_template": [0.0, 0.4], "at_least_a_third": [0.1, 0.6]}
)


def kl_table() -> pd.DataFrame:
    names = ["none", "all", "error", "template", "best_norm", "worst_norm", "best_scaling", "worst_scaling"]
    rows = [
        (name, group, "subtraction", start + i)
        for group, start in (("all", 0), ("first 9", 10), ("rest", 20))
        for i, name in enumerate(names)
    ]
    rows += [("best_norm", "all", "additive", 99)]
    return pd.DataFrame(rows, columns=["variant", "group", "form", "kl"])


def test_quantities_are_those_of_the_tables() -> None:
    found = quantities(EVALUATION, TWINS, TEMPLATE, kl_table())
    assert found["FVE"] == pytest.approx(0.85)
    assert found["dead share"] == 0.25
    assert np.isnan(found["chat-only inside the shared nu_reconstruction"])  # an empty class
    assert (found["twins that fire apart"], found["chat-only mostly on template tokens"]) == (0.6, 0.4)
    assert found["KL best half by norm, all tokens"] == 4  # not the additive form
    assert found["KL none, first tokens"] == 10


def test_every_published_quantity_is_measured() -> None:
    assert set(PUBLISHED["values"]) <= set(quantities(EVALUATION, TWINS, TEMPLATE, kl_table()))


def test_without_the_causal_experiment_its_rows_are_missing() -> None:
    assert not [name for name in quantities(EVALUATION, TWINS, TEMPLATE, None) if name.startswith("KL")]


@pytest.mark.parametrize("published", [PUBLISHED, None])
def test_published_values_stand_beside_the_same_loss(published: dict | None) -> None:
    run = quantities(EVALUATION, TWINS, TEMPLATE, kl_table())
    table = comparison({"ours": run}, {"ours": "l1"}, published).set_index("quantity")
    assert table.ours["chat-only latents"] == 7
    expected = 3176 if published else np.nan
    np.testing.assert_equal(table.paper_l1["chat-only latents"], expected)
    assert np.isnan(table.paper_l1["dead share"])  # of BatchTopK alone


def test_papers_run_is_known_by_its_models_and_layer() -> None:
    values = yaml.safe_load((ROOT / "configs/gemma2-2b.yaml").read_text())["pair"]
    names = values["base"]["hub"]["name"], values["chat"]["hub"]["name"]
    assert is_papers_run(PUBLISHED, *names, values["layer"])
    assert not is_papers_run(PUBLISHED, *names, values["layer"] + 1)
    assert not is_papers_run(PUBLISHED, None, None, values["layer"])
