"""Rules can't score a crosscoder without a base decoder. Its scores are missing, with the reason."""

import runpy
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from helpers_planted import SCORING, THRESHOLDS
from helpers_tables import scaling_table

from crossdiff.config import Classes
from crossdiff.errors import UserError
from crossdiff.latents.applies import DOES_NOT_APPLY
from crossdiff.latents.evaluation import beta_table
from crossdiff.planted.methods import NO_DIFFERENCE

WHY = "a difference SAE has no base decoder"
COUNT = 5
TABLES = ("scores", "statistics", "leaderboard", "claims", "recall", "methods")


def betas(difference: bool) -> pd.DataFrame:
    values = [float("nan") if difference else 0.95 - 0.1 * number for number in range(COUNT)]
    table = scaling_table(values, values, values).assign(norm_base=1.0, norm_chat=1.0)
    if difference:
        table[DOES_NOT_APPLY] = WHY
    fired = pd.DataFrame({"latent": range(COUNT), "validation_active_tokens": 5})
    return beta_table(table, fired, Classes(), THRESHOLDS)


def scored(folder: Path, crosscoders: list[str]) -> dict[str, pd.DataFrame]:
    kinds = ["chat_only", "weakened", "shared", "chat_only", "none"]
    matches = pd.DataFrame({"latent": range(COUNT), "concept": [0, 1, 2, 3, -1], "kind": kinds, "ratio": 0.5})
    matches.assign(correlation=0.9, cosine=0.9, passes_for=1).to_csv(folder / "matches.csv", index=False)
    truth = {"concept": range(4), "kind": kinds[:4], "frequency": [0.005, 0.01, 0.01, 0.02]}
    pd.DataFrame(truth).to_csv(folder / "concepts.csv", index=False)
    quality = [{"crosscoder": name, "l0": 4.0, "dead": 0} for name in crosscoders]
    pd.DataFrame(quality).assign(fve_difference=0.5).to_csv(folder / "crosscoders.csv", index=False)
    for name in crosscoders:
        betas(name == "difference").to_parquet(folder / f"{name}.parquet")
    paths = {name: str(folder / f"{name}.csv") for name in TABLES}
    main = runpy.run_path(str(ROOT / "workflow_scripts/score_crosscoders.py"))["main"]
    main(
        [(name, 0) for name in crosscoders],
        {name: name for name in crosscoders},
        str(folder / "concepts.csv"),
        [str(folder / f"{name}.parquet") for name in crosscoders],
        [str(folder / "matches.csv")] * len(crosscoders),
        str(folder / "crosscoders.csv"),
        dict.fromkeys(crosscoders, 0.25),
        THRESHOLDS,
        SCORING,
        paths,
    )
    return {name: pd.read_csv(path) for name, path in paths.items()}


def test_scores_are_missing_and_say_why(tmp_path: Path) -> None:
    found = scored(tmp_path, ["batchtopk", "difference", "l1"])
    for name in ("scores", "leaderboard"):
        table = found[name]
        assert (table[DOES_NOT_APPLY].notna() == (table.crosscoder == "difference")).all()
        of_difference = table[table.crosscoder == "difference"]
        assert len(of_difference) == 5
        assert of_difference[["f1", "recall", "strict_f1", "called_chat_only"]].isna().all(axis=None)
        assert table.f1[table.crosscoder == "batchtopk"].notna().all()
    verdicts = found["leaderboard"].groupby("crosscoder").verdict
    assert verdicts.nunique().to_dict() == {"batchtopk": 0, "difference": 0, "l1": 1}
    statistics = found["statistics"].set_index("crosscoder").loc["difference"]
    assert statistics.found_chat_only == 2 and statistics.splits == 0  # directions are matched all the same
    assert statistics[["auc_norm_difference", "auc_nu_error", "nu_error_slope"]].isna().all()


def test_what_is_found_needs_no_base_decoder(tmp_path: Path) -> None:
    table = scored(tmp_path, ["batchtopk", "difference"])["recall"]
    assert len(table) == 2 * (3 + 2 + 2)  # chat-only concepts are rare and frequent, the others frequent
    rows = table.set_index(["crosscoder", "kind", "frequency"]).sort_index()
    assert rows.planted["difference", "chat_only"].tolist() == [2, 1, 1]
    assert rows.found["difference", "chat_only"].tolist() == [1, 1, 1]
    # Of the two chat-only latents one has ratios of .95, and the other of .65.
    assert rows.recall["batchtopk", "chat_only"].tolist() == [0, 0, 0]
    assert rows.recall["difference", "chat_only"].isna().all()
    says = rows[DOES_NOT_APPLY]
    assert (says["difference", "chat_only"] == WHY).all()
    assert (says["difference", "shared"] == NO_DIFFERENCE).all()
    assert rows.found["difference", "shared"].isna().all() and rows.found["batchtopk", "shared", "all"] == 1
    assert says["difference", "weakened"].isna().all() and says["batchtopk"].isna().all()


def test_a_leaderboard_of_none_that_rules_can_score_is_refused(tmp_path: Path) -> None:
    line = r"crosscoders: found none whose latents a rule can call chat-only \(a difference SAE has no base"
    with pytest.raises(UserError, match=line):
        scored(tmp_path, ["difference"])
