"""Fine-tuning a chat model from a base model: the loss is on the assistant's turns only.

The model computes in bfloat16 where the device is fast at it; the weights that Adam moves are float32. Embeddings stay frozen but for the
tokens of the template, which the base model may never have seen in this place: no gradient is computed for the others.
"""

import csv
import logging
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from crossdiff.config import Finetuning, TextSource
from crossdiff.device import fast_dtype
from crossdiff.errors import UserError
from crossdiff.models.load import load_model
from crossdiff.models.padding import padded
from crossdiff.texts.chats import CONTENT, TURN_END, is_answer
from crossdiff.texts.chats import Sequence as TokenSequence
from crossdiff.texts.formats import ROLES
from crossdiff.texts.shards import sequences

log = logging.getLogger(__name__)

WIDTH_STEP = 8
LOGIT_ROWS = 64  # tokens whose logits are held at a time
Batch = tuple[
    Tensor, Tensor
]  # token ids and whether each is learned, both (sequence, position), padded on the right


def training_sequences(
    sources: Mapping[str, TextSource], archives: Mapping[str, str | None], tokenizer, settings: Finetuning
) -> list[TokenSequence]:
    """Training chats of every data set up to its number of tokens. Raises UserError when a data set has fewer."""
    found: list[TokenSequence] = []
    for name, tokens in settings.data.items():
        missing = tokens
        for _, _, sequence in sequences(
            sources[name], name, "train", tokenizer, settings.max_length, archives[name]
        ):
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
    found = [_batch([examples[i] for i in group]) for group in groups]
    return [(ids, learned) for ids, learned in found if learned[:, 1:].any()]


def _width(length: int) -> int:
    """Few widths, so that memory freed by one batch fits the next."""
    return -(-length // WIDTH_STEP) * WIDTH_STEP


def _batch(group: list[TokenSequence]) -> Batch:
    ids, real = padded(
        [sequence.token for sequence in group], width=_width(max(len(sequence.token) for sequence in group))
    )
    answer = np.concatenate([is_answer(sequence.role, sequence.template) for sequence in group])
    return ids, real.masked_scatter(real, torch.from_numpy(answer))


def assistant_losses(
    model: PreTrainedModel, hidden: Tensor, targets: Tensor, tokens: Tensor
) -> Iterator[Tensor]:
    """The terms of the mean cross-entropy (nats) of ``targets`` (tokens,) after ``hidden`` (tokens, width), LOGIT_ROWS tokens in each. Of
    the LM head, only the rows of ``tokens`` get a gradient."""
    head = model.get_output_embeddings()
    frozen = {name: value.detach() for name, value in head.named_parameters()}
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    for part, wanted in zip(hidden.split(LOGIT_ROWS), targets.split(LOGIT_ROWS), strict=True):
        rows = nn.functional.embedding(tokens, head.weight, sparse=True)
        logits = functional_call(head, frozen, part)
        of_tokens = part @ rows.T if head.bias is None else torch.addmm(frozen["bias"][tokens], part, rows.T)
        logits = logits.index_copy(1, tokens, of_tokens).float()
        if cap is not None:
            logits = cap * torch.tanh(logits / cap)
        yield nn.functional.cross_entropy(logits, wanted, reduction="sum") / len(targets)


def before_learned(model: PreTrainedModel, ids: Tensor, learned: Tensor) -> tuple[Tensor, Tensor]:
    """The last hidden states (tokens, width) from which the learned tokens are predicted, and these tokens (tokens,)."""
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return hidden[:, :-1][learned[:, 1:]], ids[:, 1:][learned[:, 1:]]


def backward(model: PreTrainedModel, ids: Tensor, learned: Tensor, tokens: Tensor) -> Tensor:
    """Add the gradients of a batch's loss to those of the weights; the loss. Logits are gone before the next ones are made: few
    at a time stay in the cache."""
    hidden, targets = before_learned(model, ids, learned)
    leaf, loss = hidden.detach().requires_grad_(), 0.0
    for term in assistant_losses(model, leaf, targets, tokens):
        term.backward()
        loss += term.detach()
    hidden.backward(leaf.grad)
    return loss


def learning_rate(step: int, steps: int, settings: Finetuning) -> float:
    """Linear warm-up, then a half cosine to a tenth."""
    warmup = max(1, round(settings.warmup_fraction * steps))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return settings.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


def finetune(
    base: str | Path,
    tokenizer,
    examples: Sequence[TokenSequence],
    settings: Finetuning,
    folder: Path,
    training_log: str | Path,
) -> None:
    """Train on ``examples``; write the model and ``tokenizer`` to ``folder`` and the loss of every step to ``training_log`` (CSV)."""
    end = turn_end(
        examples, settings.max_length
    )  # first: what can't be trained is refused before hours of it
    model = load_model(base, fast_dtype())
    plan = [
        batch
        for epoch in range(settings.epochs)
        for batch in batches(examples, settings.batch_tokens, settings.seed + epoch)
    ]
    losses = train(model, plan, template_tokens(examples), settings)
    _write_log(training_log, plan, losses, settings)
    model.generation_config.eos_token_id = end
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train(model: PreTrainedModel, plan: Sequence[Batch], tokens: Tensor, settings: Finetuning) -> list[float]:
    """A step on every batch of ``plan``; the losses. Of the embeddings only the rows of ``tokens`` (ids) move."""
    torch.manual_seed(settings.seed)
    model.train()
    if model.device.type == "cpu":
        model.set_attn_implementation(
            "eager"
        )  # on sequences this short three times as fast, backward, as PyTorch's fused one
    tokens = tokens.to(model.device)
    weights = _Masters(model, tokens)
    optimiser = torch.optim.AdamW(
        weights.groups(settings.weight_decay), lr=settings.learning_rate, betas=(0.9, 0.95), fused=True
    )
    losses = []  # on the device until the end: reading one would make the next step wait
    for step, (ids, learned) in enumerate(plan):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, len(plan), settings)
        loss = backward(model, ids.to(model.device), learned.to(model.device), tokens)
        nn.utils.clip_grad_norm_(weights.with_gradients(), 1.0)
        optimiser.step()
        weights.hand_back()
        losses.append(loss)
        if step % 20 == 0 or step == len(plan) - 1:
            log.info("step %d of %d, loss %.3f", step, len(plan), loss.item())
    return torch.stack(losses).tolist()


