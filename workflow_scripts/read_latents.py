"""Read what every latent of one crosscoder fires on: contexts, where it does not fire, and counts by group of token, in one pass."""

import pandas as pd
import pyarrow.parquet as pq

from crossdiff.activations.pairs import PairedActivations
from crossdiff.config import Examples
from crossdiff.crosscoders.model import load_crosscoder
from crossdiff.device import device
from crossdiff.latents.background import BackgroundCollector
from crossdiff.latents.examples import SCHEMA, ExampleCollector
from crossdiff.latents.firings import read_firings
from crossdiff.latents.template_tokens import TemplateCounter
from crossdiff.provenance.storage import atomic_path, record_mark, write_csv, write_json
from crossdiff.workflow.job import job


def main(
    activations: PairedActivations,
    weights: str,
    config: str,
    scaling: str,
    settings: Examples,
    examples: str,
    background: str,
    template_tokens: str,
    tokens_read: str,
) -> None:
    crosscoder = load_crosscoder(weights, config, activations.layer, activations.d_model).to(device())
    largest = pd.read_parquet(scaling, columns=["max_activation"]).max_activation.to_numpy()
    collector = ExampleCollector(activations.shards, largest, settings)
    counter = TemplateCounter(activations.shards, largest)
    random_contexts = BackgroundCollector(activations.shards, min(activations.tokens, settings.tokens), settings)
    for found in read_firings(crosscoder, activations, settings.tokens):
        collector.add(found)
        counter.add(found)
        random_contexts.add(found)
    schema = SCHEMA.with_metadata(record_mark())
    with atomic_path(examples) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
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
            activations=PairedActivations.of(snakemake.input),
            weights=snakemake.input.weights,
            config=snakemake.input.config,
            scaling=snakemake.input.scaling,
            settings=settings.examples,
            examples=snakemake.output.examples,
            background=snakemake.output.background,
            template_tokens=snakemake.output.template_tokens,
            tokens_read=snakemake.output.tokens_read,
        )
