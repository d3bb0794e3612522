"""Write the paper's headline values next to those of the run."""

from pathlib import Path

import pandas as pd
import yaml

from crossdiff.provenance.storage import read_json, write_csv
from crossdiff.report.paper import comparison, is_papers_run, quantities
from crossdiff.workflow.job import job


def main(
    published: str,
    pair: dict[str, str | None],
    layer: int,
    losses: dict[str, str],
    evaluations: dict[str, str],
    twins: str,
    template_tokens: str,
    kl: dict[str, str],
    table: str,
) -> None:
    values = yaml.safe_load(Path(published).read_text(encoding="utf-8"))
    twin_rows, template_rows = pd.read_csv(twins), pd.read_csv(template_tokens)
    runs = {}
    for name, path in evaluations.items():
        # The first row belongs to the first seed, as all other values do.
        twin_row = twin_rows[twin_rows.crosscoder == name].iloc[0]
        shares = template_rows[(template_rows.crosscoder == name) & (template_rows.seed == twin_row.seed)]
        runs[name] = quantities(read_json(path), twin_row, shares, pd.read_csv(kl[name]) if kl else None)
    write_csv(
        table,
        comparison(
            runs, losses, values if is_papers_run(values, pair["base"], pair["chat"], layer) else None
        ),
    )


if __name__ == "__main__":
    with job(snakemake) as settings:
        names = list(snakemake.params.losses)
        main(
            published=snakemake.input.published,
            pair=snakemake.params.pair,
            layer=settings.pair.layer,
            losses=snakemake.params.losses,
            evaluations=dict(zip(names, snakemake.input.evaluations, strict=True)),
            twins=snakemake.input.twins,
            template_tokens=snakemake.input.template_tokens,
            kl=dict(zip(names, snakemake.input.kl, strict=True)) if snakemake.input.kl else {},
            table=snakemake.output[0],
        )
