"""Latents that fire where a test wants them, and the files that explanations are made from."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from helpers_activations import write_tokens
from helpers_latents import firings_of

from crossdiff.config import Examples
from crossdiff.explanations.contexts import Text, read_background
from crossdiff.explanations.patterns import PatternExplainer
from crossdiff.latents.background import BackgroundCollector
from crossdiff.latents.examples import SCHEMA, ExampleCollector
from crossdiff.texts.shards import Shard

WORDS = "the cat sat banana on mat sorry I can't help you dog ran far home now".split()


def decode(tokens: list[int]) -> str:
    """Give the tokens' names, WORDS first."""
    return " ".join(WORDS[token] if token < len(WORDS) else f"w{token}" for token in tokens)


def random_shard(
    documents: int, length: int = 40, tokens: int = 200, seed: int = 0, words: int = len(WORDS)
) -> Shard:
    """Documents of random tokens, one sequence each. The first ids are WORDS, as rare as all others."""
    generator = np.random.default_rng(seed)
    rows = documents * length
    return Shard(
        token=generator.integers(0, tokens, rows).astype(np.int32),
        document=np.repeat(np.arange(documents, dtype=np.int64) + 1000 * seed, length),
        position=np.tile(np.arange(length, dtype=np.int32), documents),
        role=np.full(rows, 3, np.int8),
        template=np.zeros(rows, np.int8),
    )


def write_latents(folder: Path, shard: Shard, codes: np.ndarray, settings: Examples) -> tuple[Text, str, str]:
    """Give the text, and paths of examples and background for activations ``codes`` (rows, latents)."""
    largest = codes.max(axis=0)
    collector = ExampleCollector([shard], largest, settings)
    background = BackgroundCollector([shard], len(codes), settings)
    found = firings_of(codes, 0, np.arange(len(codes)))
    collector.add(found)
    background.add(found)
    examples = folder / "examples.parquet"
    pq.write_table(pa.Table.from_batches(list(collector.batches()), SCHEMA), examples)
    pq.write_table(background.table(), folder / "background.parquet")
    text = Text.of([write_tokens(folder / "tokens.parquet", shard)])
    return text, str(examples), str(folder / "background.parquet")


def explained(folder: Path, shard: Shard, codes: np.ndarray, settings: Examples | None = None):
    """Give the two tables of the pattern explainer."""
    settings = settings or Examples(background=500)
    text, examples, background = write_latents(folder, shard, codes, settings)
    return PatternExplainer(text, read_background(background, text), decode).explain(examples, codes.shape[1])
