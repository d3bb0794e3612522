"""Steering (docs/method.md 13): what the chat model answers when a latent is turned up, down or off.

Scale. The crosscoder sees (x_chat - mean_chat) scale_chat. So on the scale of the raw residual stream, an
activation f of latent j adds f d_j, with d_j = decoder_j^chat / scale_chat. Strength s adds s f_max d_j,
where f_max is the latent's largest activation in the training text. Strength 1 is as strong as training text
ever makes the latent. Ablation removes the whole component along d_j: h - <h, d_j> d_j / |d_j|^2. Both act at
the crosscoder's layer, at all tokens of prompt and answer except the first ones, on which crosscoders are not
trained.

Controls add a vector of the same norm, along other latents' chat directions or along random directions.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crossdiff.activations.pairs import Summary
from crossdiff.config import CHAT, SteeringGrid
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.errors import UserError
from crossdiff.interventions.changes import Change
from crossdiff.latents.applies import DOES_NOT_APPLY
from crossdiff.latents.evaluation import most_chat_leaning
from crossdiff.models.forward import run_to_layer
from crossdiff.models.padding import padded
from crossdiff.models.parts import device_of_inputs
from crossdiff.models.refusals import KINDS, questions
from crossdiff.models.replacements import check_ids
from crossdiff.texts.chats import CONTENT, chat_sequence
from crossdiff.texts.chats import Sequence as TokenSequence

ROWS = 128  # prompts read at a time


class Asked(NamedTuple):
    """Requests as prompts. Each field has one entry per request."""

    kind: list[str]  # harmful or benign
    question: list[str]
    prompt: list[TokenSequence]

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


# The choice of the latent.


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
    """Rank latents by how well they tell harmful from benign requests, the best first.

    Candidates are the ``top`` most chat-leaning live latents. The activations are those on the tokens of the
    requests themselves. ``asked`` should hold training requests, since held-out ones are for measuring.
    Latents that never fired in the training text are left out, because their strengths have no unit. Columns:

    - latent, relative_norm_difference; does_not_apply says why there is none, if there is none
    - harmful, benign: mean activation on the tokens of each kind of request
    - score: |harmful - benign| times the norm of the chat direction in the raw residual stream. A latent that
      fires on benign requests is as related to refusal as one that fires on harmful ones.

    Raises UserError if a kind has no request, or no token of its requests counts.
    """
    _check_both_kinds(asked.kind, "behaviour.requests", "train requests")
    ids, content = _requests(asked)
    pair = torch.stack([_activations(model, ids, crosscoder.layer)[content] for model in (base, chat)], dim=1)
    counts = summary.counts(content.nonzero()[:, 1].numpy(), pair.norm(dim=2).T.numpy())
    codes = crosscoder.encode(crosscoder.normalise(pair[torch.from_numpy(counts)]))
    kind = np.repeat(asked.kind, content.sum(dim=1))[counts]
    keys = "activations.skip_first, activations.max_norm_ratio"
    _check_both_kinds(kind, keys, "tokens of train requests that count")
    harmful, benign = (codes[torch.from_numpy(kind == name)].mean(dim=0) for name in KINDS)
    score = (harmful - benign).abs() * crosscoder.decoder_norms()[:, CHAT] / crosscoder.scale[CHAT]
    table = pd.DataFrame(
        {"latent": range(crosscoder.latents), "harmful": harmful, "benign": benign, "score": score}
    )
    leaning = most_chat_leaning(betas[betas.max_activation > 0], top)
    named = [name for name in ("latent", "relative_norm_difference", DOES_NOT_APPLY) if name in leaning]
    candidates = leaning[named].merge(table, on="latent")
    return candidates.sort_values(["score", "latent"], ascending=[False, True], ignore_index=True)


def _check_both_kinds(kinds: Sequence[str] | np.ndarray, key: str, what: str) -> None:
    for kind in KINDS:
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


# Directions.


class Direction(NamedTuple):
    """The direction of a latent, or of a control for it."""

    latent: int  # the latent, also for its controls
    kind: str  # latent, random latent or random direction
    number: int  # number of the latent that has this direction, or of the random direction
    unit: Tensor  # (d_model,): the vector that strength 1 adds to the raw residual stream


def directions(
    crosscoder: Crosscoder, betas: pd.DataFrame, latent: int, settings: SteeringGrid
) -> list[Direction]:
    """The direction of ``latent`` and its controls, all of the same norm.

    Controls are random other live latents and random directions. Raises UserError if ``latent`` never fired.
    """
    largest = float(betas.set_index("latent").max_activation.get(latent, 0))
    if not largest > 0:
        why = "never fired in the training text, so its strengths have no unit"
        raise UserError(f"steering: latent {latent} {why}; name another one")
    raw = crosscoder.decoder[:, CHAT].float() / crosscoder.scale[CHAT]
    unit = largest * raw[latent]
    live = betas[(betas["class"] != "dead") & (betas.latent != latent)].latent.to_numpy()
    generator = np.random.default_rng([settings.seed, latent])
    others = np.sort(generator.choice(live, min(settings.random_latents, len(live)), replace=False))
    drawn = generator.normal(size=(settings.random_directions, crosscoder.d_model))
    random = torch.from_numpy(drawn).to(unit)
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
    """Raise UserError if one of ``latents`` does not exist in the crosscoder ``name`` of the config."""
    highest = crosscoder.latents - 1
    for latent in latents:
        if latent > highest:
            raise UserError(f"steering.latents.{name}: found {latent}, allowed: 0 to {highest}")


class Condition(NamedTuple):
    """One way to steer: add a direction at some strength, ablate it, or change nothing."""

    change: str  # add, ablate or none
    strength: float  # in units of ``direction.unit``; NaN for ablation
    direction: Direction | None  # None for the change none

    def apply(self, width: int) -> Change:
        """The change of a residual stream of ``width`` dimensions."""
        if self.direction is None:
            return Change.nothing(width)
        unit = self.direction.unit
        return Change.add(self.strength * unit) if self.change == "add" else Change.ablate(unit)

    def columns(self) -> dict[str, Any]:
        """The condition's columns in tables. ``norm`` is the norm of the added vector, NaN for ablation."""
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
    """List all conditions: no change, then each direction at each strength, from low to high, and ablated."""
    found = [Condition("none", 0.0, None)]
    for direction in steered:
        found += [Condition("add", strength, direction) for strength in sorted(strengths)]
        found.append(Condition("ablate", float("nan"), direction))
    return found
