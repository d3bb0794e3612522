"""Prove that a model's activations, patched runs and answers are those of its own forward pass.

Crossdiff stops models at a layer, resumes them from there, and answers many padded prompts at once. Whether a
family bears that is hard to tell from its code. So each model is tried on a few short texts before anything
expensive runs. The reference is the model's own ``forward``, one text at a time, without padding and cache.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crossdiff.errors import UserError, first_line
from crossdiff.interventions.changes import Change, changing
from crossdiff.interventions.steered_answers import answer, read
from crossdiff.models.answers import answer_nats, greedy
from crossdiff.models.forward import head_logits, resume_from_layer, run_to_layer
from crossdiff.models.padding import padded
from crossdiff.models.parts import decoder_layers, device_of_inputs
from crossdiff.models.replacements import embedding_rows

ROUNDINGS, LEAST = 6, 0.002  # of ``allowed``
DRAWS, SENSITIVE = 3, 3  # of ``_difference``
OUTLYING = 0.1  # share of a text's tokens that rounding may send to other experts
CLOSE = 2  # times ``allowed``: how far a chosen logit may lie below the best one, in standard deviations
NEW_TOKENS = 6  # of each answer
FOLLOWING = 3  # tokens that follow each prompt when it is steered
LENGTHS = (6, 24, 24, 48)  # tokens of each text; two are equal, because equal lengths are one batch
TEXT = (
    "The river comes down from the hills in spring, when the snow melts, and fills the meadows behind our "
    "house. My brother and I used to build small dams there, with stones and branches, until the water found "
    "another way. In summer the meadows dry up, the cows return, and nobody would think that there was ever "
    "a lake. Question: what are 17 and 25 in total? Answer: 42, because 10 and 20 give 30, while 7 and 5 "
    "give 12. Our neighbour keeps a list of the dates on which the ice breaks; it begins in 1903 and names "
    "the weather, the wind and the height of the water."
)


def proof_texts(tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
    """Ids of the texts on which a model is tried: the first tokens of TEXT, from different words on.

    Raises UserError for a tokenizer that makes too few tokens of them.
    """
    words, texts = TEXT.split(), []
    for number, length in enumerate(LENGTHS):
        ids = tokenizer(" ".join(words[5 * number :]))["input_ids"][:length]
        if len(ids) < length:
            found = f"found {len(ids)} tokens for {len(words) - 5 * number} English words"
            raise UserError(f"the chat tokenizer: {found}, at least {length} are needed; look at its files")
        texts.append(np.asarray(ids))
    return texts


def allowed(model: PreTrainedModel) -> float:
    """Largest relative difference that rounding explains: ROUNDINGS eps sqrt(blocks), eps of one rounding.

    Errors of blocks add like the steps of a random walk. Of 30 blocks in bfloat16, 1.5 were measured. It is
    at least LEAST. Wrong computations differ by some tenths or more.
    """
    return max(LEAST, ROUNDINGS * _one_rounding(model) * len(decoder_layers(model)) ** 0.5)


def _one_rounding(model: PreTrainedModel) -> float:
    """The largest relative error of one rounding.

    Some models of few bits round activations to 8 bits, which is as coarse as bfloat16.
    """
    coarse = getattr(model, "is_quantized", False)
    return torch.finfo(torch.bfloat16 if coarse else model.dtype).eps / 2


class Tried(NamedTuple):
    """How much the worst token differs from the model's own forward pass, and how much rounding explains."""

    difference: float
    allowed: float


