"""Judge by the rule what every method handed in for one organism."""

import json
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from crossdiff.crosscoders.model import load_crosscoder
from crossdiff.device import device, fast_dtype
from crossdiff.models.chat_tokenizer import load_chat_tokenizer
from crossdiff.models.load import load_model
from crossdiff.models.logit_lens import TOKENS, promoted_tokens
from crossdiff.models.replacements import with_replacements
from crossdiff.organisms.items import live
from crossdiff.organisms.reading import activations_at, read_probes
from crossdiff.organisms.rule import DIRECTION, LATENT, ranked, taught_tokens
from crossdiff.organisms.scoring import Population, score_items
from crossdiff.provenance.storage import write_csv
from crossdiff.texts.organisms import read_organisms
from crossdiff.texts.shards import read_shard
from crossdiff.workflow.job import job

NO_TOKENS = np.full(TOKENS, -1)  # of a latent that the chat model does not have


class TrainingFiles(NamedTuple):
    """A crosscoder from one seed."""

    weights: str
    config: str
    betas: str
    directions: str


def main(
    organism: str,
    texts: str,
    tokenizer: str,
    folders: list[str],
    replacements: dict[int, int],
    layer: int,
    trainings: dict[tuple[str, int], TrainingFiles],
    items: str,
    directions: str,
    shards: list[str],
    tables: tuple[str, str],
) -> None:
    organisms, words = read_organisms(texts), load_chat_tokenizer(tokenizer)
    read = read_probes(organisms, words)
    base = with_replacements(load_model(folders[0], fast_dtype()), replacements)
    of_base = activations_at(base, layer, read)
    del base  # before the next one is loaded
    chat = load_model(folders[1], fast_dtype())
    x = torch.stack([of_base, activations_at(chat, layer, read)], dim=1)
    found = load_file(directions)
    every = torch.cat([found["handed"], found["random"]])
    ids = np.concatenate([np.arange(len(found["handed"])), -1 - np.arange(len(found["random"]))])
    promoted = np.stack(promoted_tokens(chat, every).promoted)
    populations = {
        (DIRECTION, "", 0): Population(ids, ranked((x[:, 1] @ every.T).numpy()), promoted),
    }
    for name, files in trainings.items():
        crosscoder = load_crosscoder(files.weights, files.config).to(device())
        latents = live(pd.read_parquet(files.betas))
        with torch.no_grad():
            codes = crosscoder.encode(crosscoder.normalise(x.to(device()))).cpu().numpy()[:, latents]
        table = pd.read_parquet(files.directions, columns=["latent", "promoted"]).set_index("latent")
        promotes = [NO_TOKENS if ids is None else ids for ids in table.promoted[latents]]
        tokens = np.stack(promotes) if len(latents) else np.zeros((0, 1), int)
        populations[LATENT, *name] = Population(latents, ranked(codes), tokens)
    asked = [organism] if organism in organisms.behaviours else list(organisms.behaviours)
    text = np.concatenate([read_shard(path).token for path in shards])
    known = np.union1d(read.tokens, text)
    taught = {name: taught_tokens(read.tokens, read.places, name, text) for name in asked}
    methods, judged = score_items(pd.read_parquet(items), populations, read.places, taught, len(words), known)
    judged["promoted"] = [_as_json(words, ids) for ids in judged.promoted]
    for path, table in zip(tables, (methods, judged), strict=True):
        table.insert(0, "organism", organism)
        write_csv(path, table)


def _as_json(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    found = tokenizer.batch_decode([[token] for token in ids if token >= 0])
    return json.dumps(found, ensure_ascii=False)


if __name__ == "__main__":
    with job(snakemake) as settings:
        given = snakemake.input
        files = zip(given.weights, given.config, given.betas, given.promoted, strict=True)
        main(
            organism=snakemake.wildcards.pair,
            texts=given.texts,
            tokenizer=given.tokenizer,
            folders=[given.base, given.chat],
            replacements=settings.tokens.base_replacements,
            layer=settings.pair.layer,
            trainings={
                tuple(name): TrainingFiles(*paths)
                for name, paths in zip(snakemake.params.trainings, files, strict=True)
            },
            items=given.handed,
            directions=given.directions,
            shards=list(given.tokens),
            tables=(snakemake.output.methods, snakemake.output.judged),
        )
