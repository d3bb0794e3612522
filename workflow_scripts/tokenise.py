"""Write one token shard."""

from crossdiff.config import TextSource
from crossdiff.job import job
from crossdiff.models.load import load_tokenizer
from crossdiff.texts.shards import tokenise_shard
from crossdiff.workflow import section

if __name__ == "__main__":
    with job(snakemake) as settings:
        tokenise_shard(
            source=TextSource(**section(settings, "datasets", snakemake.wildcards.dataset)),
            name=snakemake.wildcards.dataset,
            split=snakemake.wildcards.split,
            tokenizer=load_tokenizer(snakemake.input.tokenizer),
            context=settings["tokens.context"],
            tokens=snakemake.params.tokens,
            path=snakemake.output[0],
            archive=snakemake.input.get("archive") or None,
            previous=snakemake.input.get("previous") or None,
        )
