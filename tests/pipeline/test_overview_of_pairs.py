"""Three pairs at two layers through real Snakemake: the tables and the page over them."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Checkout, once, planned
from files_table import outputs
from helpers_overview import OverviewPage

from crossdiff.provenance.records import read_record
from crossdiff.results.described import describe, file_of

CONFIG = "configs/overview.yaml"
OWN = {"compare_pairs": 1, "draw_layers": 1, "write_overview": 1}
# The third chat model has another template, so it reads other token shards.
CHANGES = {
    "models.tiny-marked.finetune": {
        "from": "tiny-base",
        "chat_template": "data/markers.jinja",
        "data": {"requests": 4000},
    },
    "pairs.tiny-second.layers": [1],
    "pairs.marked": {"base": "tiny-base", "chat": "tiny-marked", "layer": 1},
    "behaviour": None,
}

pytestmark = pytest.mark.slow


def run_pairs(checkout: Checkout) -> None:
    result = checkout.snakemake(
        "--configfile", checkout.changed("configs/tiny-pairs.yaml", CHANGES, "overview"), timeout=1800
    )
    assert result.returncode == 0, result.stdout
    assert f"The page over all pairs and layers is at {checkout.folder}/results/overview/" in result.stdout


@pytest.fixture(scope="module")
def finished_pairs(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return once(tmp_path_factory, "pairs", run_pairs)


@pytest.fixture(scope="module")
def results(finished_pairs: Checkout) -> Path:
    return finished_pairs.folder / "results"


def would_run(checkout: Checkout, changes: dict[str, object]) -> dict[str, int]:
    result = checkout.snakemake("--dry-run", "--configfile", checkout.changed(CONFIG, changes))
    assert result.returncode == 0, result.stdout
    return {rule: count for rule, count in planned(result.stdout).items() if rule != "all"}


def test_rows_are_those_of_every_pairs_own_table(results: Path) -> None:
    table = pd.read_csv(results / "overview/tables/pairs.csv")
    assert [*zip(table.pair, table.layer, strict=True)] == [
        *(("marked", 1), ("tiny", 0), ("tiny", 1), ("tiny-second", 1)),
    ]
    for place in table.itertuples():
        [own] = pd.read_csv(results / place.pair / f"layer{place.layer}/tables/crosscoders.csv").to_dict(
            "records"
        )
        found = {name: getattr(place, name) for name in own}
        np.testing.assert_equal(found, own)
        assert (place.base, place.chat) == (
            "tiny-base",
            {"tiny": "tiny-chat", "tiny-second": "tiny-other"}.get(place.pair, "tiny-marked"),
        )


def test_pairs_of_one_layer_are_compared_and_firing_only_on_equal_tokens(results: Path) -> None:
    table = pd.read_csv(results / "overview/tables/overlap.csv")
    assert set(table.layer) == {1} and len(table) == 6
    of_marked = (table.pair == "marked") | (table.other_pair == "marked")
    assert table.co_active.isna().tolist() == table.control_co_active.isna().tolist() == of_marked.tolist()
    assert (table.control == 50).all() and (table.control_matched <= 50).all()


def test_page_leads_to_files_that_are_there(results: Path) -> None:
    page = OverviewPage((results / "overview/index.html").read_text())
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert len(links) == 4 * 2 + 2
    assert all((results / "overview" / link).is_file() for link in links)
    assert any("meaningless" in caution for caution in page.cautions)
    assert "marked reads token shards of its own" in page.text
    assert re.search(
        r"tiny and tiny-second read the same token shards, made by the tokenizer tiny-base-", page.text
    )


def test_files_are_described(finished_pairs: Checkout, results: Path) -> None:
    own = [path for path in outputs(finished_pairs.folder) if path.startswith("results/overview/")]
    assert len(own) == 6
    for path in own:
        assert read_record(finished_pairs.folder / path).rule in file_of(path).rules
    for name in ("pairs", "overlap"):
        path = f"results/overview/tables/{name}.csv"
        assert set(pd.read_csv(finished_pairs.folder / path, nrows=0)) == set(describe(path))


def test_audit_follows_the_page_to_every_pair(finished_pairs: Checkout) -> None:
    result = finished_pairs.crossdiff("audit", "results/overview/index.html")
    assert result.returncode == 0, result.stdout
    assert "results/marked/layer1/" in result.stdout and "results/tiny/layer0/" in result.stdout


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"overview": "another"}, OWN),
        ({"pairs.marked": None}, OWN),
        ({"pairs.tiny.layers": [1]}, {"compare_pairs": 1, "write_overview": 1}),
        ({"pairs.marked": None, "pairs.tiny-second": None, "pairs.tiny.layers": [1]}, {}),
    ],
)
def test_jobs_when_pairs_and_layers_come_and_go(
    finished_pairs: Checkout, changes: dict[str, object], expected: dict[str, int]
) -> None:
    assert would_run(finished_pairs, changes) == expected


def test_threshold_of_a_match_makes_the_tables_again(finished_pairs: Checkout) -> None:
    jobs = would_run(finished_pairs, {"seed_agreement.cosine_above": 0.8})
    assert OWN.items() <= jobs.items() and "train_crosscoder" not in jobs
