"""Check that base and chat model, tokenizer and layer fit together."""

from crossdiff.models.pair import check_pair
from crossdiff.provenance.storage import write_json
from crossdiff.workflow.job import job


def main(base: str, chat: str, tokenizer: str, layer: int, facts: str) -> None:
    write_json(facts, check_pair(base, chat, tokenizer, layer))


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            base=snakemake.input.base,
            chat=snakemake.input.chat,
            tokenizer=snakemake.input.tokenizer,
            layer=settings.pair.layer,
            facts=snakemake.output[0],
        )
