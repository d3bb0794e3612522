"""Draw the figures of planted concepts."""

from collections.abc import Sequence

import pandas as pd

from crossdiff.config import Classes, LatentScaling, Scoring
from crossdiff.latents.applies import reason
from crossdiff.planted.scoring import latent_table
from crossdiff.report.figures import planted as figures_planted
from crossdiff.report.figures.drawing import write
from crossdiff.workflow.job import job


def main(
    trainings: list[tuple[str, int]],
    concepts: str,
    scores: str,
    betas: list[str],
    matches: list[str],
    classes: Classes,
    thresholds: LatentScaling,
    scoring: Scoring,
    paths: dict[str, tuple[list[str], str]],
) -> None:
    planted = int((pd.read_csv(concepts).kind == "chat_only").sum())
    tables = {
        tuple(training): latent_table(pd.read_parquet(beta_path), pd.read_csv(match_path), scoring)
        for training, beta_path, match_path in zip(trainings, betas, matches, strict=True)
    }
    # Rules can't score a crosscoder without a base decoder; the leaderboard says so.
    tables = {training: table for training, table in tables.items() if not reason(table)}
    found = pd.read_csv(scores)
    found = found[found.crosscoder.isin({crosscoder for crosscoder, _ in tables})]
    write(figures_planted.calls, *paths["calls"], found, planted)
    write(figures_planted.false_members_against_recall, *paths["recall"], tables, planted)
    write(figures_planted.roc, *paths["roc"], tables)
    write(figures_planted.ratios, *paths["ratios"], tables, scoring)
    write(figures_planted.agreement, *paths["agreement"], tables, classes, thresholds)


def drawing_and_caption(paths: Sequence[str]) -> tuple[list[str], str]:
    *drawing, caption = paths
    return drawing, caption


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            trainings=snakemake.params.trainings,
            concepts=snakemake.input.concepts,
            scores=snakemake.input.scores,
            betas=list(snakemake.input.betas),
            matches=list(snakemake.input.matches),
            classes=settings.classes,
            thresholds=settings.latent_scaling,
            scoring=settings.scoring,
            paths={
                name: drawing_and_caption(snakemake.output[name])
                for name in ("calls", "recall", "roc", "ratios", "agreement")
            },
        )
