"""Write one table with a row per crosscoder and seed."""

from crossdiff.latents.evaluation import comparison
from crossdiff.provenance.storage import read_json, write_csv
from crossdiff.workflow.job import job


def main(evaluations: list[str], trainings: list[tuple[str, int]], table: str) -> None:
    write_csv(table, comparison([read_json(path) for path in evaluations], trainings))


if __name__ == "__main__":
    with job(snakemake):
        main(
            evaluations=list(snakemake.input), trainings=snakemake.params.trainings, table=snakemake.output[0]
        )
