"""Write the tokenizer that renders chats."""

from crossdiff.models.tokenizers import write_chat_tokenizer
from crossdiff.provenance.storage import atomic_path
from crossdiff.workflow.job import job


def main(model: str, template: str | None, folder: str) -> None:
    with atomic_path(folder) as temporary:
        write_chat_tokenizer(model, template, temporary)


if __name__ == "__main__":
    with job(snakemake):
        main(
            model=snakemake.input.model,
            template=snakemake.input.get("template") or None,
            folder=snakemake.output[0],
        )
