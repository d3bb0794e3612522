"""Write the headline numbers of all pairs and layers, and what pairs of one layer have in common."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import pandas as pd

from crossdiff.config import SeedAgreement
from crossdiff.latents.overlap import TrainingFiles, overlap_table, pairs_table
from crossdiff.provenance.storage import write_csv
from crossdiff.workflow.job import job


def main(
    compared: list[Mapping[str, Any]],
    numbers: list[str],
    trainings: list[TrainingFiles],
    top: int,
    settings: SeedAgreement,
    pairs: str,
    overlap: str,
) -> None:
    write_csv(pairs, pairs_table([pd.read_csv(path) for path in numbers], compared))
    write_csv(overlap, overlap_table(trainings, top, settings))


if __name__ == "__main__":
    with job(snakemake) as settings:
        given, compared = snakemake.input, snakemake.params.compared
        names = product(compared, snakemake.params.trainings)  # the order of the files
        files = zip(given.weights, given.config, given.betas, given.active, strict=True)
        main(
            compared=compared,
            numbers=list(given.numbers),
            trainings=[
                TrainingFiles(
                    one["pair"], one["layer"], one["base"], one["tokenizer"], crosscoder, seed, *paths
                )
                for (one, (crosscoder, seed)), paths in zip(names, files, strict=True)
            ],
            top=settings.classes.top,
            settings=settings.seed_agreement,
            pairs=snakemake.output.pairs,
            overlap=snakemake.output.overlap,
        )
