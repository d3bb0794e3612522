"""Count refusals of held-out requests, base and chat."""

from crossdiff.device import fast_dtype
from crossdiff.job import job
from crossdiff.models.load import load_model, load_tokenizer
from crossdiff.models.refusals import read_requests, refusal_rates
from crossdiff.storage import write_csv


def main(folders: dict[str, str], requests: str, phrasings: int, answer_tokens: int, table: str) -> None:
    record = read_requests(requests)
    models = ((name, load_model(folder, fast_dtype()), load_tokenizer(folder)) for name, folder in folders.items())
    write_csv(table, refusal_rates(models, record, phrasings, answer_tokens))


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            folders={"base": snakemake.input.base, "chat": snakemake.input.chat},
            requests=snakemake.input.requests,
            phrasings=settings["behaviour.phrasings"],
            answer_tokens=settings["behaviour.answer_tokens"],
            table=snakemake.output[0],
        )
