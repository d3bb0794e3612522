"""Steering (docs/method.md 13): what a latent does to the chat model's answers when it is turned up, turned down or taken out.

Scale. The crosscoder sees (x_chat - mean_chat) scale_chat, so on the scale of the raw residual stream an activation f of latent j adds
f d_j with d_j = decoder_j^chat / scale_chat. Strength s adds s f_max d_j, f_max being the latent's largest activation in the training
text: 1 is as strong as training text ever makes it. Ablation takes the whole component along d_j away: h - <h, d_j> d_j / |d_j|^2.
Both act at the layer of the crosscoder, at every token of prompt and answer but the first ones, on which no crosscoder was trained.

Controls get the same added norm: other latents' chat directions, and random ones.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from crossdiff.activations.pairs import Summary
from crossdiff.config import CHAT, SteeringGrid
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.errors import UserError
from crossdiff.interventions.steered_answers import Change
from crossdiff.latents.evaluation import most_chat_leaning
from crossdiff.models.forward import run_to_layer
from crossdiff.models.padding import padded
from crossdiff.models.refusals import KINDS, questions
from crossdiff.texts.chats import CONTENT, chat_sequence
from crossdiff.texts.chats import Sequence as TokenSequence

ROWS = 128  # prompts read at a time


class Asked(NamedTuple):
    """Requests, ready for an answer."""

    kind: list[str]  # harmful or benign
    question: list[str]
    prompt: list[TokenSequence]

    @classmethod
    def of(cls, requests_file: Mapping[str, Any], part: str, phrasings: int, tokenizer) -> "Asked":
        """All requests of one ``part`` (train, held_out) of the parsed requests file, in its first ``phrasings``."""
        asked = [
            (kind, question) for kind in KINDS for question in questions(requests_file, kind, part, phrasings)
        ]
        prompts = [
            chat_sequence(
                [{"role": "user", "content": question}], tokenizer, f"request {question!r}", ask=True
            )
            for _, question in asked
        ]
        return cls([kind for kind, _ in asked], [question for _, question in asked], prompts)


# Which latent.


@torch.inference_mode()
def refusal_latents(
    base: PreTrainedModel,
    chat: PreTrainedModel,
    crosscoder: Crosscoder,
    summary: Summary,
    betas: pd.DataFrame,
    asked: Asked,
    top: int,
) -> pd.DataFrame:
    """The ``top`` most chat-leaning live latents, the most refusal-related first: whose activation best tells harmful from benign requests.
    Latents that never fired in the training text are left out: their strengths have no unit.

    Looked at are the tokens of the requests themselves (training requests: held-out ones only measure). Columns: latent,
    relative_norm_difference, harmful and benign (mean activation on these tokens), score: |harmful - benign| times the norm of the chat
    direction in the raw residual stream. A latent that fires on what is harmless is as much related to refusal as one that fires on harm.

    Raises UserError where either kind has no training request, or none of whose tokens counts: nothing tells the two apart.
    """
    _check_both_kinds(asked.kind, "behaviour.requests", "train requests")
    ids, content = _requests(asked)
    pair = torch.stack([_activations(model, ids, crosscoder.layer)[content] for model in (base, chat)], dim=1)
    counts = summary.counts(content.nonzero()[:, 1].numpy(), pair.norm(dim=2).T.numpy())
    codes = crosscoder.encode(crosscoder.normalise(pair[torch.from_numpy(counts)]))
    kind = np.repeat(asked.kind, content.sum(dim=1))[counts]
    _check_both_kinds(
        kind, "activations.skip_first, activations.max_norm_ratio", "tokens of train requests that count"
    )
    harmful, benign = (codes[torch.from_numpy(kind == name)].mean(dim=0) for name in KINDS)
    score = (harmful - benign).abs() * crosscoder.decoder_norms()[:, CHAT] / crosscoder.scale[CHAT]
    table = pd.DataFrame(
        {"latent": range(crosscoder.latents), "harmful": harmful, "benign": benign, "score": score}
    )
    candidates = most_chat_leaning(betas[betas.max_activation > 0], top)[
        ["latent", "relative_norm_difference"]
    ]
    return candidates.merge(table, on="latent").sort_values(
        ["score", "latent"], ascending=[False, True], ignore_index=True
    )


def _check_both_kinds(kinds: Sequence[str] | np.ndarray, key: str, what: str) -> None:
    for kind in KINDS:
        if kind not in kinds:
            raise UserError(
                f"{key}: found no {kind} {what}, allowed: at least one, to choose the steered latent by"
            )


def _requests(asked: Asked) -> tuple[Tensor, Tensor]:
    """Prompts padded on the right, and where the request's own tokens are, both (prompts, positions)."""
    ids, real = padded([prompt.token for prompt in asked.prompt])
    content = np.concatenate([prompt.template == CONTENT for prompt in asked.prompt])
    return ids, real.masked_scatter(real, torch.from_numpy(content))


