"""Match the latents of one crosscoder with the planted concepts."""

import pandas as pd

from crossdiff.activations.pairs import PairedActivations
from crossdiff.config import Scoring
from crossdiff.crosscoders.model import load_crosscoder
from crossdiff.device import device
from crossdiff.planted.concepts import read_concepts
from crossdiff.planted.matching import correlations, cosines, match
from crossdiff.provenance.storage import write_csv
from crossdiff.workflow.job import job


def main(
    activations: PairedActivations,
    firings: list[str],
    table: str,
    directions: str,
    weights: str,
    config: str,
    scoring: Scoring,
    matches: str,
) -> None:
    concepts = read_concepts(table, directions)
    crosscoder = load_crosscoder(weights, config, activations.layer, activations.d_model).to(device())
    correlation = correlations(crosscoder, activations, map(pd.read_parquet, firings), len(concepts.table))
    write_csv(matches, match(correlation, cosines(crosscoder.decoder, concepts.directions).cpu(), concepts, scoring))


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            activations=PairedActivations.of(snakemake.input),
            firings=list(snakemake.input.firings),
            table=snakemake.input.table,
            directions=snakemake.input.directions,
            weights=snakemake.input.weights,
            config=snakemake.input.config,
            scoring=settings.scoring,
            matches=snakemake.output[0],
        )
