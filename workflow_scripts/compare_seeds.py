"""Write tables of how far the trainings of each crosscoder agree, and how stable their latents are."""

from itertools import combinations
from typing import NamedTuple

import pandas as pd
from torch import Tensor

from crossdiff.config import SeedAgreement
from crossdiff.crosscoders.model import load_crosscoder
from crossdiff.device import device
from crossdiff.latents.agreement import COLUMNS, seed_agreement
from crossdiff.latents.applies import reason, table_of
from crossdiff.latents.stability import COLUMNS as STABILITY
from crossdiff.latents.stability import live, stability
from crossdiff.provenance.storage import write_csv
from crossdiff.workflow.job import job


class SeedFiles(NamedTuple):
    """A crosscoder from one seed: paths."""

    crosscoder: str
    seed: int
    weights: str
    config: str
    betas: str

    def decoder(self) -> Tensor:
        return load_crosscoder(self.weights, self.config).decoder.to(device())


def main(trainings: list[SeedFiles], top: int, settings: SeedAgreement, agreement: str, stable: str) -> None:
    rows = []
    for pair in combinations(trainings, 2):
        if pair[0].crosscoder == pair[1].crosscoder:
            decoders = tuple(training.decoder() for training in pair)
            betas = tuple(pd.read_parquet(training.betas) for training in pair)
            names = {"crosscoder": pair[0].crosscoder, "seed_a": pair[0].seed, "seed_b": pair[1].seed}
            rows.append(names | seed_agreement(decoders, betas, top, settings))
    write_csv(agreement, table_of(rows, COLUMNS))
    rows = []
    for crosscoder in dict.fromkeys(training.crosscoder for training in trainings):
        of = [training for training in trainings if training.crosscoder == crosscoder]
        if len(of) > 1:
            betas = [pd.read_parquet(training.betas) for training in of]
            found = [live(training.decoder(), table, top) for training, table in zip(of, betas, strict=True)]
            rows += [{"crosscoder": crosscoder} | row for row in stability(found, reason(betas[0]), settings)]
    write_csv(stable, table_of(rows, STABILITY))


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
            agreement=snakemake.output.agreement,
            stable=snakemake.output.stability,
        )
