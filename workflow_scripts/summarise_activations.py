"""Summarise the activations of both models over all training shards."""

from crossdiff.activations.pairs import PairedShard, summarise, write_summary
from crossdiff.config import Activations
from crossdiff.provenance.storage import read_json
from crossdiff.workflow.job import job


def main(
    tokens: list[str], base: list[str], chat: list[str], facts: str, settings: Activations, summary: str
) -> None:
    shards = [PairedShard(*paths) for paths in zip(tokens, base, chat, strict=True)]
    pair = read_json(facts)
    unknown, replaced = (
        None if pair[key] is None else {int(number) for number in pair[key]}
        for key in ("unknown_to_base", "replaced_for_base")
    )
    write_summary(summary, summarise(shards, settings, unknown, replaced))


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            tokens=snakemake.input.tokens,
            base=snakemake.input.base,
            chat=snakemake.input.chat,
            facts=snakemake.input.checked,
            settings=settings.activations,
            summary=snakemake.output[0],
        )
