"""Score every crosscoder and seed on the planted concepts, and judge the paper's claims."""

import pandas as pd

from crossdiff.config import LatentScaling, Scoring
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
        for rule, called in calls(table, thresholds, scoring).items():
            scores.append(name | {"rule": rule} | score(table, called, planted))
        found.append(name | statistics(table))
        tables.setdefault(losses[crosscoder], {}).setdefault(seed, table)
    write_csv(paths["scores"], pd.DataFrame(scores))
    write_csv(paths["statistics"], pd.DataFrame(found))
    write_csv(paths["leaderboard"], leaderboard(pd.DataFrame(scores)))
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
