"""Score every crosscoder and seed on the planted concepts, and judge the paper's claims."""

import pandas as pd

from crossdiff.config import LatentScaling, Scoring
from crossdiff.errors import UserError
from crossdiff.latents.applies import DOES_NOT_APPLY, missing, reason, table_of
from crossdiff.planted.claims import judge
from crossdiff.planted.scoring import calls, latent_table, leaderboard, score, statistics
from crossdiff.provenance.storage import write_csv
from crossdiff.workflow.job import job


def main(
    trainings: list[tuple[str, int]],
    losses: dict[str, str],
    concepts: str,
    betas: list[str],
    matches: list[str],
    thresholds: LatentScaling,
    scoring: Scoring,
    paths: dict[str, str],
) -> None:
    planted = int((pd.read_csv(concepts).kind == "chat_only").sum())
    scores, found, tables = [], [], {}
    for (crosscoder, seed), beta_path, match_path in zip(trainings, betas, matches, strict=True):
        name = {"crosscoder": crosscoder, "seed": seed}
        table = latent_table(pd.read_parquet(beta_path), pd.read_csv(match_path), scoring)
        why, measured = reason(table), statistics(table)
        for rule, called in calls(table, thresholds, scoring).items():
            scores.append(name | {"rule": rule} | missing(why, score(table, called, planted)))
        matched = [key for key in measured if key.startswith("found_") or key in ("splits", "merges")]
        found.append(name | missing(why, measured, matched))
        tables.setdefault(losses[crosscoder], {}).setdefault(seed, table)
    if all(DOES_NOT_APPLY in row for row in found):
        raise UserError(
            f"crosscoders: found none whose latents a rule can call chat-only ({why}), allowed: one or more"
        )
    write_csv(paths["scores"], table_of(scores))
    write_csv(paths["statistics"], table_of(found))
    write_csv(paths["leaderboard"], leaderboard(table_of(scores)))
    write_csv(paths["claims"], judge(tables.get("l1", {}), tables.get("batchtopk", {}), planted))


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            trainings=snakemake.params.trainings,
            losses=snakemake.params.losses,
            concepts=snakemake.input.concepts,
            betas=list(snakemake.input.betas),
            matches=list(snakemake.input.matches),
            thresholds=settings.latent_scaling,
            scoring=settings.scoring,
            paths={
                name: snakemake.output[name] for name in ("scores", "statistics", "leaderboard", "claims")
            },
        )
