"""Compare our fine-tuning with a straightforward loop, on the same chats.

.venv/bin/python benchmarks/finetuning.py MODEL TOKENS.parquet... [--json] [--config CONFIG]

MODEL is a Hugging Face folder: results/models/{model}. TOKENS are token shards of chats:
results/tokens/{tokenizer}/{small_talk,requests}.train/0000.parquet. Both belong to a run of CONFIG (default:
config.yaml), whose fine-tuning settings are used. The straightforward loop packs chats into rows of 256
tokens, four at a time. It computes in bfloat16 by autocast over float32 weights, and computes all logits.
Each loop trains its own model, and both are judged by their loss on the same held-out chats.
"""

import argparse
import itertools
import random
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import nn
from turns import show

from crossdiff.config import Finetuning, load
from crossdiff.device import fast_dtype
from crossdiff.models import finetune
from crossdiff.models.load import load_model
from crossdiff.texts.chats import Sequence
from crossdiff.texts.shards import read_shard

ROW, ROWS = 256, 4


def chats(paths: list[Path], tokens: int, held_out: int) -> tuple[list[Sequence], list[Sequence]]:
    """Take chats of all shards in random order: the first ``tokens``, then ``held_out`` tokens."""
    found = []
    for path in paths:
        shard = read_shard(path)
        bounds = [*shard.sequence_starts(), len(shard.token)]
        found += [
            Sequence(*(column[a:b] for column in (shard.token, shard.role, shard.template)))
            for a, b in itertools.pairwise(bounds)
        ]
    random.Random(0).shuffle(found)
    ends = np.cumsum([len(chat.token) for chat in found])
    first, last = np.searchsorted(ends, [tokens, tokens + held_out])
    return found[:first], found[first:last]


def packed(examples: list[Sequence]) -> list[finetune.Batch]:
    """Pack chats one after the other into rows of equal length, and drop the tail."""
    ids = torch.from_numpy(np.concatenate([chat.token for chat in examples])).long()
    learned = torch.from_numpy(
        np.concatenate([finetune.is_answer(chat.role, chat.template) for chat in examples])
    )
    size = ROW * ROWS
    return [
        (ids[start : start + size].view(ROWS, ROW), learned[start : start + size].view(ROWS, ROW))
        for start in range(0, len(ids) - size + 1, size)
    ]


def plain(model, plan: list[finetune.Batch], settings: Finetuning) -> None:
    """Train with the straightforward loop."""
    model.train()
    model.get_input_embeddings().requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(
        trained, lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=settings.weight_decay, fused=True
    )
    for step, (ids, learned) in enumerate(plan):
        for group in optimiser.param_groups:
            group["lr"] = finetune.learning_rate(step, len(plan), settings)
        with torch.autocast(model.device.type, torch.bfloat16):
            logits = model(input_ids=ids.to(model.device)).logits
        targets = ids[:, 1:].masked_fill(~learned[:, 1:], -100).to(model.device)
        nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets.flatten()).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()


@torch.no_grad()
def loss_on(model, plan: list[finetune.Batch], tokens: torch.Tensor) -> float:
    """Give the mean cross-entropy of the learned tokens, in nats."""
    model.eval()
    tokens = tokens.to(model.device)
    counts = [int(learned[:, 1:].sum()) for _, learned in plan]
    states = (
        finetune.before_learned(model, ids.to(model.device), learned.to(model.device))
        for ids, learned in plan
    )
    losses = [sum(finetune.assistant_losses(model, *found, tokens)).item() for found in states]
    return float(np.average(losses, weights=counts))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("tokens", type=Path, nargs="+")
    parser.add_argument("--config", default="config.yaml")
    parser.add_argument("--train", type=int, default=16_000, help="tokens that each trains on")
    parser.add_argument("--held-out", type=int, default=4_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    settings = load(yaml.safe_load(Path(arguments.config).read_text())).pair.chat.finetune
    examples, held_out = chats(arguments.tokens, arguments.train, arguments.held_out)
    tokens = finetune.template_tokens(examples)
    judged = finetune.batches(held_out, settings.batch_tokens, 0)
    ways = {
        "plain": (torch.float32, packed(examples), lambda model, plan: plain(model, plan, settings)),
        "ours": (
            fast_dtype(),
            finetune.batches(examples, settings.batch_tokens, 0),
            lambda model, plan: finetune.train(model, plan, tokens, settings),
        ),
    }
    rows = []
    for name, (dtype, plan, run) in ways.items():
        model = load_model(arguments.model, dtype)
        start = time.perf_counter()
        run(model, plan)
        next(model.parameters()).sum().item()  # waits for a GPU
        seconds = time.perf_counter() - start
        used = (
            sum(len(example.token) for example in examples)
            if name == "ours"
            else sum(ids.numel() for ids, _ in plan)
        )
        rows.append(
            {
                "loop": name,
                "tokens": used,
                "tokens/s": used / seconds,
                "loss, held-out": loss_on(model, judged, tokens),
            }
        )
    for row in rows:
        row["over plain"] = row["tokens/s"] / rows[0]["tokens/s"]
    show(rows, arguments.json)


if __name__ == "__main__":
    main()