@torch.inference_mode()
def prove(
    model: PreTrainedModel, name: str, texts: Sequence[np.ndarray], layer: int, parts: Sequence[str]
) -> dict[str, float]:
    """Try ``parts`` (keys of PARTS) on ``texts`` (ids). Gives the relative difference of each part.

    It is that of the token that differs most, for what rounding explains there. In a mixture of experts, a
    share OUTLYING of each text's tokens is left out. Tokens without a row in the embedding are left out, too.
    ``name`` names the model in errors. ``layer`` is the 0-based block that is harvested and changed. Raises
    UserError for the first part that fails, or that differs from the model's own forward pass by more than
    rounding.
    """
    rows = embedding_rows(model)
    texts = [text[text < rows] for text in texts]
    found = {}
    for part in parts:
        compare, todo = PARTS[part]
        try:
            difference, most = compare(model, texts, layer)
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except UserError as error:
            raise UserError(f"{name}: {part}: {error}") from None
        except Exception as error:  # unknown families fail in every way
            why = f"{type(error).__name__}: {first_line(error)}"
            raise UserError(f"{name}: {part} fails with {type(model).__name__} ({why}); {todo}") from error
        if not difference <= most:  # NaN is refused, too
            problem = f"{part} with {type(model).__name__} differs from the model's own forward pass"
            raise UserError(f"{name}: {problem} by {difference:.3g}, allowed: {most:.3g} (relative); {todo}")
        found[part] = difference
    return found


def _harvest(model: PreTrainedModel, texts: Sequence[np.ndarray], layer: int) -> Tried:
    """Activations of a padded batch, or logits from them if ``layer`` is the last block."""
    ids, real = (part.to(device_of_inputs(model)) for part in padded(texts))
    found = run_to_layer(model, ids, layer)[real]
    if layer == len(decoder_layers(model)) - 1:  # hidden_states has the final norm applied here
        return _difference(model, texts, head_logits(model, found), lambda: _own_logits(model, texts))
    return _difference(
        model, texts, found, lambda: torch.cat([_own_stream(model, text, layer) for text in texts])
    )


def _head(model: PreTrainedModel, texts: Sequence[np.ndarray], _layer: int) -> Tried:
    """Logits from the last block's output."""
    last = len(decoder_layers(model)) - 1
    found = [head_logits(model, run_to_layer(model, _row(model, text), last)[0]) for text in texts]
    return _difference(model, texts, torch.cat(found), lambda: _own_logits(model, texts))


def _patching(model: PreTrainedModel, texts: Sequence[np.ndarray], layer: int) -> Tried:
    """Logits after the activations of a padded batch were changed and the model was resumed."""
    ids, real = (part.to(device_of_inputs(model)) for part in padded(texts))
    hidden, change = run_to_layer(model, ids, layer), _push(model, texts, layer)
    patched = hidden + change.added.to(hidden)
    found = head_logits(model, resume_from_layer(model, patched, ids, layer)[real])
    return _difference(model, texts, found, lambda: _own_logits(model, texts, layer, change))


def _steering(model: PreTrainedModel, texts: Sequence[np.ndarray], layer: int) -> Tried:
    """Answers, and logits on what follows the prompts, without a change and with one from token 1 on."""
    changes = [Change.nothing(model.config.get_text_config().hidden_size), _push(model, texts, layer)]
    following = torch.tensor(np.stack([text[:FOLLOWING] for text in texts]))
    whole = [np.concatenate(pair) for pair in zip(texts, following.numpy(), strict=True)]
    ends = [range(FOLLOWING + 1)] * len(texts)
    known, tried = read(model, texts, layer, [1] * len(texts), following), []
    for change, found in zip(changes, answer(model, known, changes, NEW_TOKENS), strict=True):

        def own(change: Change = change) -> Tensor:
            logits = [_own_logits(model, [row], layer, change, 1)[-FOLLOWING - 1 :] for row in whole]
            return torch.cat(logits)

        logits = head_logits(model, found.predicting.flatten(0, 1))
        tried.append(_difference(model, ends, logits, own))
        tried.append(_doubt(model, texts, found.answers, layer, change, 1))
    return _most(tried)


