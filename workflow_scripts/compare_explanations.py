"""Compare how well sets of latents can be explained: a table over all explainers, crosscoders and seeds."""

import pandas as pd

from crossdiff.explanations.comparison import compare, stacked
from crossdiff.provenance.storage import write_csv
from crossdiff.workflow.job import job

Name = tuple[str, str, int]  # explainer, crosscoder, seed


def main(betas: dict[Name, str], latents: dict[Name, str], top: int, table: str) -> None:
    write_csv(
        table,
        stacked(
            {
                name: compare(pd.read_parquet(betas[name]), pd.read_parquet(path), top)
                for name, path in latents.items()
            }
        ),
    )


if __name__ == "__main__":
    with job(snakemake) as settings:
        names = [tuple(name) for name in snakemake.params.explained]
        main(
            betas=dict(zip(names, snakemake.input.betas, strict=True)),
            latents=dict(zip(names, snakemake.input.latents, strict=True)),
            top=settings.classes.top,
            table=snakemake.output[0],
        )
