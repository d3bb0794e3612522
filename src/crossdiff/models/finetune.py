"""Fine-tuning a chat model from a base model: the loss is on the assistant's turns only.

Weights are float32, products bfloat16 where the device is fast at it. Embeddings stay frozen but for the tokens of the template, which the
base model may never have seen in this place.
"""

import csv
import logging
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from crossdiff.config import Finetuning, TextSource
from crossdiff.device import fast_dtype
from crossdiff.errors import UserError
from crossdiff.models.load import load_model
from crossdiff.texts.chats import CONTENT, TURN_END, is_answer
from crossdiff.texts.chats import Sequence as TokenSequence
from crossdiff.texts.shards import sequences

log = logging.getLogger(__name__)

WIDTH_STEP = 8
MICRO_TOKENS = 512  # of a batch go through the model at once: half the batch, half the memory for activations
Batch = tuple[Tensor, Tensor]  # token ids and whether each is learned, both (sequence, position), padded on the right


def training_sequences(
    sources: Mapping[str, TextSource], archives: Mapping[str, str | None], tokenizer, settings: Finetuning
) -> list[TokenSequence]:
    """Training chats of every data set up to its number of tokens. Raises UserError when a data set has fewer."""
    found: list[TokenSequence] = []
    for name, tokens in settings.data.items():
        missing = tokens
        for _, _, sequence in sequences(sources[name], name, "train", tokenizer, settings.max_length, archives[name]):
            found.append(sequence)
            missing -= len(sequence.token)
            if missing <= 0:
                break
        if missing > 0:
            raise UserError(
                f"pair.chat.finetune.data.{name}: found {tokens:,}, the data set's training chats have {tokens - missing:,} tokens"
            )
    return found


def batches(examples: Sequence[TokenSequence], batch_tokens: int, seed: int) -> list[Batch]:
    """Batches of sequences of similar length, in random order. Learned are the assistant's words and its turn end."""
    order = sorted(range(len(examples)), key=lambda i: (len(examples[i].token), i))
    groups: list[list[int]] = [[]]
    for i in order:  # sorted: the newest is the longest, so it sets the padded width
        if groups[-1] and (len(groups[-1]) + 1) * _width(len(examples[i].token)) > batch_tokens:
            groups.append([])
        groups[-1].append(i)
    random.Random(seed).shuffle(groups)
    padded = [_pad([examples[i] for i in group]) for group in groups]
    return [(ids, learned) for ids, learned in padded if learned[:, 1:].any()]


def _width(length: int) -> int:
    """Few widths, so that memory freed by one batch fits the next."""
    return -(-length // WIDTH_STEP) * WIDTH_STEP


def _pad(group: list[TokenSequence]) -> Batch:
    width = _width(max(len(sequence.token) for sequence in group))
    ids = torch.zeros(len(group), width, dtype=torch.long)
    learned = torch.zeros(len(group), width, dtype=torch.bool)
    for row, sequence in enumerate(group):
        length = len(sequence.token)
        ids[row, :length] = torch.from_numpy(sequence.token)
        learned[row, :length] = torch.from_numpy(is_answer(sequence.role, sequence.template))
    return ids, learned


def assistant_loss(model: PreTrainedModel, ids: Tensor, learned: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy (nats) of the learned tokens; logits are computed for these alone."""
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    targets = learned[:, 1:]
    logits = model.lm_head(hidden[:, :-1][targets]).float()
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    return nn.functional.cross_entropy(logits, ids[:, 1:][targets], reduction=reduction)


def learning_rate(step: int, steps: int, settings: Finetuning) -> float:
    """Linear warm-up, then a half cosine to a tenth."""
    warmup = max(1, round(settings.warmup_fraction * steps))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return settings.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


def finetune(
    base: str | Path, tokenizer, examples: Sequence[TokenSequence], settings: Finetuning, folder: Path, training_log: str | Path
) -> None:
    """Train on ``examples``; write the model and ``tokenizer`` to ``folder`` and the loss of every step to ``training_log`` (CSV)."""
    torch.manual_seed(settings.seed)
    model = load_model(base, torch.float32).train()
    embeddings = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}  # one where they are tied
    for weight in embeddings:
        _freeze_rows(weight, but=template_tokens(examples))
    groups = [  # weight decay would move the frozen rows
        {"params": [p for p in model.parameters() if p not in embeddings], "weight_decay": settings.weight_decay},
        {"params": list(embeddings), "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95), fused=True)
    plan = [batch for epoch in range(settings.epochs) for batch in batches(examples, settings.batch_tokens, settings.seed + epoch)]
    losses = []  # on the device until the end: reading one would make the next step wait
    for step, (ids, learned) in enumerate(plan):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, len(plan), settings)
        loss = _backward(model, ids.to(model.device), learned.to(model.device))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss)
        if step % 20 == 0 or step == len(plan) - 1:
            log.info("step %d of %d, loss %.3f", step, len(plan), loss.item())
    _write_log(training_log, plan, losses, settings)
    model.generation_config.eos_token_id = turn_end(examples)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _backward(model: PreTrainedModel, ids: Tensor, learned: Tensor) -> Tensor:
    """Add the gradient of a batch's mean loss, gathered over parts of the batch; gives the loss."""
    rows = max(1, MICRO_TOKENS // ids.shape[1])
    total = torch.zeros((), device=ids.device)
    n_learned = learned[:, 1:].sum()
    for part_ids, part_learned in zip(ids.split(rows), learned.split(rows), strict=True):
        with torch.autocast(model.device.type, torch.bfloat16, enabled=fast_dtype() == torch.bfloat16):
            loss = assistant_loss(model, part_ids, part_learned, reduction="sum") / n_learned
        loss.backward()
        total += loss.detach()
    return total


def _write_log(path: str | Path, plan: list[Batch], losses: list[Tensor], settings: Finetuning) -> None:
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("step", "tokens", "learned_tokens", "learning_rate", "loss"))
        for step, ((ids, learned), loss) in enumerate(zip(plan, torch.stack(losses).tolist(), strict=True)):
            rate = learning_rate(step, len(plan), settings)
            writer.writerow((step, ids.numel(), int(learned.sum()), f"{rate:.3g}", f"{loss:.4f}"))


def template_tokens(examples: Sequence[TokenSequence]) -> Tensor:
    """Ids of every token that stands in a template."""
    return torch.from_numpy(np.unique(np.concatenate([s.token[s.template != CONTENT] for s in examples]))).long()


def turn_end(examples: Sequence[TokenSequence]) -> int:
    """The token that ends a turn: generation stops at it."""
    first_of_end = np.concatenate([s.token[1:][(s.template[1:] == TURN_END) & (s.template[:-1] != TURN_END)] for s in examples])
    return int(np.bincount(first_of_end).argmax())


def _freeze_rows(weight: nn.Parameter, but: Tensor) -> None:
    frozen = torch.ones(len(weight), 1, dtype=torch.bool, device=weight.device)
    frozen[but] = False
    weight.register_hook(lambda gradient: gradient.masked_fill(frozen, 0))
