"""Run both models over a sample of the texts once, and let them answer a few held-out prompts."""

from collections.abc import Mapping

from crossdiff.config import BASE, FirstLook
from crossdiff.device import fast_dtype
from crossdiff.first_look.sample import prompts, sample
from crossdiff.first_look.whole import first_look
from crossdiff.models.chat_tokenizer import load_chat_tokenizer
from crossdiff.models.load import load_model
from crossdiff.models.replacements import with_replacements
from crossdiff.provenance.storage import write_csv, write_json, write_parquet
from crossdiff.texts.shards import read_shard
from crossdiff.workflow.job import job


def main(
    base: str,
    chat: str,
    tokenizer: str,
    train: dict[str, str],
    held_out: dict[str, str],
    context: int,
    replacements: dict[int, int],
    settings: FirstLook,
    batch_tokens: int,
    outputs: Mapping[str, str],
) -> None:
    chats = {name: [read_shard(path)] for name, path in held_out.items()}
    asked = prompts(chats, settings.conversations, context - settings.answer_tokens)
    models = [load_model(folder, fast_dtype()) for folder in (base, chat)]
    with_replacements(models[BASE], replacements)
    found = first_look(
        *models,
        load_chat_tokenizer(tokenizer),
        sample(train, settings.tokens),
        asked,
        settings,
        batch_tokens,
    )
    write = {"csv": write_csv, "parquet": write_parquet, "json": write_json}
    for name, value in found._asdict().items():
        write[outputs[name].rsplit(".")[-1]](outputs[name], value)


if __name__ == "__main__":
    with job(snakemake) as settings:
        given = snakemake.input
        main(
            base=given.base,
            chat=given.chat,
            tokenizer=given.tokenizer,
            train=dict(zip(snakemake.params.datasets, given.tokens, strict=True)),
            held_out=dict(zip(snakemake.params.chats, given.held_out, strict=True)),
            context=settings.tokens.context,
            replacements=settings.tokens.base_replacements,
            settings=settings.first_look,
            batch_tokens=snakemake.resources.batch_tokens,
            outputs=dict(snakemake.output.items()),
        )
