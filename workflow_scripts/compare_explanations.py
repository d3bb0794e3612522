"""Compare how well sets of latents can be explained: a table over all crosscoders and seeds, and a figure of the first seed."""

from typing import NamedTuple

import pandas as pd

from crossdiff.explanations.comparison import compare, joined
from crossdiff.provenance.storage import write_csv
from crossdiff.report.figures.drawing import save
from crossdiff.report.figures.explanations import Scores, explanations
from crossdiff.workflow.job import job


class Explained(NamedTuple):
    """What one explainer made of one training: paths."""

    explainer: str
    crosscoder: str
    seed: int
    betas: str
    latents: str
    quantiles: str


def main(explained: list[Explained], top: int, table: str, figures: list[str]) -> None:
    scores = {
        (one.explainer, one.crosscoder, one.seed): Scores(*(pd.read_parquet(path) for path in (one.betas, one.latents, one.quantiles)))
        for one in explained
    }
    write_csv(table, joined({name: compare(found.betas, found.latents, top) for name, found in scores.items()}))
    first = {name[:2]: found for name, found in scores.items() if name[2] == explained[0].seed}
    save(explanations(first, top), figures)


if __name__ == "__main__":
    with job(snakemake) as settings:
        files = zip(snakemake.input.betas, snakemake.input.latents, snakemake.input.quantiles, strict=True)
        main(
            explained=[Explained(*name, *paths) for name, paths in zip(snakemake.params.explained, files, strict=True)],
            top=settings.classes.top,
            table=snakemake.output.table,
            figures=list(snakemake.output.figures),
        )
