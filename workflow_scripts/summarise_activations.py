"""Summarise the activations of both models over all training shards."""

from crossdiff.activations.pairs import PairedShard, summarise, write_summary
from crossdiff.config import Activations
from crossdiff.workflow.job import job


def main(tokens: list[str], base: list[str], chat: list[str], settings: Activations, summary: str) -> None:
    found = summarise([PairedShard(*paths) for paths in zip(tokens, base, chat, strict=True)], settings)
    write_summary(summary, found)


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            tokens=snakemake.input.tokens,
            base=snakemake.input.base,
            chat=snakemake.input.chat,
            settings=settings.activations,
            summary=snakemake.output[0],
        )
