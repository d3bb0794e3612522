"""Pairs that read other token shards, or have other layers, through real Snakemake: the page over them."""

from pathlib import Path

import pandas as pd
import pytest
from conftest import Checkout, once
from helpers_latex import check_cells
from helpers_overview import OverviewPage

# The third chat model has another template, so it reads other token shards.
CHANGES = {
    "models.tiny-marked.finetune": {
        "from": "tiny-base",
        "chat_template": "data/markers.jinja",
        "data": {"requests": 4000},
    },
    "pairs.tiny-second.layers": [1],
    "pairs.marked": {"base": "tiny-base", "chat": "tiny-marked", "layer": 1},
    "overview": "side-by-side",
    "behaviour": None,
}

pytestmark = pytest.mark.slow


def run_pairs(checkout: Checkout) -> None:
    config = checkout.changed("configs/tiny-pairs.yaml", CHANGES)
    result = checkout.snakemake("--configfile", config, timeout=1800)
    assert result.returncode == 0, result.stdout
    page = f"{checkout.folder}/results/side-by-side/index.html"
    assert f"The overview is at {page}" in result.stdout


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(tmp_path_factory, "overview", run_pairs).folder / "results"


def test_rows_are_those_of_every_pair_and_layer(results: Path) -> None:
    table = pd.read_csv(results / "side-by-side/tables/pairs.csv")
    assert table[["pair", "layer", "base", "chat"]].to_numpy().tolist() == [
        ["marked", 1, "tiny-base", "tiny-marked"],
        ["tiny", 0, "tiny-base", "tiny-chat"],
        ["tiny", 1, "tiny-base", "tiny-chat"],
        ["tiny-second", 1, "tiny-base", "tiny-other"],
    ]
    assert table.tokenizer.nunique() == 2


def test_pairs_of_one_layer_are_compared_and_firing_only_on_equal_tokens(results: Path) -> None:
    table = pd.read_csv(results / "side-by-side/tables/overlap.csv")
    assert set(table.layer) == {1} and len(table) == 6
    of_marked = (table.pair == "marked") | (table.other_pair == "marked")
    assert table.co_active.isna().tolist() == table.control_co_active.isna().tolist() == of_marked.tolist()
    assert (table.control == 50).all() and (table.control_matched <= 50).all()


@pytest.mark.parametrize("table", ["pairs", "overlap"])
def test_tables_are_latex_too_with_the_cells_of_the_file(table: str, results: Path) -> None:
    check_cells(results / f"side-by-side/tables/{table}.csv")


def test_page_says_who_reads_the_same_tokens(results: Path) -> None:
    page = OverviewPage((results / "side-by-side/index.html").read_text())
    assert "marked reads token shards of its own" in page.text
    assert "tiny and tiny-second read the same token shards, made by the tokenizer tiny-base-" in page.text
    assert "No other pair has the layer and the base model of tiny at layer 0." in page.text
    assert any("meaningless" in caution for caution in page.cautions)
