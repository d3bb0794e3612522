"""Score every crosscoder and seed on the planted concepts, compare methods, and judge the paper's claims."""

import pandas as pd

from crossdiff.config import LatentScaling, Scoring
from crossdiff.errors import UserError
from crossdiff.latents.applies import DOES_NOT_APPLY, missing, reason, table_of
from crossdiff.planted import methods
from crossdiff.planted.claims import judge
from crossdiff.planted.scoring import (
    DECISIVE,
    calls,
    default_of,
    latent_table,
    leaderboard,
    score,
    statistics,
)
from crossdiff.provenance.storage import write_csv
from crossdiff.workflow.job import job


def main(
    trainings: list[tuple[str, int]],
    losses: dict[str, str],
    concepts: str,
    betas: list[str],
    matches: list[str],
    quality: str,
    seconds: dict[str, float],
    thresholds: LatentScaling,
    scoring: Scoring,
    paths: dict[str, str],
) -> None:
    truth = pd.read_csv(concepts)
    planted = int((truth.kind == "chat_only").sum())
    scores, found, by_loss, tables, called = [], [], {}, {}, {}
    for (crosscoder, seed), beta_path, match_path in zip(trainings, betas, matches, strict=True):
        name = {"crosscoder": crosscoder, "seed": seed}
        table = latent_table(pd.read_parquet(beta_path), pd.read_csv(match_path), scoring)
        why, measured, by_rule = reason(table), statistics(table), calls(table, thresholds, scoring)
        for rule, latents in by_rule.items():
            scores.append(name | {"rule": rule} | missing(why, score(table, latents, planted)))
        matched = [key for key in measured if key.startswith("found_") or key in ("splits", "merges")]
        found.append(name | missing(why, measured, matched))
        by_loss.setdefault(losses[crosscoder], {}).setdefault(seed, table)
        tables[crosscoder, seed], called[crosscoder, seed] = table, by_rule[DECISIVE]
    if all(DOES_NOT_APPLY in row for row in found):
        raise UserError(
            f"crosscoders: found none whose latents a rule can call chat-only ({why}), allowed: one or more"
        )
    default = default_of(losses)
    write_csv(paths["scores"], table_of(scores))
    write_csv(paths["statistics"], table_of(found))
    write_csv(paths["leaderboard"], leaderboard(table_of(scores), default))
    write_csv(paths["claims"], judge(by_loss.get("l1", {}), by_loss.get("batchtopk", {}), planted))
    write_csv(paths["recall"], methods.recall_table(truth, tables, called))
    write_csv(paths["methods"], methods.methods_table(losses, pd.read_csv(quality), seconds, default))


def seconds_of(trainings: list[tuple[str, int]], logs: list[str]) -> dict[str, float]:
    by_crosscoder = {}
    for (crosscoder, _), log in zip(trainings, logs, strict=True):
        by_crosscoder.setdefault(crosscoder, []).append(log)
    return {crosscoder: methods.seconds_per_step(of) for crosscoder, of in by_crosscoder.items()}


if __name__ == "__main__":
    with job(snakemake) as settings:
        trainings = snakemake.params.trainings
        main(
            trainings=trainings,
            losses=snakemake.params.losses,
            concepts=snakemake.input.concepts,
            betas=list(snakemake.input.betas),
            matches=list(snakemake.input.matches),
            quality=snakemake.input.quality,
            seconds=seconds_of(trainings, list(snakemake.input.logs)) if snakemake.params.alone else {},
            thresholds=settings.latent_scaling,
            scoring=settings.scoring,
            paths={
                name: snakemake.output[name]
                for name in ("scores", "statistics", "leaderboard", "claims", "recall", "methods")
            },
        )
