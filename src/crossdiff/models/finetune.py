"""Fine-tune a chat model from a base model. The loss is on the assistant's turns only.

The model computes in bfloat16 if the device is fast at it. The weights that Adam updates are float32. Of the
embeddings, only the rows of the template's tokens are trained, because the base model may never have seen
these tokens in this place. No gradient is computed for the other rows.
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
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crossdiff.config import Finetuning, TextSource
from crossdiff.device import fast_dtype
from crossdiff.errors import UserError
from crossdiff.models.load import load_model
from crossdiff.models.padding import padded
from crossdiff.models.placement import place
from crossdiff.models.quantised import asked_bits, quantisation
from crossdiff.models.weight_files import read_config
from crossdiff.texts.chats import CONTENT, TURN_END, is_answer
from crossdiff.texts.chats import Sequence as TokenSequence
from crossdiff.texts.formats import ROLES
from crossdiff.texts.tokenising import sequences
from crossdiff.texts.unusable import Tally

log = logging.getLogger(__name__)

WIDTH_STEP = 8  # tokens; the width of every batch is a multiple
LOGIT_ROWS = 64  # number of tokens whose logits are in memory at a time
# Token ids, and whether each is learned. Both are (sequence, position), padded on the right.
Batch = tuple[Tensor, Tensor]


def training_sequences(
    sources: Mapping[str, TextSource],
    archives: Mapping[str, str | None],
    tokenizer: PreTrainedTokenizerBase,
    settings: Finetuning,
) -> list[TokenSequence]:
    """Training chats of every data set in ``settings.data``, up to the number of tokens given there.

    Raises UserError if a data set has fewer tokens, and if none of its records can be used.
    """
    found: list[TokenSequence] = []
    for name, tokens in settings.data.items():
        missing, tally = tokens, Tally(name)
        for _, _, sequence in sequences(
            sources[name], name, "train", tokenizer, settings.max_length, archives[name], tally
        ):
            found.append(sequence)
            missing -= len(sequence.token)
            if missing <= 0:
                break
        if missing > 0:
            tally.check()
            have = f"the data set's training chats have {tokens - missing:,} tokens"
            skipped = f"; {tally.told()}: {tally.reasons()}" if tally.told() else ""
            raise UserError(f"finetune.data.{name}: found {tokens:,}, {have}{skipped}")
    return found


def batches(examples: Sequence[TokenSequence], batch_tokens: int, seed: int) -> list[Batch]:
    """Batches of sequences of similar length, in random order, with at most ``batch_tokens`` positions each.

    The assistant's words and its turn end are learned. A sequence longer than ``batch_tokens`` is a batch of
    its own. Batches without learned tokens are left out.
    """
    order = sorted(range(len(examples)), key=lambda i: (len(examples[i].token), i))
    groups: list[list[int]] = [[]]
    for i in order:  # by length, so the last one is the longest and sets the padded width
        if groups[-1] and (len(groups[-1]) + 1) * _width(len(examples[i].token)) > batch_tokens:
            groups.append([])
        groups[-1].append(i)
    random.Random(seed).shuffle(groups)
    found = [_batch([examples[i] for i in group]) for group in groups]
    return [(ids, learned) for ids, learned in found if learned[:, 1:].any()]


def _width(length: int) -> int:
    """Round a length up. There are few widths, so that the memory of one batch fits the next."""
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
    """The mean cross-entropy in nats, as terms to be summed. Each term covers LOGIT_ROWS tokens.

    ``targets`` (tokens,) are predicted from ``hidden`` (tokens, d_model). Of the LM head, only the rows of
    ``tokens`` (ids) get a gradient.
    """
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
    """The last hidden states from which the learned tokens are predicted, and the ids of these tokens.

    The shapes are (tokens, d_model) and (tokens,). ``ids`` and ``learned`` are those of a batch, both
    (sequence, position).
    """
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return hidden[:, :-1][learned[:, 1:]], ids[:, 1:][learned[:, 1:]]


def backward(model: PreTrainedModel, ids: Tensor, learned: Tensor, tokens: Tensor) -> Tensor:
    """Add the gradients of a batch's loss to those of the weights, and return the loss, a scalar in nats.

    The logits of one term are freed before those of the next are computed, so they fit into the CPU's cache.
    ``tokens`` are the ids whose rows of the LM head get a gradient.
    """
    hidden, targets = before_learned(model, ids, learned)
    leaf, loss = hidden.detach().requires_grad_(), torch.zeros((), device=hidden.device)
    for term in assistant_losses(model, leaf, targets, tokens):
        term.backward()
        loss = loss + term.detach()
    hidden.backward(leaf.grad)
    return loss


def learning_rate(step: int, steps: int, settings: Finetuning) -> float:
    """Learning rate of a step, from 0: a linear warm-up, then half a cosine to a tenth of the maximum."""
    warmup = max(1, round(settings.warmup_fraction * steps))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return settings.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


def finetune(
    base: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[TokenSequence],
    settings: Finetuning,
    folder: Path,
    training_log: str | Path,
) -> None:
    """Train the model of the folder ``base`` on ``examples``.

    Writes the model and ``tokenizer`` to ``folder``, and the loss of every step to ``training_log`` (CSV).
    Raises UserError if no example reaches the end of an assistant's turn, for a base of 8 or 4 bits, and for
    one that no single GPU has room for.
    """
    end = turn_end(examples, settings.max_length)  # before training, which may take hours
    if bits := asked_bits(base):
        raise UserError(
            f"finetune: the base model is loaded in {bits} bits, which can't be trained; leave bits out"
        )
    if method := quantisation(read_config(Path(base))):
        todo = "which can't be trained; name a checkpoint of 16 or 32 bits"
        raise UserError(f"finetune: the base model's weights are quantised by {method}, {todo}")
    if not isinstance(place(base, fast_dtype()), torch.device):
        raise UserError("finetune: the base model is larger than one GPU; allowed: a base that fits one")
    model = load_model(base, fast_dtype())
    plan = [
        batch
        for epoch in range(settings.epochs)
        for batch in batches(examples, settings.batch_tokens, settings.seed + epoch)
    ]
    losses = train(model, plan, template_tokens(examples), settings)
    _write_log(training_log, plan, losses, settings)
    model.generation_config.eos_token_id = end
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train(model: PreTrainedModel, plan: Sequence[Batch], tokens: Tensor, settings: Finetuning) -> list[float]:
    """Make a step on every batch of ``plan``, and return the loss of each step, in nats.

    Of the embeddings, only the rows of ``tokens`` (ids) are trained.
    """
    torch.manual_seed(settings.seed)
    model.train()
    if model.device.type == "cpu":
        # On such short sequences, its backward pass is three times as fast as that of fused attention.
        model.set_attn_implementation("eager")
    tokens = tokens.to(model.device)
    weights = _Masters(model, tokens)
    optimiser = torch.optim.AdamW(
        weights.groups(settings.weight_decay), lr=settings.learning_rate, betas=(0.9, 0.95), fused=True
    )
    losses = []  # on the device until the end, because reading a loss makes the next step wait
    for step, (ids, learned) in enumerate(plan):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, len(plan), settings)
        loss = backward(model, ids.to(model.device), learned.to(model.device), tokens)
        nn.utils.clip_grad_norm_(weights.with_gradients(), 1.0)
        optimiser.step()
        weights.hand_back()
        losses.append(loss)
        if step % 20 == 0 or step == len(plan) - 1:
            log.info("step %d of %d: loss %.3f", step, len(plan), loss.item())
    return torch.stack(losses).tolist()


class _Masters:
    """Float32 copies of the weights that are trained.

    Of the embeddings, only the rows of ``tokens`` (ids) are trained. Raises UserError for a model whose input
    embeddings are not a plain table.
    """

    def __init__(self, model: PreTrainedModel, tokens: Tensor) -> None:
        inputs = model.get_input_embeddings()
        if not isinstance(inputs, nn.Embedding):
            problem = f"its input embeddings are {type(inputs).__name__}, allowed: torch.nn.Embedding"
            raise UserError(f"{type(model).__name__}: {problem}; this family can't be fine-tuned here")
        inputs.sparse = True  # gradients have only the rows that a batch uses
        embeddings = {inputs.weight, model.get_output_embeddings().weight}  # one weight if they are tied
        self.tokens = tokens
        self.whole = {
            weight: weight.detach().float() for weight in model.parameters() if weight not in embeddings
        }
        self.rows = {weight: weight.detach()[tokens].float() for weight in embeddings}

    def groups(self, weight_decay: float) -> list[dict]:
        """The parameter groups of the optimiser. Weight decay does not apply to the embeddings."""
        return [
            {"params": list(self.whole.values()), "weight_decay": weight_decay},
            {"params": list(self.rows.values()), "weight_decay": 0},
        ]

    def with_gradients(self) -> list[Tensor]:
        """Move the gradient of each weight to its copy, and return the copies."""
        for weight, master in self.whole.items():
            if weight.grad is not None:  # None in a part of the model that texts do not use
                master.grad = weight.grad.float()
        for weight, master in self.rows.items():
            master.grad = weight.grad.coalesce().index_select(0, self.tokens).to_dense().float()
        for weight in (*self.whole, *self.rows):
            weight.grad = None
        return [*self.whole.values(), *self.rows.values()]

    @torch.no_grad()
    def hand_back(self) -> None:
        """Write the copies, which the optimiser has changed, into the model."""
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
    """Ids of all tokens that stand in a template, sorted, (tokens,) int64."""
    in_template = np.concatenate([s.token[s.template != CONTENT] for s in examples])
    return torch.from_numpy(np.unique(in_template)).long()


def turn_end(examples: Sequence[TokenSequence], max_length: int) -> int:
    """Id of the token that ends an assistant's turn most often. Generation stops at it.

    Raises UserError if no chat, cut after ``max_length`` tokens, has such a token.
    """
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
        problem = "no training chat reaches an assistant's turn end"
        raise UserError(f"finetune.max_length: found {max_length}, {problem}")
    return int(counts.argmax())
