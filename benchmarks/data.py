"""The data path: how fast shuffled batches come from HDF5 caches, what a trainer waits for them, and how well they are shuffled.

.venv/bin/python benchmarks/data.py [--json]

Caches of 576 x 2 in shards of 100,000 tokens whose documents have a topic each; the trainer is BatchTopK with 16,384 latents and k 50.
"""

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from turns import show

from crossdiff.activations.cache import write_cache
from crossdiff.activations.pairs import PairedActivations, PairedShard, summarise
from crossdiff.config import Activations, BatchTopKSettings
from crossdiff.crosscoders.trainer import Training
from crossdiff.device import device
from crossdiff.texts.shards import Shard

WIDTH, ROWS, SHARDS, BATCH, BUFFER, DOCUMENT = 576, 100_000, 3, 2_048, 100_000, 500
BATCHES, STEPS = 150, 20


def write_shard(folder: Path, number: int) -> PairedShard:
    """Activations around a topic per document; the first two entries name the document."""
    generator = torch.Generator().manual_seed(number)
    row = np.arange(ROWS)
    document = row // DOCUMENT + number * ROWS
    ids = (row + number * ROWS).astype(np.int32)
    shard = Shard(ids, document, (row % DOCUMENT).astype(np.int32), np.zeros(ROWS, np.int8), np.zeros(ROWS, np.int8))
    tokens = folder / f"{number}.parquet"
    pq.write_table(pa.table(shard._asdict()), tokens)
    topic = torch.randn(ROWS // DOCUMENT, WIDTH, generator=generator).repeat_interleave(DOCUMENT, dim=0)
    paths = []
    for model in ("base", "chat"):
        values = (topic + torch.randn(ROWS, WIDTH, generator=generator)).bfloat16()
        values[:, 0], values[:, 1] = torch.from_numpy(document // 128), torch.from_numpy(document % 128)  # exact in bfloat16
        paths.append(folder / f"{number}.{model}.h5")
        write_cache(paths[-1], values, 0, shard.token)
    return PairedShard(tokens, *paths)


def neighbours(batch: torch.Tensor) -> float:
    """How often two tokens of a batch are of one document, over what a perfect shuffle of all data gives."""
    document = batch[:, 0, 0].double() * 128 + batch[:, 0, 1].double()
    _, counts = document.unique(return_counts=True)
    pairs = (counts * (counts - 1)).sum().item() / (len(batch) * (len(batch) - 1))
    return pairs / ((DOCUMENT - 1) / (SHARDS * ROWS - 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shards = [write_shard(Path(folder), number) for number in range(SHARDS)]
        activations = PairedActivations(shards, summarise(shards, Activations(statistics_tokens=BUFFER)))
        stream = activations.shuffled_batches(BATCH, BUFFER, seed=0)
        start = time.perf_counter()
        alike = [neighbours(batch) for batch in itertools.islice(stream, BATCHES)]
        alone = BATCHES * BATCH / (time.perf_counter() - start)
        stream.close()

        settings = BatchTopKSettings(loss="batchtopk", k=50, latents=16_384, batch=BATCH, tokens=10**9, warmup_steps=5)
        training = Training(activations, settings, 0, device())
        stream = activations.shuffled_batches(BATCH, BUFFER, seed=0)
        training.step(next(stream))
        waited = stepped = 0.0
        for _ in range(STEPS):
            start = time.perf_counter()
            batch = next(stream)
            middle = time.perf_counter()
            training.step(batch)
            waited, stepped = waited + middle - start, stepped + time.perf_counter() - middle
        stream.close()
    row = {
        "data path alone tokens/s": alone,
        "trainer tokens/s": STEPS * BATCH / (waited + stepped),
        "data path / trainer": alone / (STEPS * BATCH / (waited + stepped)),
        "trainer waits": f"{100 * waited / (waited + stepped):.1f} %",
        "pairs of one document in a batch, over chance": float(np.mean(alike)),
    }
    show([row], arguments.json)


if __name__ == "__main__":
    main()