def _perplexity(model: PreTrainedModel, texts: Sequence[np.ndarray], _layer: int) -> Tried:
    """-log p of answers that are given: the beginnings of the other texts."""
    answers = [text[:NEW_TOKENS] for text in texts[::-1]]
    found, own = answer_nats(model, texts, answers), []
    for text, said in zip(texts, answers, strict=True):
        logits = _own_logits(model, [np.concatenate([text, said])])[len(text) - 1 : -1]
        target = torch.from_numpy(said).long().to(device_of_inputs(model))
        own.append(functional.cross_entropy(logits.float(), target, reduction="sum").item())
    return Tried(float(np.abs(found / np.array(own) - 1).max()), allowed(model))


def _generation(model: PreTrainedModel, texts: Sequence[np.ndarray], layer: int) -> Tried:
    """Greedy answers to prompts of different lengths at once."""
    nothing = Change.nothing(model.config.get_text_config().hidden_size)
    return _doubt(model, texts, greedy(model, texts, NEW_TOKENS), layer, nothing)


# What jobs do with a model -> how it is compared, and what to do if it fails.
_UNSUPPORTED = "this family is not supported, so choose another model"
PARTS: dict[str, tuple[Callable[[PreTrainedModel, Sequence[np.ndarray], int], Tried], str]] = {
    "harvest": (_harvest, _UNSUPPORTED),
    "head": (_head, _UNSUPPORTED),
    "patching": (_patching, "leave out the section causal"),
    "steering": (_steering, "leave out the section steering"),
    "perplexity": (_perplexity, "leave out the section steering"),
    "generation": (_generation, "leave out the section behaviour, and set causal.answers: dataset"),
}


def _row(model: PreTrainedModel, text: np.ndarray) -> Tensor:
    return torch.from_numpy(text).long().to(device_of_inputs(model))[None]


def _own_logits(
    model: PreTrainedModel,
    texts: Iterable[np.ndarray],
    layer: int = 0,
    change: Change | None = None,
    start: int = 0,
) -> Tensor:
    """The logits of all tokens by ``forward`` alone, text after text: (tokens, vocabulary).

    ``change`` applies to the output of block ``layer`` from position ``start`` of each text on.
    """
    found = []
    for text in texts:
        rows = Change.nothing(1) if change is None else change
        changes = Change(*(part.to(device_of_inputs(model))[None] for part in rows))
        steered = torch.arange(len(text), device=device_of_inputs(model))[None] >= start
        with changing(model, layer, changes, steered):
            found.append(model(input_ids=_row(model, text), use_cache=False).logits[0])
    return torch.cat(found)


def _push(model: PreTrainedModel, texts: Sequence[np.ndarray], layer: int) -> Change:
    """Add a random vector, half as long as the median activation of the shortest text."""
    norm = run_to_layer(model, _row(model, texts[0]), layer)[0].float().norm(dim=1).median().cpu()
    width = model.config.get_text_config().hidden_size
    vector = torch.randn(width, generator=torch.Generator().manual_seed(0))
    return Change.add(0.5 * norm * vector / vector.norm())


def _own_stream(model: PreTrainedModel, text: np.ndarray, layer: int) -> Tensor:
    """The output of block ``layer``, not the last one, by ``forward`` alone: (tokens, d_model).

    In most families hidden_states begins with the embeddings. In a few (Mamba) it begins with block 0.
    """
    first: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        first.append(output[0] if isinstance(output, tuple) else output)

    handle = decoder_layers(model)[0].register_forward_hook(keep)
    try:
        row = _row(model, text)
        states = model(input_ids=row, use_cache=False, output_hidden_states=True).hidden_states
    finally:
        handle.remove()
    begins = next((at for at in (1, 0) if torch.equal(states[at].to(first[0].device), first[0])), None)
    if begins is None:
        raise UserError("its hidden_states do not hold the output of its first block")
    return states[begins + layer][0].to(row.device)


