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

WHY = "a difference SAE has no base decoder"
COUNT = 5
TABLES = ("scores", "statistics", "leaderboard", "claims")


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
    pd.DataFrame({"kind": kinds[:4]}).to_csv(folder / "concepts.csv", index=False)
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
        THRESHOLDS,
        SCORING,
        paths,
    )
    return {name: pd.read_csv(path) for name, path in paths.items()}


def test_scores_are_missing_and_say_why(tmp_path: Path) -> None:
    found = scored(tmp_path, ["batchtopk", "difference"])
    for name in ("scores", "leaderboard"):
        table = found[name]
        assert (table[DOES_NOT_APPLY].notna() == (table.crosscoder == "difference")).all()
        of_difference = table[table.crosscoder == "difference"]
        assert len(of_difference) == 5
        assert of_difference[["f1", "recall", "strict_f1", "called_chat_only"]].isna().all(axis=None)
        assert table.f1[table.crosscoder == "batchtopk"].notna().all()
    statistics = found["statistics"].set_index("crosscoder").loc["difference"]
    assert statistics.found_chat_only == 2 and statistics.splits == 0  # directions are matched all the same
    assert statistics[["auc_norm_difference", "auc_nu_error", "nu_error_slope"]].isna().all()


def test_a_leaderboard_of_none_that_rules_can_score_is_refused(tmp_path: Path) -> None:
    line = r"crosscoders: found none whose latents a rule can call chat-only \(a difference SAE has no base"
    with pytest.raises(UserError, match=line):
        scored(tmp_path, ["difference"])
