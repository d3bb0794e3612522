"""Measure the data path: how fast shuffled batches come from HDF5 caches, and how well they are shuffled.

It also measures what a training loses by waiting for batches.

    .venv/bin/python benchmarks/data.py [--json]
        [--width 2304 --latents 73728 --k 100 --steps 400 --buffer 200000 --shards 6]

Caches are 576 x 2, in shards of 100,000 tokens. Each document has a topic. The training is BatchTopK with
16,384 latents and k 50. The first pool is ready before the clock starts, so --steps must cover several pools.
The values above are for a GPU. A GPU is used wherever there is one; there is no option for it.
"""

import argparse
import itertools
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from turns import show

from crossdiff.activations.cache import write_cache
from crossdiff.activations.pairs import PairedActivations, PairedShard, summarise
from crossdiff.config import Activations, BatchTopKSettings
from crossdiff.crosscoders.memory import check_room, training_bytes
from crossdiff.crosscoders.trainer import Training
from crossdiff.device import device, keep_freed_memory, usable_memory
from crossdiff.texts.shards import Shard

BATCH, DOCUMENT, ROUNDS = 2_048, 500, 3


def write_shard(folder: Path, number: int, rows: int, width: int) -> PairedShard:
    """Write activations around a topic per document. Their first two entries name the document."""
    generator = torch.Generator().manual_seed(number)
    row = np.arange(rows)
    document = (row + number * rows) // DOCUMENT
    ids = (row + number * rows).astype(np.int32)
    shard = Shard(
        ids, document, (row % DOCUMENT).astype(np.int32), np.zeros(rows, np.int8), np.zeros(rows, np.int8)
    )
    tokens = folder / f"{number}.parquet"
    pq.write_table(pa.table(shard._asdict()), tokens)
    topic = torch.randn(rows // DOCUMENT, width, generator=generator).repeat_interleave(DOCUMENT, dim=0)
    paths = []
    for model in ("base", "chat"):
        values = (topic + torch.randn(rows, width, generator=generator)).bfloat16()
        # The number of the document, in two parts that are exact in bfloat16.
        values[:, 0], values[:, 1] = torch.from_numpy(document // 128), torch.from_numpy(document % 128)
        paths.append(folder / f"{number}.{model}.h5")
        write_cache(paths[-1], values, 0, shard.token)
    return PairedShard(tokens, *paths)


def neighbours(batch: Tensor, tokens: int) -> float:
    """Give how often two tokens of a batch share a document, relative to a perfect shuffle of all data."""
    document = batch[:, 0, 0].double() * 128 + batch[:, 0, 1].double()
    _, counts = document.unique(return_counts=True)
    pairs = (counts * (counts - 1)).sum().item() / (len(batch) * (len(batch) - 1))
    return pairs / ((DOCUMENT - 1) / (tokens - 1))


def seconds(thing: Callable[[], object]) -> float:
    """Time ``thing`` until the device has done all that it queued."""
    start = time.perf_counter()
    thing()
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(
    activations: PairedActivations, settings: BatchTopKSettings, steps: int
) -> dict[str, float | str]:
    """Time an epoch's batches and three pools alone, then steps on ready batches and steps with loading."""
    tokens, reserved = activations.tokens, training_bytes(activations.d_model, settings.latents, BATCH)
    check_room(settings, activations.d_model, usable_memory(device()))

    def opened() -> Iterator[Tensor]:
        return activations.shuffled_batches(
            BATCH, settings.buffer_tokens, 0, device=device(), reserved=reserved
        )

    with closing(opened()) as stream:
        alike = [neighbours(batch, tokens) for batch in itertools.islice(stream, tokens // BATCH)]
    with closing(opened()) as stream:
        at_hand = [next(stream)]
        batches = 3 * (settings.buffer_tokens // BATCH)
        reading = seconds(lambda: list(itertools.islice(stream, batches - 1, batches)))
        at_hand += itertools.islice(stream, 31)

    training = Training(activations, settings, 0, device())
    for batch in at_hand[:5]:
        training.step(batch)
    alone, together, waited = [], [], 0.0
    for _ in range(ROUNDS):
        alone.append(
            seconds(
                lambda: [training.step(batch) for batch in itertools.islice(itertools.cycle(at_hand), steps)]
            )
        )
        with closing(opened()) as stream:
            training.step(next(stream))

            def with_data(stream: Iterator[Tensor] = stream) -> None:
                nonlocal waited
                for _ in range(steps):
                    start = time.perf_counter()
                    batch = next(stream)
                    waited += time.perf_counter() - start
                    training.step(batch)

            together.append(seconds(with_data))
    rate = batches * BATCH / reading
    return {
        "shuffled pairs/s": rate,
        "step alone ms": 1e3 * median(alone) / steps,
        "training with data / step alone": median(alone) / median(together),
        "data path / training": rate / (steps * BATCH / median(together)),
        "training's host waits": f"{100 * waited / sum(together):.1f} %",
        "pairs of one document in a batch, over chance": float(np.mean(alike)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--rows", type=int, default=100_000, help=f"of a shard, a multiple of {DOCUMENT}")
    parser.add_argument("--shards", type=int, default=3)
    parser.add_argument("--buffer", type=int, default=100_000, help="token pairs of a pool")
    parser.add_argument("--latents", type=int, default=16_384)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    keep_freed_memory()
    settings = BatchTopKSettings(
        loss="batchtopk",
        k=arguments.k,
        latents=arguments.latents,
        batch=BATCH,
        buffer_tokens=arguments.buffer,
        tokens=10**10,
        warmup_steps=5,
        log_every=10**6,
    )
    with tempfile.TemporaryDirectory() as folder:
        shards = [
            write_shard(Path(folder), number, arguments.rows, arguments.width)
            for number in range(arguments.shards)
        ]
        activations = PairedActivations(shards, summarise(shards, Activations(statistics_tokens=100_000)))
        show([measure(activations, settings, arguments.steps)], arguments.json)


if __name__ == "__main__":
    main()