def _difference(
    model: PreTrainedModel, texts: Sequence[Sized], found: Tensor, own: Callable[[], Tensor]
) -> Tried:
    """||found - own|| / ||own|| of rows (tokens, anything), text after text: the worst of all tokens.

    ``own`` runs the model. A token may differ by what is ``allowed``. Some tokens of some models amplify
    rounding. They may differ SENSITIVE times as much as the model's own pass differs from itself if every
    block's input is rounded once more, DRAWS times at random.
    """
    reference, lengths = own(), [len(text) for text in texts]
    sizes = _relative(found, reference)
    limits = torch.full_like(sizes, allowed(model))
    tried = _worst(model, sizes.split(lengths), limits.split(lengths))
    if tried.difference <= tried.allowed:
        return tried
    own_ones = torch.stack([_relative(again, reference) for again in _rounded_more(model, own)])
    limits = torch.fmax(limits, SENSITIVE * own_ones.amax(dim=0))  # no limit is NaN
    return _worst(model, sizes.split(lengths), limits.split(lengths))


def _relative(found: Tensor, own: Tensor) -> Tensor:
    found, own = found.float(), own.float()
    return (found - own).norm(dim=1) / own.norm(dim=1)


def _rounded_more(model: PreTrainedModel, own: Callable[[], Tensor]) -> Iterator[Tensor]:
    """Yield what ``own`` gives if every block's input is off by up to one rounding, DRAWS times."""
    for seed in range(DRAWS):
        with _noise(model, torch.Generator().manual_seed(seed)):
            yield own()


@contextmanager
def _noise(model: PreTrainedModel, generator: torch.Generator) -> Iterator[None]:
    one = _one_rounding(model)

    def off(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        stream, *others = inputs
        draw = torch.rand(stream.shape, generator=generator).to(stream.device)
        return ((stream.float() * (1 + one * (2 * draw - 1))).to(stream.dtype), *others)

    handles = [block.register_forward_pre_hook(off) for block in decoder_layers(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _doubt(
    model: PreTrainedModel,
    prompts: Sequence[np.ndarray],
    answers: Sequence[np.ndarray],
    layer: int,
    change: Change,
    start: int = 0,
) -> Tried:
    """How far the logits of greedy answers lie below the best ones of the model's own pass.

    In standard deviations of a token's logits, divided by CLOSE. 0 if each token is the most likely one. A
    token that lies too far below counts by the pass where it does best, of those of ``_rounded_more``, too.
    """

    def below() -> Tensor:
        found = []
        for prompt, said in zip(prompts, answers, strict=True):
            whole = np.concatenate([prompt, said[:-1]])
            logits = _own_logits(model, [whole], layer, change, start)[len(prompt) - 1 :].float()
            chosen = logits.gather(1, _row(model, said).T)[:, 0]
            found.append((logits.max(dim=1).values - chosen) / logits.std(dim=1) / CLOSE)
        return torch.cat(found)

    sizes, lengths = below(), [len(said) for said in answers]
    limits = torch.full_like(sizes, allowed(model)).split(lengths)
    tried = _worst(model, sizes.split(lengths), limits)
    if tried.difference <= tried.allowed:
        return tried
    sizes = torch.stack([sizes, *_rounded_more(model, below)]).amin(dim=0)  # NaN if one is NaN
    return _worst(model, sizes.split(lengths), limits)


def _worst(model: PreTrainedModel, sizes: Sequence[Tensor], limits: Sequence[Tensor]) -> Tried:
    """The size that is the largest share of its limit. Both have a value per token for each text.

    NaN counts as the largest. In a mixture of experts, a share OUTLYING of each text's tokens is left out.
    """
    routed = any(part in name for name, _ in model.named_parameters() for part in ("expert", "router", "moe"))
    kept = 1 - OUTLYING if routed else 1.0
    worst = []
    for size, limit in zip(sizes, limits, strict=True):
        share = size / limit
        token = share.argmax() if share.isnan().any() else share.argsort()[int(kept * (len(size) - 1))]
        worst.append(Tried(size[token].item(), limit[token].item()))
    return _most(worst)


def _most(tried: Sequence[Tried]) -> Tried:
    """The largest share of what is allowed. NaN counts as the largest."""
    return tried[int(np.argmax([one.difference / one.allowed for one in tried]))]
