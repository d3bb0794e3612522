"""Write one token shard."""

from crossdiff.config import TextSource
from crossdiff.models.chat_tokenizer import load_chat_tokenizer
from crossdiff.texts.tokenising import tokenise_shard
from crossdiff.workflow.job import job


def main(
    source: TextSource,
    name: str,
    split: str,
    tokenizer: str,
    context: int,
    tokens: int,
    archive: str | None,
    previous: str | None,
    shard: str,
    following: str,
    unusable: float,
) -> None:
    loaded = load_chat_tokenizer(tokenizer)
    tokenise_shard(
        source, name, split, loaded, context, tokens, shard, following, archive, previous, unusable
    )


if __name__ == "__main__":
    with job(snakemake) as settings:
        source = settings.datasets[snakemake.wildcards.dataset]
        main(
            source=source
            if source.files is None
            else source.model_copy(update={"files": [*snakemake.input.files]}),
            name=snakemake.wildcards.dataset,
            split=snakemake.wildcards.split,
            tokenizer=snakemake.input.tokenizer,
            context=settings.tokens.context,
            tokens=snakemake.params.tokens,
            archive=snakemake.input.get("archive") or None,
            previous=snakemake.input.get("previous") or None,
            shard=snakemake.output.shard,
            following=snakemake.output.next,
            unusable=snakemake.resources.unusable_per_million / 1e6,
        )
