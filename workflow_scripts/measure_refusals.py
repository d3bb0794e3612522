"""Count refusals of held-out requests, base and chat."""

from datetime import date

from crossdiff.device import fast_dtype
from crossdiff.models.chat_tokenizer import load_chat_tokenizer
from crossdiff.models.load import load_model
from crossdiff.models.refusals import read_requests, refusal_rates, tokenizer_for_base
from crossdiff.models.replacements import with_replacements
from crossdiff.provenance.storage import write_csv
from crossdiff.workflow.job import job


def main(
    folders: dict[str, str],
    tokenizer: str,
    day: date,
    replacements: dict[int, int],
    requests: str,
    phrasings: int,
    answer_tokens: int,
    table: str,
) -> None:
    requests_file, pairs = read_requests(requests), load_chat_tokenizer(tokenizer)
    models = (
        (
            name,
            with_replacements(load_model(folder, fast_dtype()), replacements if name == "base" else {}),
            tokenizer_for_base(folder, pairs, day) if name == "base" else pairs,
        )
        for name, folder in folders.items()
    )
    write_csv(table, refusal_rates(models, requests_file, phrasings, answer_tokens))


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            folders={"base": snakemake.input.base, "chat": snakemake.input.chat},
            tokenizer=snakemake.input.tokenizer,
            day=date.fromisoformat(settings.tokens.date),
            replacements=settings.tokens.base_replacements,
            requests=snakemake.input.requests,
            phrasings=settings.behaviour.phrasings,
            answer_tokens=settings.behaviour.answer_tokens,
            table=snakemake.output[0],
        )