class _Masters:
    """Float32 copies of all that is trained: every weight, but of the embeddings the rows of ``tokens`` alone."""

    def __init__(self, model: PreTrainedModel, tokens: Tensor) -> None:
        model.get_input_embeddings().sparse = (
            True  # a gradient for the rows that a batch uses, instead of one for all
        )
        embeddings = {
            model.get_input_embeddings().weight,
            model.get_output_embeddings().weight,
        }  # one where they are tied
        self.tokens = tokens
        self.whole = {
            weight: weight.detach().float() for weight in model.parameters() if weight not in embeddings
        }
        self.rows = {weight: weight.detach()[tokens].float() for weight in embeddings}

    def groups(self, weight_decay: float) -> list[dict]:
        """What the optimiser moves."""
        return [
            {"params": list(self.whole.values()), "weight_decay": weight_decay},
            {"params": list(self.rows.values()), "weight_decay": 0},
        ]

    def with_gradients(self) -> list[Tensor]:
        """The copies, each with the gradient of its weight, which lets go of it."""
        for weight, master in self.whole.items():
            if weight.grad is not None:  # a part of the model that texts do not go through
                master.grad = weight.grad.float()
        for weight, master in self.rows.items():
            master.grad = weight.grad.coalesce().index_select(0, self.tokens).to_dense().float()
        for weight in (*self.whole, *self.rows):
            weight.grad = None
        return [*self.whole.values(), *self.rows.values()]

    @torch.no_grad()
    def hand_back(self) -> None:
        """What the optimiser made of the copies goes into the model."""
        for weight, master in self.whole.items():
            weight.copy_(master)
            master.grad = None
        for weight, master in self.rows.items():
            weight[self.tokens] = master.to(weight.dtype)


def _write_log(path: str | Path, plan: list[Batch], losses: list[float], settings: Finetuning) -> None:
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("step", "tokens", "learned_tokens", "learning_rate", "loss"))
        for step, ((ids, learned), loss) in enumerate(zip(plan, losses, strict=True)):
            rate = learning_rate(step, len(plan), settings)
            writer.writerow((step, ids.numel(), int(learned.sum()), f"{rate:.3g}", f"{loss:.4f}"))


def template_tokens(examples: Sequence[TokenSequence]) -> Tensor:
    """Ids of every token that stands in a template."""
    return torch.from_numpy(
        np.unique(np.concatenate([s.token[s.template != CONTENT] for s in examples]))
    ).long()


def turn_end(examples: Sequence[TokenSequence], max_length: int) -> int:
    """The token that ends an assistant's turn: generation stops at it. Raises UserError when no chat, cut at ``max_length``, has one."""
    first_of_end = [
        s.token[1:][
            (s.template[1:] == TURN_END)
            & (s.template[:-1] != TURN_END)
            & (s.role[1:] == ROLES.index("assistant"))
        ]
        for s in examples
    ]
    counts = np.bincount(np.concatenate(first_of_end))
    if not counts.any():
        raise UserError(
            f"pair.chat.finetune.max_length: found {max_length}, no training chat reaches an assistant's turn end"
        )
    return int(counts.argmax())
