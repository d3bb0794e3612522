"""Write a table of how far the trainings of each crosscoder from different seeds agree."""

from itertools import combinations
from typing import NamedTuple

import pandas as pd

from crossdiff.config import SeedAgreement
from crossdiff.crosscoders.model import load_crosscoder
from crossdiff.device import device
from crossdiff.latents.agreement import COLUMNS, seed_agreement
from crossdiff.latents.applies import table_of
from crossdiff.provenance.storage import write_csv
from crossdiff.workflow.job import job


class SeedFiles(NamedTuple):
    """A crosscoder from one seed: paths."""

    crosscoder: str
    seed: int
    weights: str
    config: str
    betas: str


def main(trainings: list[SeedFiles], top: int, settings: SeedAgreement, table: str) -> None:
    rows = []
    for pair in combinations(trainings, 2):
        if pair[0].crosscoder == pair[1].crosscoder:
            decoders = tuple(
                load_crosscoder(training.weights, training.config).decoder.to(device()) for training in pair
            )
            betas = tuple(pd.read_parquet(training.betas) for training in pair)
            names = {"crosscoder": pair[0].crosscoder, "seed_a": pair[0].seed, "seed_b": pair[1].seed}
            rows.append(names | seed_agreement(decoders, betas, top, settings))
    write_csv(table, table_of(rows, COLUMNS))


if __name__ == "__main__":
    with job(snakemake) as settings:
        files = zip(snakemake.input.weights, snakemake.input.config, snakemake.input.betas, strict=True)
        main(
            trainings=[
                SeedFiles(*name, *paths)
                for name, paths in zip(snakemake.params.trainings, files, strict=True)
            ],
            top=settings.classes.top,
            settings=settings.seed_agreement,
            table=snakemake.output[0],
        )
