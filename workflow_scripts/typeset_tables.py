"""Write tables as LaTeX."""

from crossdiff.report.latex import table, write
from crossdiff.workflow.job import job


def main(tables: list[str], typeset: list[str]) -> None:
    for source, target in zip(tables, typeset, strict=True):
        write(target, table(source))


if __name__ == "__main__":
    with job(snakemake):
        main(list(snakemake.input), list(snakemake.output))
