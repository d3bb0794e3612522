"""Write two tables with rows per crosscoder and seed: twins, and shares of template tokens."""

import pandas as pd

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
    twin_rows, template_rows = [], []
    files = zip(betas, twins, template_tokens, tokens_read, strict=True)
    for (crosscoder, seed), (beta_path, twin_path, template_path, tokens_path) in zip(
        trainings, files, strict=True
    ):
        name = {"crosscoder": crosscoder, "seed": seed}
        twin_rows.append(name | twin_counts(pd.read_csv(twin_path)))
        shares = headlines(
            pd.read_parquet(beta_path), pd.read_csv(template_path), read_json(tokens_path), top
        )
        template_rows += [name | row for row in shares.to_dict("records")]
    write_csv(twins_table, pd.DataFrame(twin_rows))
    write_csv(template_table, pd.DataFrame(template_rows))


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
