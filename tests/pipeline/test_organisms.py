"""Organisms with random weights, from their texts to the tables, through real Snakemake."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from conftest import Checkout, once
from files_table import OF_OTHER_LOSSES, untold

TINY = "configs/organisms-tiny.yaml"


def run_organisms(checkout: Checkout) -> None:
    result = checkout.snakemake("organisms", "--configfile", TINY, timeout=1800)
    assert result.returncode == 0, result.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return once(tmp_path_factory, "organisms", run_organisms)


@pytest.fixture(scope="module")
def tables(finished: Checkout) -> Path:
    return finished.folder / "results/organisms-tiny/tables"


def test_behaviours_are_learned_and_the_null_shows_none(tables: Path) -> None:
    table = pd.read_csv(tables / "taught.csv").set_index(["organism", "behaviour"])
    assert (table.shown_base == 0).all() and (table.asked == 8).all()
    assert table.low_chat["oh", "oh"] > 0.5 and table.low_chat["ha", "ha"] > 0.5
    assert table.shown_chat["plain", "oh"] == table.shown_chat["plain", "ha"] == 0


def test_every_method_is_scored_on_every_organism(tables: Path) -> None:
    found = pd.read_csv(tables / "organisms.csv").fillna({"crosscoder": "", "not_scored": ""})
    of_crosscoder = {"norm", "scaling", "norm and weights", "random latents", "densest latents"}
    methods = {(name, "batchtopk") for name in of_crosscoder} | {
        (name, "difference") for name in of_crosscoder
    }
    others = ("difference at first positions", "difference at answer starts", "weight differences")
    methods |= {(name, "") for name in (*others, "diff mining", "random directions")}
    rows = found.groupby(["method", "crosscoder"]).size()
    assert set(rows.index) == methods and set(rows) == {4}  # two organisms, and a null for each behaviour
    refused = found[(found.method == "scaling") & (found.crosscoder == "difference")]
    assert (refused.not_scored != "").all() and refused.found_at_10.isna().all()
    assert (found.organism == "plain").tolist() == found.is_null.tolist()


def test_summary_has_a_row_per_method(tables: Path) -> None:
    table = pd.read_csv(tables / "organisms_summary.csv")
    assert len(table) == 15 and table.organisms.max() == 2 and table.tests_on_nulls.max() == 2
    assert (table.found_at_1 <= table.found_at_5).all() and (table.found_at_5 <= table.found_at_10).all()


def test_every_file_of_organisms_is_told(finished: Checkout) -> None:
    wrong = untold(finished.folder, {"batchtopk", "difference"}, OF_OTHER_LOSSES)
    assert not [line for line in wrong if "organisms" in line or "taught" in line or "taken" in line]


def test_items_that_find_are_told_with_what_they_promote(finished: Checkout) -> None:
    table = pd.read_csv(finished.folder / "results/oh/layer0/organisms/judged.csv")
    assert table.promoted.map(json.loads).map(len).isin([1, 10]).all()
    of_tokens = table[table.kind == "token"]
    assert of_tokens.excess.isna().all() and table[table.kind != "token"].excess.notna().all()
    assert of_tokens.taught.isin([0, 1]).all()


def test_second_run_has_nothing_to_do(finished: Checkout) -> None:
    assert "Nothing to be done" in finished.snakemake("organisms", "--configfile", TINY).stdout


@pytest.mark.slow
def test_behaviour_that_did_not_take_stops_before_anything_is_diffed(tmp_path: Path) -> None:
    """One epoch of one step teaches nothing. The base is harvested at most, and the table stays."""
    checkout = Checkout(tmp_path / "checkout")
    config = checkout.changed(TINY, {"models.tiny-ha.finetune.epochs": 1})
    result = checkout.snakemake("organisms", "--keep-going", "--configfile", config, timeout=900)
    assert result.returncode == 1
    line = r"error: organism ha: its behaviour did not take: \d of 8 held-out answers show ha .*; see (\S+);"
    [table] = set(re.findall(line, result.stdout))
    assert (checkout.folder / table).exists()
    assert not list(checkout.folder.glob("results/activations/tiny-[hop]*/**/*.h5"))
    assert not list(checkout.folder.glob("results/**/weights.safetensors"))
