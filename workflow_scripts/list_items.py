"""List the strongest items of every method for one organism."""

import pandas as pd
import torch
from safetensors.torch import save_file

from crossdiff.activations.pairs import PairedShard, read_summary
from crossdiff.config import LatentScaling
from crossdiff.device import fast_dtype
from crossdiff.first_look.sample import sample
from crossdiff.first_look.topics import mined
from crossdiff.models.load import load_model
from crossdiff.models.replacements import with_replacements
from crossdiff.models.weight_differences import written_directions
from crossdiff.organisms.items import (
    ANSWERS,
    FIRST,
    MINED_TOKENS,
    MINING,
    RANDOM_DIRECTIONS,
    WEIGHTS,
    Handed,
    in_turns,
    mean_differences,
    of_crosscoder,
    of_directions,
    random_directions,
    table_of_items,
)
from crossdiff.organisms.rule import ITEMS, RANDOM_REFERENCE
from crossdiff.provenance.storage import atomic_path, record_mark, write_parquet
from crossdiff.workflow.job import job


def main(
    models: list[str],
    replacements: dict[int, int],
    layer: int,
    first_shards: dict[str, str],
    batch_tokens: int,
    shards: list[tuple[str, str, str]],
    summary: str,
    trainings: dict[tuple[str, int], str],
    thresholds: LatentScaling,
    items: str,
    directions: str,
) -> None:
    read, pairs = read_summary(summary), [PairedShard(*paths) for paths in shards]
    base, chat = (load_model(folder, fast_dtype()) for folder in models)
    with_replacements(base, replacements)
    first, answers = mean_differences(pairs, read)
    weights = in_turns(*written_directions(base, chat, layer))
    random = random_directions(pairs, read, ITEMS + RANDOM_REFERENCE, seed=0)
    directions_of = {FIRST: first, ANSWERS: answers, WEIGHTS: weights, RANDOM_DIRECTIONS: random[:ITEMS]}
    without = of_directions(directions_of)
    handed = {
        (method, crosscoder, seed): found
        for (crosscoder, seed), path in trainings.items()
        for method, found in of_crosscoder(pd.read_parquet(path), thresholds, seed, without[WEIGHTS]).items()
    }
    handed |= {(method, "", 0): found for method, found in without.items()}
    tokens = mined(base, chat, sample(first_shards, MINED_TOKENS).shard, batch_tokens)
    handed[MINING, "", 0] = Handed.of_tokens(tokens)
    write_parquet(items, table_of_items(handed))
    with atomic_path(directions) as temporary:
        stacked = {"handed": torch.cat(list(directions_of.values())), "random": random[ITEMS:]}
        save_file({name: part.contiguous() for name, part in stacked.items()}, temporary, record_mark())


if __name__ == "__main__":
    with job(snakemake) as settings:
        given = snakemake.input
        main(
            models=[given.base_model, given.chat_model],
            replacements=settings.tokens.base_replacements,
            layer=settings.pair.layer,
            first_shards=dict(zip(snakemake.params.datasets, given.first_tokens, strict=True)),
            batch_tokens=snakemake.resources.batch_tokens,
            shards=list(zip(given.tokens, given.base, given.chat, strict=True)),
            summary=given.summary,
            trainings=dict(zip(map(tuple, snakemake.params.trainings), given.betas, strict=True)),
            thresholds=settings.latent_scaling,
            items=snakemake.output.handed,
            directions=snakemake.output.directions,
        )
