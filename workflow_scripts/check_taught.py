"""Check that an organism shows what it was taught, and a null nothing."""

import pandas as pd

from crossdiff.organisms.verdict import check_taught
from crossdiff.provenance.storage import write_json
from crossdiff.texts.organisms import read_organisms
from crossdiff.workflow.job import job


def main(table: str, texts: str, taken: str) -> None:
    found = pd.read_csv(table)
    check_taught(found, read_organisms(texts), table)
    write_json(taken, {"organism": str(found.organism[0]), "shown": found.shown_chat.tolist()})


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake.input.table, snakemake.input.texts, snakemake.output[0])
