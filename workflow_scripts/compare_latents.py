"""Write two tables with rows per crosscoder and seed: twins, and shares of template tokens."""

import pandas as pd

from crossdiff.latents.applies import missing, reason, table_of
from crossdiff.latents.template_tokens import headlines
from crossdiff.latents.twin_counts import twin_counts
from crossdiff.provenance.storage import read_json, write_csv
from crossdiff.workflow.job import job


def main(
    trainings: list[tuple[str, int]],
    betas: list[str],
    twins: list[str],
    template_tokens: list[str],
    tokens_read: list[str],
    top: int,
    twins_table: str,
    template_table: str,
) -> None:
    twin_rows, shares = [], []
    files = zip(betas, twins, template_tokens, tokens_read, strict=True)
    for (crosscoder, seed), (beta_path, twin_path, template_path, tokens_path) in zip(
        trainings, files, strict=True
    ):
        name = {"crosscoder": crosscoder, "seed": seed}
        table = pd.read_parquet(beta_path)
        twin_rows.append(name | missing(reason(table), twin_counts(pd.read_csv(twin_path))))
        found = headlines(table, pd.read_csv(template_path), read_json(tokens_path), top)
        shares.append(pd.concat([pd.DataFrame(name, found.index), found], axis=1))
    write_csv(twins_table, table_of(twin_rows))
    write_csv(template_table, pd.concat(shares))


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            trainings=snakemake.params.trainings,
            betas=list(snakemake.input.betas),
            twins=list(snakemake.input.twins),
            template_tokens=list(snakemake.input.template_tokens),
            tokens_read=list(snakemake.input.tokens_read),
            top=settings.classes.top,
            twins_table=snakemake.output.twins,
            template_table=snakemake.output.template_tokens,
        )
