"""Draw how many latents are confirmed as the threshold on both ratios grows."""

import pandas as pd

from crossdiff.report.figures.crosscoders import threshold_sweep
from crossdiff.report.figures.drawing import save
from crossdiff.workflow.job import job


def main(betas: dict[str, str], top: int, paths: list[str]) -> None:
    save(threshold_sweep({name: pd.read_parquet(path) for name, path in betas.items()}, top), paths)


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            betas=dict(zip(snakemake.params.crosscoders, snakemake.input, strict=True)),
            top=settings.classes.top,
            paths=list(snakemake.output),
        )
