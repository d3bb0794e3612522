"""Small token shards, caches and crosscoders that several tests share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from crossdiff.activations.cache import write_cache
from crossdiff.activations.pairs import PairedActivations, PairedShard, Summary, summarise, write_summary
from crossdiff.config import Activations, BatchTopKSettings, L1Settings
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.texts.chats import CONTENT
from crossdiff.texts.formats import ROLES
from crossdiff.texts.shards import Shard

LAYER = 3


def token_shard(lengths: Sequence[int], first_document: int = 0) -> Shard:
    """Make a shard of sequences of these lengths, one per document.

    Tokens are 1, 2, 3, ..., and every third one is a template token.
    """
    rows = sum(lengths)
    return Shard(
        token=np.arange(1, rows + 1, dtype=np.int32),
        document=np.repeat(np.arange(len(lengths), dtype=np.int64) + first_document, lengths),
        position=np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
        role=np.zeros(rows, np.int8),
        template=(np.arange(rows) % 3 == 0).astype(np.int8),
    )


def chats(vocabulary: int, tokens: int = 120, length: int = 12) -> Shard:
    """Make conversations of random tokens in which the second half is the answer."""
    position = np.arange(tokens, dtype=np.int32) % length
    role = np.where(position < length // 2, ROLES.index("user"), ROLES.index("assistant")).astype(np.int8)
    ids = np.random.default_rng(0).integers(vocabulary, size=tokens).astype(np.int32)
    return Shard(ids, np.cumsum(position == 0) - 1, position, role, np.full(tokens, CONTENT, np.int8))


def write_tokens(path: Path, shard: Shard) -> Path:
    pq.write_table(pa.table(shard._asdict()), path)
    return path


def write_pair(
    folder: Path, name: str, activations: Tensor, lengths: Sequence[int] | None = None
) -> PairedShard:
    """Write a shard with caches of ``activations`` (tokens, model, d_model).

    It is one long sequence if no lengths are given.
    """
    shard = token_shard(lengths or [len(activations)])
    paths = [write_tokens(folder / f"{name}.parquet", shard)]
    for model, part in zip(("base", "chat"), activations.to(torch.bfloat16).unbind(1), strict=True):
        paths.append(folder / f"{name}.{model}.h5")
        write_cache(paths[-1], part, LAYER, shard.token)
    return PairedShard(*paths)


def everything(shards: Sequence[PairedShard]) -> Summary:
    """A summary that keeps every token."""
    return summarise(shards, Activations())


def random_activations(rows: int, d_model: int, seed: int = 0) -> Tensor:
    """(rows, model, d_model), exact in bfloat16."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 2, d_model, generator=generator).to(torch.bfloat16)


def planted_activations(rows: int, d_model: int, concepts: int = 24, seed: int = 0) -> Tensor:
    """Sparse sums of fixed directions, a few per token, which a crosscoder can learn.

    The last quarter of the directions exists in the chat model only.
    """
    generator = torch.Generator().manual_seed(1234)
    directions = torch.randn(concepts, d_model, generator=generator) / d_model**0.5
    generator.manual_seed(seed)
    strengths = torch.rand(rows, concepts, generator=generator) + 0.5
    codes = strengths * (torch.rand(rows, concepts, generator=generator) < 3 / concepts)
    base = codes.clone()
    base[:, -concepts // 4 :] = 0
    return torch.stack([base @ directions, codes @ directions], dim=1)


def paired(folder: Path, *parts: Tensor) -> PairedActivations:
    """Write a shard per part; give all their tokens."""
    shards = [write_pair(folder, f"{number:04d}", part) for number, part in enumerate(parts)]
    return PairedActivations(shards, everything(shards))


def rule_inputs(folder: Path, *parts: Tensor) -> dict[str, Any]:
    """Write the same, and give the named inputs of a rule.

    They are paths of token shards, of both models' caches and of the summary.
    """
    shards = [write_pair(folder, f"{number:04d}", part) for number, part in enumerate(parts)]
    write_summary(folder / "summary.json", everything(shards))
    ends = {"tokens": "parquet", "base": "base.h5", "chat": "chat.h5"}
    paths = {
        name: [str(folder / f"{number:04d}.{end}") for number in range(len(parts))]
        for name, end in ends.items()
    }
    return paths | {"summary": str(folder / "summary.json")}


def random_crosscoder(
    d_model: int, latents: int, seed: int = 0, code_normalisation: str = "crosscoder"
) -> Crosscoder:
    """Make a crosscoder with random weights, biases, means and scales, so that none can be left out."""
    crosscoder = Crosscoder(d_model, latents, LAYER, code_normalisation)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in crosscoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / d_model**0.5)
        crosscoder.mean.copy_(torch.randn(crosscoder.mean.shape, generator=generator) / 4)
        crosscoder.scale.copy_(torch.rand(2, generator=generator) + 0.5)
    return crosscoder


def l1_settings(**changes) -> L1Settings:
    return L1Settings(
        **{
            "loss": "l1",
            "latents": 32,
            "batch": 64,
            "tokens": 6400,
            "l1_coefficient": 0.03,
            "warmup_steps": 5,
        }
        | changes
    )


def batchtopk_settings(**changes) -> BatchTopKSettings:
    defaults = {
        "loss": "batchtopk",
        "latents": 32,
        "batch": 64,
        "tokens": 6400,
        "k": 4,
        "warmup_steps": 5,
        "threshold_start_step": 20,
    }
    return BatchTopKSettings(**defaults | changes)