def _activations(model: PreTrainedModel, ids: Tensor, layer: int) -> Tensor:
    """(prompts, positions, d_model) float32 on the CPU."""
    return torch.cat(
        [run_to_layer(model, part.to(model.device), layer).float().cpu() for part in ids.split(ROWS)]
    )


# Directions.


class Direction(NamedTuple):
    """A latent, or what is steered in its place as a control."""

    latent: int  # that is meant, also by its controls
    kind: str  # latent, random latent or random direction
    number: int  # of the latent whose direction it is; of the random direction
    unit: Tensor  # (d_model,): what strength 1 adds to the raw residual stream


def directions(
    crosscoder: Crosscoder, betas: pd.DataFrame, latent: int, settings: SteeringGrid
) -> list[Direction]:
    """``latent``, other live latents and random directions, all of the same norm. Raises UserError for a latent that never fired."""
    largest = float(betas.set_index("latent").max_activation.get(latent, 0))
    if not largest > 0:
        raise UserError(
            f"steering: latent {latent} never fired in the training text, so its strengths have no unit; name another"
        )
    raw = crosscoder.decoder[:, CHAT].float() / crosscoder.scale[CHAT]
    unit = largest * raw[latent]
    live = betas[(betas["class"] != "dead") & (betas.latent != latent)].latent.to_numpy()
    generator = np.random.default_rng([settings.seed, latent])
    others = np.sort(generator.choice(live, min(settings.random_latents, len(live)), replace=False))
    random = torch.from_numpy(generator.normal(size=(settings.random_directions, crosscoder.d_model))).to(
        unit
    )
    return [
        Direction(latent, "latent", latent, unit),
        *(Direction(latent, "random latent", int(other), _of_norm(raw[other], unit)) for other in others),
        *(
            Direction(latent, "random direction", number, _of_norm(row, unit))
            for number, row in enumerate(random, 1)
        ),
    ]


def _of_norm(direction: Tensor, like: Tensor) -> Tensor:
    return direction / direction.norm() * like.norm()


def check_latents(latents: Sequence[int], crosscoder: Crosscoder, name: str) -> None:
    """Raises UserError when one of the latents that the config names does not exist."""
    for latent in latents:
        if latent >= crosscoder.latents:
            raise UserError(
                f"steering.latents.{name}: found {latent}, allowed: 0 to {crosscoder.latents - 1}"
            )


class Condition(NamedTuple):
    """One direction at one strength, or ablated, or nothing at all."""

    change: str  # add, ablate or none
    strength: float  # NaN where ablated
    direction: Direction | None

    def apply(self, width: int) -> Change:
        if self.direction is None:
            return Change.nothing(width)
        return (
            Change.add(self.strength * self.direction.unit)
            if self.change == "add"
            else Change.ablate(self.direction.unit)
        )

    def columns(self) -> dict[str, Any]:
        latent, kind, number, unit = self.direction or (pd.NA, "none", pd.NA, torch.zeros(1))
        norm = abs(self.strength) * float(unit.norm())
        return {
            "latent": latent,
            "direction": kind,
            "number": number,
            "change": self.change,
            "strength": self.strength,
            "norm": norm,
        }


def conditions(steered: Sequence[Direction], strengths: Sequence[float]) -> list[Condition]:
    """Nothing first, then every direction at every strength, from low to high, and ablated."""
    found = [Condition("none", 0.0, None)]
    for direction in steered:
        found += [Condition("add", strength, direction) for strength in sorted(strengths)]
        found.append(Condition("ablate", float("nan"), direction))
    return found
