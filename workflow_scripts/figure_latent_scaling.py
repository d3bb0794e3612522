"""Draw nu_error against nu_reconstruction."""

import pandas as pd

from crossdiff.config import Classes, LatentScaling
from crossdiff.latents.catalogue import current, read_names
from crossdiff.report.figures.crosscoders import latent_scaling
from crossdiff.report.figures.drawing import save
from crossdiff.workflow.job import job


def main(betas: dict[str, str], names: str | None, seed: int, classes: Classes, thresholds: LatentScaling, paths: list[str]) -> None:
    tables = {name: pd.read_parquet(path) for name, path in betas.items()}
    named = read_names(names)
    save(latent_scaling(tables, classes, thresholds, {name: current(named, name, seed) for name in tables}), paths)


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            betas=dict(zip(snakemake.params.crosscoders, snakemake.input.betas, strict=True)),
            names=snakemake.input.get("names") or None,
            seed=snakemake.params.seed,
            classes=settings.classes,
            thresholds=settings.latent_scaling,
            paths=list(snakemake.output),
        )
