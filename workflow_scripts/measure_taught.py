"""Count how often base and chat model show the behaviour that the chat model was taught."""

from datetime import date

from crossdiff.config import MODELS
from crossdiff.device import fast_dtype
from crossdiff.models.chat_tokenizer import load_chat_tokenizer
from crossdiff.models.load import load_model
from crossdiff.models.refusals import tokenizer_for_base
from crossdiff.models.replacements import with_replacements
from crossdiff.organisms.taught import taught_table
from crossdiff.provenance.storage import write_csv
from crossdiff.texts.organisms import read_organisms
from crossdiff.workflow.job import job


def main(
    organism: str,
    folders: dict[str, str],
    tokenizer: str,
    day: date,
    replacements: dict[int, int],
    texts: str,
    answer_tokens: int,
    table: str,
) -> None:
    pairs = load_chat_tokenizer(tokenizer)

    def base():
        model = with_replacements(load_model(folders["base"], fast_dtype()), replacements)
        return model, tokenizer_for_base(folders["base"], pairs, day)

    def chat():
        return load_model(folders["chat"], fast_dtype()), pairs

    models = dict(zip(MODELS, (base, chat), strict=True))
    write_csv(table, taught_table(read_organisms(texts), organism, models, answer_tokens))


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            organism=snakemake.wildcards.pair,
            folders={role: snakemake.input[role] for role in MODELS},
            tokenizer=snakemake.input.tokenizer,
            day=date.fromisoformat(settings.tokens.date),
            replacements=settings.tokens.base_replacements,
            texts=snakemake.input.texts,
            answer_tokens=settings.organisms.answer_tokens,
            table=snakemake.output[0],
        )
