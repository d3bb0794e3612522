"""Read where every latent of one crosscoder fires and does not fire, and count by group of token."""

import pandas as pd
import pyarrow.parquet as pq

from crossdiff.config import Examples
from crossdiff.crosscoders.active_file import ActiveFile
from crossdiff.latents.background import BackgroundCollector
from crossdiff.latents.examples import SCHEMA, ExampleCollector
from crossdiff.latents.firings import read_firings
from crossdiff.latents.template_tokens import TemplateCounter
from crossdiff.provenance.storage import atomic_path, record_mark, write_csv, write_json
from crossdiff.texts.shards import read_shard
from crossdiff.workflow.job import job


def main(
    tokens: list[str],
    active: str,
    scaling: str,
    settings: Examples,
    examples: str,
    background: str,
    template_tokens: str,
    tokens_read: str,
) -> None:
    shards = [read_shard(path) for path in tokens]
    largest = pd.read_parquet(scaling, columns=["max_activation"]).max_activation.to_numpy()
    collector = ExampleCollector(shards, largest, settings)
    counter = TemplateCounter(shards, largest)
    random_contexts = BackgroundCollector(shards, min(ActiveFile(active).tokens, settings.tokens), settings)
    for found in read_firings(active, shards, settings.tokens):
        collector.add(found)
        counter.add(found)
        random_contexts.add(found)
    schema = SCHEMA.with_metadata(record_mark())
    with (
        atomic_path(examples) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for batch in collector.batches():
            writer.write_batch(batch)
    table = random_contexts.table()
    with atomic_path(background) as temporary:
        pq.write_table(table.replace_schema_metadata(record_mark()), temporary, compression="zstd")
    write_csv(template_tokens, counter.table())
    write_json(tokens_read, counter.tokens())


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            tokens=list(snakemake.input.tokens),
            active=snakemake.input.active,
            scaling=snakemake.input.scaling,
            settings=settings.examples,
            examples=snakemake.output.examples,
            background=snakemake.output.background,
            template_tokens=snakemake.output.template_tokens,
            tokens_read=snakemake.output.tokens_read,
        )
