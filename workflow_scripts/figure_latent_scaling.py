"""Draw nu_error against nu_reconstruction."""

import pandas as pd

from crossdiff.config import Classes, LatentScaling
from crossdiff.figures import latent_scaling, save
from crossdiff.job import job
from crossdiff.workflow import section


def main(betas: dict[str, str], classes: Classes, thresholds: LatentScaling, paths: list[str]) -> None:
    save(latent_scaling({name: pd.read_parquet(path) for name, path in betas.items()}, classes, thresholds), paths)


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            betas=dict(zip(snakemake.params.names, snakemake.input, strict=True)),
            classes=Classes(**section(settings, "classes")),
            thresholds=LatentScaling(**section(settings, "latent_scaling")),
            paths=list(snakemake.output),
        )
