"""Write the tokenizer that renders chats."""

from crossdiff.config import Tokens
from crossdiff.models.tokenizers import write_chat_tokenizer
from crossdiff.provenance.storage import atomic_path
from crossdiff.workflow.job import job


def main(model: str, template: str | None, tokens: Tokens, folder: str) -> None:
    with atomic_path(folder) as temporary:
        write_chat_tokenizer(model, template, temporary, tokens)


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            model=snakemake.input.model,
            template=snakemake.input.get("template") or None,
            tokens=settings.tokens,
            folder=snakemake.output[0],
        )
