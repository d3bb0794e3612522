"""Generate the chat model's answers to prompts of one data set."""

import pandas as pd

from crossdiff.config import TextSource
from crossdiff.device import fast_dtype
from crossdiff.models.answers import answered, openings
from crossdiff.models.chat_tokenizer import load_chat_tokenizer
from crossdiff.models.load import load_model
from crossdiff.models.turns import end_turns_as
from crossdiff.provenance.storage import write_parquet
from crossdiff.workflow.job import job


def main(
    model: str,
    tokenizer: str,
    source: TextSource,
    name: str,
    archive: str | None,
    context: int,
    conversations: int,
    answer_tokens: int,
    answers: str,
) -> None:
    asking = load_chat_tokenizer(tokenizer)
    asked = openings(source, name, asking, conversations, context - answer_tokens, archive)
    answering = load_model(model, fast_dtype())
    end_turns_as(answering, asking)
    shard = answered(answering, asked, answer_tokens)
    write_parquet(answers, pd.DataFrame(shard._asdict()))


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            model=snakemake.input.model,
            tokenizer=snakemake.input.tokenizer,
            source=settings.datasets[snakemake.wildcards.dataset],
            name=snakemake.wildcards.dataset,
            archive=snakemake.input.get("archive") or None,
            context=settings.tokens.context,
            conversations=settings.causal.conversations,
            answer_tokens=settings.causal.answer_tokens,
            answers=snakemake.output[0],
        )
