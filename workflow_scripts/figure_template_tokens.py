"""Draw how much of the latents' activity falls on template tokens."""

import pandas as pd

from crossdiff.provenance.storage import read_json
from crossdiff.report.figures.crosscoders import template_tokens
from crossdiff.report.figures.drawing import save
from crossdiff.workflow.job import job


def main(betas: dict[str, str], tables: dict[str, str], tokens_read: dict[str, str], top: int, paths: list[str]) -> None:
    figure = template_tokens(
        {name: pd.read_parquet(path) for name, path in betas.items()},
        {name: pd.read_csv(path) for name, path in tables.items()},
        {name: read_json(path) for name, path in tokens_read.items()},
        top,
    )
    save(figure, paths)


if __name__ == "__main__":
    with job(snakemake) as settings:
        names = snakemake.params.crosscoders
        main(
            betas=dict(zip(names, snakemake.input.betas, strict=True)),
            tables=dict(zip(names, snakemake.input.template_tokens, strict=True)),
            tokens_read=dict(zip(names, snakemake.input.tokens_read, strict=True)),
            top=settings.classes.top,
            paths=list(snakemake.output),
        )
