"""Draw the figures of planted concepts."""

import pandas as pd

from crossdiff.config import Classes, LatentScaling, Scoring
from crossdiff.planted.scoring import latent_table
from crossdiff.report.figures import planted as figures_planted
from crossdiff.report.figures.drawing import save
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
    paths: dict[str, list[str]],
) -> None:
    planted = int((pd.read_csv(concepts).kind == "chat_only").sum())
    tables = {
        tuple(training): latent_table(pd.read_parquet(beta_path), pd.read_csv(match_path), scoring)
        for training, beta_path, match_path in zip(trainings, betas, matches, strict=True)
    }
    save(figures_planted.calls(pd.read_csv(scores), planted), paths["calls"])
    save(figures_planted.false_members_against_recall(tables, planted), paths["recall"])
    save(figures_planted.roc(tables), paths["roc"])
    save(figures_planted.ratios(tables, scoring), paths["ratios"])
    save(figures_planted.agreement(tables, classes, thresholds), paths["agreement"])


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
            paths={name: list(snakemake.output[name]) for name in ("calls", "recall", "roc", "ratios", "agreement")},
        )
