"""Match the latents of one crosscoder with the planted concepts."""

import pandas as pd

from crossdiff.config import Scoring
from crossdiff.crosscoders.model import DIFFERENCE, load_crosscoder
from crossdiff.planted.concepts import read_concepts
from crossdiff.planted.matching import correlations, cosines, match, of_difference
from crossdiff.provenance.storage import write_csv
from crossdiff.workflow.job import job


def main(
    active: str,
    firings: list[str],
    table: str,
    directions: str,
    weights: str,
    config: str,
    scoring: Scoring,
    matches: str,
) -> None:
    concepts = read_concepts(table, directions)
    crosscoder = load_crosscoder(weights, config)
    correlation = correlations(active, crosscoder.latents, map(pd.read_parquet, firings), len(concepts.table))
    is_difference = crosscoder.target == DIFFERENCE
    sought = of_difference(concepts) if is_difference else concepts.directions
    write_csv(matches, match(correlation, cosines(crosscoder.decoder, sought), concepts, scoring))


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            active=snakemake.input.active,
            firings=list(snakemake.input.firings),
            table=snakemake.input.table,
            directions=snakemake.input.directions,
            weights=snakemake.input.weights,
            config=snakemake.input.config,
            scoring=settings.scoring,
            matches=snakemake.output[0],
        )
