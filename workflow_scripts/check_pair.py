"""Check that base and chat model fit together."""

from crossdiff.models.pair import check_pair
from crossdiff.provenance.storage import read_json, write_json
from crossdiff.workflow.job import job


def main(base: str, chat: str, least_width: int, facts: str) -> None:
    write_json(facts, check_pair(read_json(base), read_json(chat), least_width))


if __name__ == "__main__":
    with job(snakemake):
        main(
            base=snakemake.input.base,
            chat=snakemake.input.chat,
            least_width=snakemake.resources.least_width,
            facts=snakemake.output[0],
        )
