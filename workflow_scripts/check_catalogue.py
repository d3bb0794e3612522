"""Check every name of the catalogue against the weights that it was given to."""

import pandas as pd

from crossdiff.latents.catalogue import COLUMNS, check, weights_digest
from crossdiff.provenance.storage import read_json, write_csv
from crossdiff.workflow.job import job


def main(
    catalogue: str, weights: dict[tuple[str, int], str], configs: dict[tuple[str, int], str], table: str
) -> None:
    digests = {training: weights_digest(path) for training, path in weights.items()}
    latents = {training: read_json(path)["latents"] for training, path in configs.items()}
    write_csv(table, pd.DataFrame(check(catalogue, digests, latents), columns=list(COLUMNS)))


if __name__ == "__main__":
    with job(snakemake):
        trainings = [tuple(name) for name in snakemake.params.trainings]
        main(
            catalogue=snakemake.input.catalogue,
            weights=dict(zip(trainings, snakemake.input.weights, strict=True)),
            configs=dict(zip(trainings, snakemake.input.config, strict=True)),
            table=snakemake.output[0],
        )
