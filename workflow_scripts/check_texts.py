"""Say what was read of one split, from the place where its last shard ended."""

from crossdiff.provenance.storage import write_json
from crossdiff.texts.counts import read_so_far
from crossdiff.workflow.job import job


def main(last: str, read: str) -> None:
    write_json(read, read_so_far(last))


if __name__ == "__main__":
    with job(snakemake):
        main(last=snakemake.input[0], read=snakemake.output[0])
