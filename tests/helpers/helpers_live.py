"""Two tiny models, their token shards, and the caches and the summary of these."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from helpers_activations import token_shard, write_tokens
from helpers_models import tiny_model
from transformers import PreTrainedModel

from crossdiff.activations.harvest import harvest_shard
from crossdiff.activations.pairs import PairedActivations, PairedShard, summarise, write_summary
from crossdiff.config import Activations

LAYER, VOCABULARY = 1, 97
SKIP_FIRST = 1
MAX_NORM_RATIO = 1.5  # leaves out a few tokens


class LivePair(NamedTuple):
    """Two models and the shards that both read."""

    models: list[PreTrainedModel]
    folders: list[Path]  # of the models
    shards: list[Path]
    cached: PairedActivations

    @property
    def inputs(self) -> dict[str, Any]:
        """The named inputs of the rule ``train_live``."""
        base, chat = map(str, self.folders)
        summary = self.shards[0].with_name("summary.json")
        return {"tokens": list(map(str, self.shards)), "base": base, "chat": chat, "summary": str(summary)}


def live_pair(folder: Path, lengths: Sequence[Sequence[int]]) -> LivePair:
    """Make a pair whose shards have sequences of these ``lengths``."""
    models = [tiny_model("llama", VOCABULARY, seed) for seed in (0, 1)]
    folders = [folder / "base", folder / "chat"]
    for model, place in zip(models, folders, strict=True):
        model.save_pretrained(place)
    shards, paired = [], []
    for number, of_shard in enumerate(lengths):
        shard = token_shard(of_shard, first_document=100 * number)
        ids = np.random.default_rng(number).integers(1, VOCABULARY, len(shard.token))
        shard = shard._replace(token=ids.astype(np.int32))
        shards.append(write_tokens(folder / f"{number:04d}.parquet", shard))
        caches = [folder / f"{number:04d}.{model}.h5" for model in ("base", "chat")]
        for model, cache in zip(models, caches, strict=True):
            harvest_shard(model, shard, {LAYER: cache}, 64)
        paired.append(PairedShard(shards[-1], *caches))
    settings = Activations(skip_first=SKIP_FIRST, max_norm_ratio=MAX_NORM_RATIO)
    summary = summarise(paired, settings)
    write_summary(folder / "summary.json", summary)
    return LivePair(models, folders, shards, PairedActivations(paired, summary))
