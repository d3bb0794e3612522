"""Draw how many latents are confirmed as the threshold on both ratios grows."""

import pandas as pd

from crossdiff.config import Classes
from crossdiff.report.figures.crosscoders import threshold_sweep
from crossdiff.report.figures.drawing import save
from crossdiff.workflow.job import job
from crossdiff.workflow.run import section


def main(betas: dict[str, str], classes: Classes, paths: list[str]) -> None:
    save(threshold_sweep({name: pd.read_parquet(path) for name, path in betas.items()}, classes), paths)


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            betas=dict(zip(snakemake.params.names, snakemake.input, strict=True)),
            classes=Classes(**section(settings, "classes")),
            paths=list(snakemake.output),
        )
