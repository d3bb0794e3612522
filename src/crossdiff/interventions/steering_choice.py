"""Which latents are steered, and the prompts that decide it.

Latents that latent scaling confirms at 95 % come first, whatever their norm difference, because only they are
known to be the chat model's own. Then come the most chat-leaning ones. Within both, the order is by what
latents do on training prompts.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crossdiff.activations.pairs import Summary
from crossdiff.config import CHAT, TextSource
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.errors import UserError
from crossdiff.latents.applies import DOES_NOT_APPLY
from crossdiff.latents.evaluation import most_chat_leaning
from crossdiff.models.answers import openings
from crossdiff.models.forward import run_to_layer
from crossdiff.models.padding import padded
from crossdiff.models.parts import device_of_inputs
from crossdiff.models.refusals import KINDS, questions
from crossdiff.models.replacements import check_ids
from crossdiff.texts.chats import CONTENT, chat_sequence
from crossdiff.texts.chats import Sequence as TokenSequence

ROWS = 128  # prompts read at a time

# Why a latent is steered.
CONFIRMED = "confirmed by latent scaling"
TELLS = "best tells harmful from benign requests"
FIRES = "fires most on the prompts"
NAMED = "named in the config"


class Asked(NamedTuple):
    """Prompts for answers. Each field but the last has one entry per prompt."""

    kind: list[str]  # harmful or benign; of chats, the name of their data set
    question: list[str]
    prompt: list[TokenSequence]
    kinds: tuple[str, ...] = KINDS  # that there should be

    @classmethod
    def of(
        cls, requests_file: Mapping[str, Any], part: str, phrasings: int, tokenizer: PreTrainedTokenizerBase
    ) -> "Asked":
        """Take all requests of one ``part`` (train, held_out) of the parsed requests file.

        Each is asked in the first ``phrasings`` of the file's phrasings.
        """
        asked = [
            (kind, question) for kind in KINDS for question in questions(requests_file, kind, part, phrasings)
        ]
        prompts = []
        for _, question in asked:
            chat = [{"role": "user", "content": question}]
            prompts.append(chat_sequence(chat, tokenizer, f"request {question!r}", ask=True))
        return cls([kind for kind, _ in asked], [question for _, question in asked], prompts)

    @classmethod
    def of_chats(
        cls,
        source: TextSource,
        name: str,
        split: str,
        count: int,
        longest: int,
        tokenizer: PreTrainedTokenizerBase,
        archive: str | None = None,
    ) -> "Asked":
        """Take the first ``count`` different openings of one ``split`` (train, validation) of a data set.

        Raises UserError if there are fewer of at most ``longest`` tokens.
        """
        key = "steering.conversations"
        found = openings(source, name, tokenizer, count, longest, archive, split, key)
        prompts = [prompt for _, prompt in found]
        words = [prompt.token[prompt.template == CONTENT] for prompt in prompts]
        return cls([name] * count, [str(tokenizer.decode(ids)) for ids in words], prompts, (name,))


@torch.inference_mode()
def candidates(
    base: PreTrainedModel,
    chat: PreTrainedModel,
    crosscoder: Crosscoder,
    summary: Summary,
    betas: pd.DataFrame,
    asked: Asked,
    top: int,
    named: Sequence[int] = (),
) -> pd.DataFrame:
    """Rank latents for steering, the best first, and say which are steered and why.

    Candidates are the live latents that latent scaling confirms at 95 %, and the ``top`` most chat-leaning
    ones. ``asked`` should hold training prompts, since held-out ones are for measuring. Latents that never
    fired in the training text are left out, because their strengths have no unit. The first candidate is
    steered, and so are the ``named`` latents. Those that are no candidates stand at the end. Columns:

    - latent, relative_norm_difference, confirmed_95; does_not_apply says why there is no difference
    - harmful, benign: mean activation on the tokens of each kind of request. Of chats it is ``on_prompts``
    - score: the norm of the chat direction in the raw residual stream, times |harmful - benign| or
      on_prompts. A latent that fires on benign requests is as related to refusal as one that fires on harmful
      ones.
    - chosen_because: why a latent is steered; missing for the others

    Raises UserError if a kind has no prompt, or no token of its prompts counts.
    """
    means = _mean_activations(base, chat, crosscoder, summary, asked)
    first, *others = means.values()
    norm = crosscoder.decoder_norms()[:, CHAT] / crosscoder.scale[CHAT]
    score = (first - others[0]).abs() * norm if others else first * norm
    measured = pd.DataFrame({"latent": range(crosscoder.latents), **means, "score": score})
    columns = ["latent", "relative_norm_difference", "confirmed_95", DOES_NOT_APPLY]
    table = betas[[name for name in columns if name in betas]].merge(measured, on="latent")
    fired = betas[(betas.max_activation > 0) & (betas["class"] != "dead")]
    sure = set(fired.latent[fired.confirmed_95.fillna(False).astype(bool)])
    ranked = table.assign(sure=table.latent.isin(sure)).sort_values(
        ["sure", "score", "latent"], ascending=[False, False, True]
    )
    ranked = ranked[ranked.sure | ranked.latent.isin(most_chat_leaning(fired, top).latent)]
    why = dict.fromkeys(named, NAMED)
    for row in ranked.head(1).itertuples():
        why[row.latent] = CONFIRMED if row.sure else TELLS if others else FIRES
    rest = table.set_index("latent", drop=False).loc[[n for n in named if n not in set(ranked.latent)]]
    found = pd.concat([ranked.drop(columns="sure"), rest], ignore_index=True)
    return found.assign(chosen_because=found.latent.map(why).astype(object))


def _mean_activations(
    base: PreTrainedModel, chat: PreTrainedModel, crosscoder: Crosscoder, summary: Summary, asked: Asked
) -> dict[str, Tensor]:
    """Mean activation of each latent on the words of prompts, (latents,), by the name of the column."""
    key = "behaviour.requests" if asked.kinds == KINDS else "steering.prompts"
    _check_kinds(asked.kinds, asked.kind, key, "train requests")
    ids, content = _requests(asked)
    pair = torch.stack([_activations(model, ids, crosscoder.layer)[content] for model in (base, chat)], dim=1)
    counts = summary.counts(content.nonzero()[:, 1].numpy(), pair.norm(dim=2).T.numpy())
    codes = crosscoder.encode(crosscoder.normalise(pair[torch.from_numpy(counts)]))
    kind = np.repeat(asked.kind, content.sum(dim=1))[counts]
    keys = "activations.skip_first, activations.max_norm_ratio"
    _check_kinds(asked.kinds, kind, keys, "tokens of train requests that count")
    columns = asked.kinds if asked.kinds == KINDS else ("on_prompts",)
    return {
        column: codes[torch.from_numpy(kind == name)].mean(dim=0)
        for column, name in zip(columns, asked.kinds, strict=True)
    }


def _check_kinds(wanted: Sequence[str], kinds: Sequence[str] | np.ndarray, key: str, what: str) -> None:
    for kind in wanted:
        if kind not in kinds:
            why = "the steered latent is chosen by them"
            raise UserError(f"{key}: found no {kind} {what}, allowed: at least one, because {why}")


def _requests(asked: Asked) -> tuple[Tensor, Tensor]:
    """Prompts padded on the right, and a mask of the requests' own tokens: both (prompts, positions)."""
    ids, real = padded([prompt.token for prompt in asked.prompt])
    content = np.concatenate([prompt.template == CONTENT for prompt in asked.prompt])
    return ids, real.masked_scatter(real, torch.from_numpy(content))


def _activations(model: PreTrainedModel, ids: Tensor, layer: int) -> Tensor:
    """Output of block ``layer``, (prompts, positions, d_model) float32 on the CPU."""
    check_ids(model, ids.numpy())
    parts = (run_to_layer(model, part.to(device_of_inputs(model)), layer) for part in ids.split(ROWS))
    return torch.cat([part.float().cpu() for part in parts])
