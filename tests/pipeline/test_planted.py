"""Planted concepts in noise are found through real Snakemake, and the page says so."""

import re
from pathlib import Path

import pandas as pd
import pytest
from conftest import Checkout, planned
from files_table import untold

TINY = "configs/planted-tiny.yaml"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    checkout = Checkout(tmp_path_factory.mktemp("planted") / "checkout")
    result = checkout.snakemake("planted", "--configfile", TINY)
    assert result.returncode == 0, result.stdout
    return checkout


@pytest.fixture(scope="module")
def results(finished: Checkout) -> Path:
    return finished.folder / "results/planted-tiny"


def test_second_run_has_nothing_to_do(finished: Checkout) -> None:
    assert "Nothing to be done" in finished.snakemake("planted", "--configfile", TINY).stdout


def test_every_file_is_told(finished: Checkout) -> None:
    assert not untold(finished.folder, {"batchtopk", "l1"})


def test_truth_is_found(results: Path) -> None:
    board = pd.read_csv(results / "layer0/tables/leaderboard.csv")
    assert len(board) == 2 * 5  # crosscoders, rules
    assert board.f1.is_monotonic_decreasing
    assert board.f1[0] >= 0.9
    by_rule = board.set_index(["crosscoder", "rule"])
    assert by_rule.precision["l1", "norm + strict scaling"] > by_rule.precision["l1", "norm"]
    found = pd.read_csv(results / "layer0/tables/planted_statistics.csv")
    assert len(found) == 2 * 2  # crosscoders, seeds
    assert (found.nu_error_r2 > 0.9).all()


def test_methods_are_compared(results: Path) -> None:
    methods = pd.read_csv(results / "layer0/tables/planted_methods.csv").set_index("crosscoder")
    assert methods.loss.to_dict() == {"batchtopk": "batchtopk", "l1": "l1"}
    assert methods.cost["batchtopk"] == 1 and methods.cost["l1"] > 0 and (methods.seconds_per_step > 0).all()
    assert methods[["fve_base", "fve_chat"]].gt(0.5).all(axis=None)
    board = pd.read_csv(results / "layer0/tables/leaderboard.csv")
    of_l1 = board[board.crosscoder == "l1"]
    assert set(of_l1.verdict) <= {"better", "worse", "no clear difference"}
    assert board.verdict[board.crosscoder == "batchtopk"].isna().all()
    ends = board[[f"{score}_{end}" for score in ("f1", "precision", "recall") for end in ("low", "high")]]
    assert (ends.isna() | (ends.ge(0) & ends.le(1))).all(axis=None)
    recall = pd.read_csv(results / "layer0/tables/planted_recall.csv").set_index(["crosscoder", "kind"])
    assert set(recall.frequency) == {"all", "frequent"}  # the config plants no rare ones
    assert recall.planted["l1", "weakened"].tolist() == [24, 24]
    page = (results / "layer0/report/leaderboard.html").read_text()
    assert all(f"<td>{verdict}</td>" in page for verdict in ("default", of_l1.verdict.iloc[0]))
    assert not re.search(r"\b(nan|None)\b", page[page.index("<body>") :].split('<h2 id="claims">')[0])


def test_ground_truth_is_complete(results: Path) -> None:
    concepts = pd.read_csv(results / "layer0/planted/concepts.csv")
    fired = pd.concat([pd.read_parquet(path) for path in results.glob("layer0/planted/*.train/*.parquet")])
    assert set(fired.concept) == set(concepts.concept)
    of_base_only = fired[fired.concept.isin(concepts.concept[concepts.kind == "base_only"])]
    assert (of_base_only.chat == 0).all() and (of_base_only.base > 0).all()


def test_page_has_every_verdict_and_its_links_lead_somewhere(results: Path) -> None:
    page = (results / "layer0/report/leaderboard.html").read_text()
    claims = pd.read_csv(results / "layer0/tables/claims.csv")
    assert set(claims.verdict) <= {"holds", "does not hold", "undecided"}
    assert len(re.findall(r"<strong>(?:holds|does not hold|undecided)</strong>", page)) == len(claims) == 5
    for link in re.findall(r'href="(\.\./[^"]+)"', page):
        assert (results / "layer0/report" / link).exists(), link
    for anchor in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{anchor}"' in page


def test_new_threshold_trains_nothing(finished: Checkout) -> None:
    config = finished.changed(TINY, {"scoring": {"strict_nu_error_below": 0.15}})
    jobs = planned(finished.snakemake("planted", "--dry-run", "--configfile", config).stdout)
    assert jobs["score_crosscoders"] == 1
    assert not {"train_crosscoder", "plant_concepts", "match_concepts"} & set(jobs)


def test_concepts_without_room_are_refused_before_anything_is_planted(finished: Checkout) -> None:
    changes = {"concepts.shared": 400, "largest_cosine": 0.2, "largest_norm_change": 100.0}
    config = finished.changed(TINY, {f"pair.chat.planted.{key}": value for key, value in changes.items()})
    result = finished.snakemake("results/planted-tiny/layer0/planted/concepts.csv", "--configfile", config)
    assert result.returncode == 1
    assert re.search(
        r"error: pair\.chat\.planted\.concepts: found 450, "
        r"but 64 dimensions hold only (\d+) directions apart .*; up to \1 would work",
        result.stdout,
    )
